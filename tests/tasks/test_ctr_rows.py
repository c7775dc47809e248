"""Batches of training rows of click models."""

import pytest
import torch

from recbench.tasks.ctr import CTRBatch, CTRData, Field, FieldSpace


def data(n_rows):
    fields = FieldSpace([Field("row", False, n_rows, 0)])
    return CTRData(fields, CTRBatch(torch.arange(n_rows)[:, None], {}, torch.zeros(n_rows)))


@pytest.mark.parametrize(("n_rows", "sizes"), [(12, [4, 4, 4]), (14, [4, 4, 4, 2]), (13, [4, 4, 4]), (1, [1])])
def test_the_last_batch_has_more_than_one_row_where_there_are_any(n_rows, sizes):
    epochs = [list(data(n_rows).rows(4).epoch(torch.Generator().manual_seed(seed))) for seed in range(20)]
    seen = [torch.cat([batch.ids.flatten() for batch in epoch]) for epoch in epochs]
    assert all([len(batch) for batch in epoch] == sizes for epoch in epochs)
    assert all(len(rows.unique()) == sum(sizes) for rows in seen)
    # The one left out is another one each epoch.
    assert len(torch.cat(seen).unique()) == n_rows


def test_taken_rows_keep_fields_and_labels():
    taken = data(10).take(torch.tensor([3, 1]))
    assert len(taken) == 2
    assert taken.all_rows().ids.flatten().tolist() == [3, 1]
