import numpy as np
import pytest
import torch

from recbench.errors import RecbenchError
from recbench.tasks import ctr

NAME = "ctr/ml-100k"


class Weights:
    """A logit from single- and multi-valued fields."""

    def __init__(self, n_ids):
        self.weight = torch.randn(n_ids, 1, generator=torch.Generator().manual_seed(0))

    def __call__(self, batch):
        genres = batch.multi["genres"]
        bags = torch.nn.functional.embedding_bag(genres.values, self.weight, genres.offsets[:-1], mode="mean")
        return self.weight[batch.ids].sum((1, 2)) + bags.squeeze(1)


@pytest.fixture(scope="module")
def task(task_of):
    return task_of(NAME)


def test_does_not_depend_on_the_block_size(task, parts_of, monkeypatch):
    model, part = Weights(task.fields.n_ids), parts_of(NAME, "valid")
    whole = task.evaluate(model, part)
    monkeypatch.setattr(ctr, "ROWS_AT_ONCE", 777)
    blocked = task.evaluate(model, part)
    assert whole.metrics == pytest.approx(blocked.metrics, abs=1e-9)
    np.testing.assert_allclose(whole.tables().predictions["score"], blocked.tables().predictions["score"], atol=1e-9)


def test_does_not_depend_on_the_order_of_rows(task, parts_of):
    model, part = Weights(task.fields.n_ids), parts_of(NAME, "valid")
    order = np.random.default_rng(0).permutation(len(part["labels"]))
    mixed = {name: part[name][order] for name in ("ids", "labels", "groups")}
    lengths = np.diff(part["genres_offsets"])[order]
    mixed["genres_offsets"] = np.concatenate([[0], np.cumsum(lengths)])
    mixed["genres_values"] = np.concatenate(
        [part["genres_values"][part["genres_offsets"][row] : part["genres_offsets"][row + 1]] for row in order]
    )
    there, here = task.evaluate(model, mixed), task.evaluate(model, part)
    assert there.metrics == pytest.approx(here.metrics, abs=1e-9)


def test_a_constant_prediction_separates_nothing(task, parts_of):
    metrics = task.evaluate(lambda batch: torch.zeros(len(batch)), parts_of(NAME, "valid")).metrics
    assert metrics["auc"] == 0.5
    assert metrics["logloss"] == pytest.approx(np.log(2))


def test_an_epoch_has_every_row_once(task, parts_of):
    train = parts_of(NAME, "train")
    batches = list(task.data.rows(5000).epoch(torch.Generator().manual_seed(0)))
    ids = torch.cat([batch.ids for batch in batches]).numpy()
    order, expected = np.lexsort(ids.T), np.lexsort(train["ids"].T)
    np.testing.assert_array_equal(ids[order], train["ids"][expected])
    # Genres belong to the item: every row still has those of its own.
    item = [field.name for field in task.fields.single].index("item")
    genres_of = {}
    for row in range(2000):
        low, high = train["genres_offsets"][row : row + 2]
        genres_of[int(train["ids"][row, item])] = train["genres_values"][low:high].tolist()
    for batch in batches[:2]:
        offsets, values = batch.multi["genres"].offsets.tolist(), batch.multi["genres"].values.tolist()
        for row in range(500):
            known = genres_of.get(int(batch.ids[row, item]))
            assert known is None or values[offsets[row] : offsets[row + 1]] == known


def test_ids_stay_inside_their_fields(task, parts_of):
    for part in ("train", "valid", "test"):
        arrays = parts_of(NAME, part)
        for column, field in enumerate(task.fields.single):
            ids = arrays["ids"][:, column]
            assert field.offset <= ids.min() <= ids.max() < field.offset + field.size
            assert part != "train" or ids.min() > field.offset  # nothing in training is unseen


@pytest.mark.parametrize(
    ("forward", "sentence"),
    [
        (lambda batch: torch.zeros(len(batch), 1), "expected"),
        (lambda batch: torch.full((len(batch),), torch.nan), "NaN or infinite"),
    ],
)
def test_refuses_wrong_predictions(task, parts_of, forward, sentence):
    with pytest.raises(RecbenchError, match=sentence):
        task.evaluate(forward, parts_of(NAME, "valid"))


def test_finds_rows_of_the_training_part(task, parts_of):
    assert task.lint(parts_of(NAME, "test")).findings == ()
    train = parts_of(NAME, "train")
    upto = train["genres_offsets"][3]
    repeated = {"ids": train["ids"][:3], "labels": train["labels"][:3], "genres_values": train["genres_values"][:upto]}
    (finding,) = task.lint(repeated | {"genres_offsets": train["genres_offsets"][:4]}).findings
    assert finding.message == "3 of 3 test rows have the same fields as a training row"
    assert not finding.severe
