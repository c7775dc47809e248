import dataclasses
import itertools

import pytest
import torch

from recbench.errors import UsageError
from recbench.models.base import parameter_count
from recbench.models.ctr.dlrm import DLRM
from recbench.models.ctr.dnn import DNN
from recbench.tasks.ctr import Field, FieldSpace

NUMBERS = [Field("age", False, 1, 40, dense=True), Field("price", False, 1, 41, dense=True)]


@pytest.fixture
def numeric(fields, rows):
    """The fields with a dense one before and one after them, and the rows with random numbers in these."""
    numbers = torch.randn(300, 2, generator=torch.Generator().manual_seed(2))
    return FieldSpace([NUMBERS[0], *fields, NUMBERS[1]]), dataclasses.replace(rows, dense=numbers)


def make_numeric(fields, **values):
    torch.manual_seed(0)
    model = DLRM(DLRM.Config(embedding_dim=6, **values), fields)
    torch.nn.init.normal_(model.embedding.weight)
    return model.eval()


def test_parameter_count_on_frappe(frappe):
    config = DLRM.Config(embedding_dim=10, interaction="cat", hidden=(400, 400, 400), batch_norm=True)
    assert parameter_count(DLRM(config, frappe)) == 417_891


def test_parameter_count_with_dense_fields(numeric):
    fields, _ = numeric
    model = make_numeric(fields, hidden=(8,), bottom_hidden=(7,))
    bottom, pairs = (2 * 7 + 7) + (7 * 6 + 6), 10
    assert parameter_count(model) == 40 * 6 + bottom + ((6 + pairs) * 8 + 8) + (8 + 1)


def test_concatenated_and_without_dense_fields_it_is_a_perceptron(make, rows):
    model, dnn = make(DLRM, interaction="cat"), make(DNN)
    dnn.load_state_dict(model.state_dict())
    assert torch.equal(model(rows), dnn(rows))


@pytest.mark.parametrize("interaction", ["dot", "cat"])
def test_the_top_reads_the_vector_of_the_numbers_and_the_interactions(numeric, interaction):
    fields, rows = numeric
    model = make_numeric(fields, interaction=interaction, bottom_hidden=(7,))
    first, last = model.bottom[0][0], model.bottom[0][-1]
    numbers = last(first(rows.dense).relu()).relu()
    vectors = [*model.embedding(rows).unbind(1), numbers]
    pairs = [(left * right).sum(1, keepdim=True) for left, right in itertools.combinations(vectors, 2)]
    inputs = torch.cat([numbers, *pairs] if interaction == "dot" else vectors, 1)
    torch.testing.assert_close(model(rows), model.mlp(inputs).squeeze(1), rtol=1e-4, atol=1e-4)


def test_without_dense_fields_the_top_reads_the_products_alone(make, rows):
    model = make(DLRM, embedding_dim=6, interaction="dot")
    assert model.bottom is None
    assert model.mlp[0].in_features == 6
    vectors = model.embedding(rows).unbind(1)
    pairs = [(left * right).sum(1) for left, right in itertools.combinations(vectors, 2)]
    expected = model.mlp(torch.stack(pairs, 1)).squeeze(1)
    torch.testing.assert_close(model(rows), expected, rtol=1e-4, atol=1e-4)


def test_needs_a_field_with_embeddings():
    with pytest.raises(UsageError, match="dlrm: expected at least one field that is not dense, found none"):
        DLRM(DLRM.Config(), FieldSpace(NUMBERS))


@pytest.mark.parametrize("interaction", ["dot", "cat"])
def test_predictions_do_not_depend_on_the_batch(numeric, interaction):
    fields, rows = numeric
    model = make_numeric(fields, interaction=interaction, dropout=0.5, batch_norm=True)
    for size in (1, 7, 300):
        parts = torch.cat([model(part) for part in rows.split(size)])
        torch.testing.assert_close(parts, model(rows), rtol=1e-4, atol=1e-4)
