import pytest
import torch

from recbench.models.base import parameter_count
from recbench.models.ctr.armnet import ARMNet
from recbench.models.ctr.armnetplus import ARMNetPlus
from recbench.tasks.ctr import Field, FieldSpace


@pytest.mark.parametrize(
    ("n_fields", "heads", "neurons", "hidden", "expected"),
    [
        pytest.param(10, 4, 4, (300, 300), 262_957, id="Frappe, 263K in the paper"),
        pytest.param(3, 1, 8, (300, 300), 217_425, id="MovieLens, 217K"),
        pytest.param(22, 8, 8, (200, 200, 200), 338_981, id="Avazu, 339K"),
        pytest.param(39, 4, 32, (500, 500), 1_348_933, id="Criteo, 1.3M"),
        pytest.param(43, 8, 64, (300,), 1_696_365, id="Diabetes130, 1.7M"),
    ],
)
def test_parameter_counts_of_the_paper(n_fields, heads, neurons, hidden, expected):
    """Table 2, without both tables."""
    fields = FieldSpace(Field(str(n), False, 2, 2 * n) for n in range(n_fields))
    config = ARMNetPlus.Config(embedding_dim=10, num_heads=heads, num_neurons=neurons, hidden=hidden)
    assert parameter_count(ARMNetPlus(config, fields)) - 2 * fields.n_ids * 10 == expected


def test_is_half_of_each_before_training(make, rows):
    model = make(ARMNetPlus)
    deep = model.deep(model.deep_embedding(rows).flatten(1)).squeeze(1)
    torch.testing.assert_close(model(rows), (ARMNet.forward(model, rows) + deep) / 2)


def test_the_embeddings_are_apart(make, rows):
    model = make(ARMNetPlus)
    before = ARMNet.forward(model, rows)
    model.deep_embedding.weight.data.zero_()
    assert torch.equal(ARMNet.forward(model, rows), before)


def test_both_tables_are_penalised(make):
    model = make(ARMNetPlus, embedding_l2=2.0)
    expected = model.embedding.weight.square().sum() + model.deep_embedding.weight.square().sum()
    torch.testing.assert_close(model.penalty(), expected)


def test_predictions_do_not_depend_on_the_batch(make, check_batch_size):
    check_batch_size(make(ARMNetPlus))
