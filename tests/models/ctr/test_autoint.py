import pytest
import torch

from recbench.models.base import parameter_count
from recbench.models.ctr.autoint import AutoInt
from recbench.tasks.ctr import CTRData, Field, FieldSpace


def test_parameter_count_of_the_paper():
    """3.9e4 in table 3, on the 39 fields of Criteo, without the embeddings."""
    fields = FieldSpace(Field(str(n), False, 2, 2 * n) for n in range(39))
    config = AutoInt.Config(embedding_dim=16, head_dim=32, num_heads=2, num_layers=3, hidden=())
    assert parameter_count(AutoInt(config, fields)) - fields.n_ids * 16 == 39_361


def test_parameter_count_of_fuxictr_on_frappe(frappe):
    config = AutoInt.Config(
        embedding_dim=10, head_dim=32, num_heads=4, num_layers=6, identity_residual=True, hidden=(), wide=False
    )
    assert parameter_count(AutoInt(config, frappe)) == 306_051


def test_parameter_count_of_autoint_plus_of_fuxictr_on_frappe(frappe):
    # BARS logs 622,180: two more than this for each unit of the perceptron, whose layers there are batch-normalised.
    config = AutoInt.Config(
        embedding_dim=10,
        head_dim=32,
        num_heads=4,
        num_layers=5,
        identity_residual=True,
        layer_norm="before",
        hidden=(400, 400, 400),
        wide=False,
    )
    assert parameter_count(AutoInt(config, frappe)) == 622_180 - 2 * 1_200


def test_without_layers_it_is_linear_in_the_concatenated_embeddings(make, rows):
    model = make(AutoInt, num_layers=0, hidden=(), wide=False)
    expected = model.embedding(rows).flatten(1) @ model.output.weight[0] + model.output.bias
    torch.testing.assert_close(model(rows), expected)


@pytest.mark.parametrize("flag", [{"hidden": (8, 8)}, {"wide": True}])
def test_perceptron_and_wide_term_are_added(make, rows, flag):
    model = make(AutoInt, **({"hidden": (), "wide": False} | flag))
    added = model.mlp(model.embedding(rows).flatten(1)) if model.mlp else model.linear(rows).sum(1)
    whole = model(rows)
    model.output.weight.data.zero_()
    model.output.bias.data.zero_()
    torch.testing.assert_close(model(rows), added.squeeze(1), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(whole, added.squeeze(1))


@pytest.mark.parametrize("dropout", ["dropout", "attention_dropout", "embedding_dropout"])
def test_dropout_acts_in_training_only(make, rows, dropout):
    model = make(AutoInt, **{dropout: 0.5}, hidden=(50,))
    assert torch.equal(model(rows), model(rows))
    model.train()
    assert not torch.equal(model(rows), model(rows))


@pytest.mark.parametrize(
    "form", [{}, {"activated": True, "scaled": True, "layer_norm": "after"}, {"hidden": (8,), "wide": True}]
)
def test_predictions_do_not_depend_on_the_batch(make, check_batch_size, form):
    check_batch_size(make(AutoInt, **form))


def test_explains_its_attention_by_field(make, rows, fields):
    model = make(AutoInt, num_layers=2)
    first, second = model.explain(CTRData(fields, rows)).parts
    weights = model.layers[0].attention(model.embedding(rows))
    assert list(first.rows) == list(first.columns) == [field.name for field in fields]
    torch.testing.assert_close(torch.tensor(first.values), weights.mean((0, 1)))
    torch.testing.assert_close(torch.tensor(second.values).sum(1), torch.ones(4))
    assert not torch.allclose(torch.tensor(first.values), torch.tensor(second.values))


def test_the_attention_it_tells_is_the_one_it_uses(make, rows):
    model = make(AutoInt, scaled=True)
    embeddings = model.embedding(rows)
    layer = model.layers[0]
    *_, value, residual = layer.projections(embeddings).split(layer.width, dim=-1)
    attended = layer.attention(embeddings) @ value.unflatten(-1, (2, -1)).transpose(1, 2)
    expected = (attended.transpose(1, 2).flatten(2) + residual).relu()
    torch.testing.assert_close(layer(embeddings), expected)
