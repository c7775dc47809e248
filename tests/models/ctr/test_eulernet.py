from itertools import pairwise

import pytest
import torch
from torch.nn.utils.parametrize import register_parametrization

from recbench.models.base import parameter_count
from recbench.models.ctr.eulernet import EulerLayer, EulerNet
from recbench.tasks.ctr import Field, FieldSpace


@pytest.mark.parametrize(
    ("n_fields", "n_ids", "dim", "shape", "layer_norm", "logged"),
    [
        (10, 5_389, 10, (52,), True, 108_889),
        (3, 90_239, 10, (52,), True, 920_520),
        (39, 910_708, 16, (39, 39), True, 15_358_906),
        (22, 1_298_599, 10, (40, 40, 40), False, 13_403_321),
    ],
    ids=["frappe", "movielens-tag", "criteo", "avazu"],
)
def test_parameter_counts_of_the_authors_runs(n_fields, n_ids, dim, shape, layer_norm, logged):
    """Their code also counts what it never uses.

    A padding row a field; four batch normalisations over fields a layer, two before and two after it; and the layer
    normalisations where they are switched off.
    """
    fields = FieldSpace(Field(str(n), False, 2, 2 * n) for n in range(n_fields))
    model = EulerNet(EulerNet.Config(embedding_dim=dim, shape=shape, layer_norm=layer_norm), fields)
    trained = parameter_count(model) + (n_ids - fields.n_ids) * dim
    unused = n_fields * dim + sum(4 * (before + after) for before, after in pairwise([n_fields, *shape]))
    if not layer_norm:
        unused += 4 * dim * len(shape)
    assert trained + unused == logged


def layer(inputs, outputs, dim=5, **values):
    values = {"explicit_dropout": 0.0, "implicit_dropout": 0.0, "layer_norm": False} | values
    return EulerLayer(inputs, outputs, dim, **values)


def explicit_only(made):
    made.bias.data.zero_()
    made.linear.weight.data.zero_()
    made.linear.bias.data.fill_(-1.0)
    return made


def test_the_explicit_part_is_a_product_of_complex_powers():
    torch.manual_seed(0)
    made = explicit_only(layer(3, 2))
    made.orders.data = torch.tensor([[1.0, 2.0], [1.0, 0.0], [0.0, -1.0]])
    parts = torch.randn(2, 4, 3, 5)
    z = torch.complex(parts[0], parts[1])
    expected = torch.stack([z[:, 0] * z[:, 1], z[:, 0] ** 2 / z[:, 2]], 1)
    found = made(parts)
    torch.testing.assert_close(torch.complex(found[0], found[1]), expected, rtol=1e-4, atol=1e-4)


def test_the_implicit_part_maps_both_parts_alike():
    torch.manual_seed(0)
    made, parts = layer(3, 2), torch.randn(2, 4, 3, 5)
    added = made(parts)
    weight, bias = made.linear.weight.clone(), made.linear.bias.clone()
    made.linear.weight.data.zero_()
    made.linear.bias.data.zero_()
    for number in range(2):
        implicit = (parts[number].flatten(1) @ weight.T + bias).relu().view(4, 2, 5)
        torch.testing.assert_close(added[number] - made(parts)[number], implicit, rtol=1e-4, atol=1e-4)


def test_biases_scale_and_turn():
    made, parts = explicit_only(layer(1, 1)), torch.randn(2, 4, 1, 5)
    made.bias.data[0] = 0.5
    made.bias.data[1] = 1.0
    found = made(parts)
    turned = torch.complex(parts[0], parts[1]) * torch.exp(torch.tensor(0.5 + 1.0j))
    torch.testing.assert_close(torch.complex(found[0], found[1]), turned, rtol=1e-4, atol=1e-4)


def test_equal_shapes_start_as_the_identity_and_others_by_choosing():
    torch.manual_seed(0)
    assert torch.equal(layer(4, 4).orders, torch.eye(4))
    orders = layer(4, 6).orders
    torch.testing.assert_close(orders.sum(0), torch.ones(6))
    assert (orders.max(0).values > 0.4).all()


def test_without_interactions_it_is_linear_in_cosines_and_sines(make, rows):
    """Moduli of one and the identity: the logit is a linear function of the cosines and sines of the embeddings."""
    model = make(EulerNet, shape=(4,), layer_norm=False)
    explicit_only(model.layers[0])
    phases = model.embedding(rows).flatten(1)
    expected = (phases.cos() + phases.sin()) @ model.output.weight[0] + 2 * model.output.bias
    torch.testing.assert_close(model(rows), expected, rtol=1e-4, atol=1e-4)
    model.modulus.data.fill_(3.0)
    scaled = 3 * (expected - 2 * model.output.bias) + 2 * model.output.bias
    torch.testing.assert_close(model(rows), scaled, rtol=1e-4, atol=1e-4)


def test_layer_normalisation_is_over_the_dims_of_a_feature():
    made = layer(3, 2, dim=50, layer_norm=True)
    found = made(torch.randn(2, 4, 3, 50))
    torch.testing.assert_close(found.mean(3), torch.zeros(2, 4, 2), atol=1e-5, rtol=0)


def test_all_other_parameters_have_a_penalty_of_their_own(make):
    model = make(EulerNet, embedding_l2=0.0, net_l2=2.0)
    expected = sum(
        parameter.square().sum() for name, parameter in model.named_parameters() if name != "embedding.weight"
    )
    torch.testing.assert_close(model.penalty(), expected)
    both = make(EulerNet, embedding_l2=4.0, net_l2=2.0)
    torch.testing.assert_close(
        both.penalty() - expected, 2 * both.embedding.weight.square().sum(), rtol=1e-4, atol=1e-3
    )


def test_gates_on_the_tables_are_not_penalised(make):
    """Those that a procedure puts there, whose parameters are among the model's."""
    model = make(EulerNet, embedding_l2=0.0, net_l2=2.0)
    before = model.penalty()
    gate = torch.nn.Linear(model.config.embedding_dim, model.config.embedding_dim)
    register_parametrization(model.embedding, "weight", gate)
    assert torch.equal(model.penalty(), before)


@pytest.mark.parametrize("dropout", ["explicit_dropout", "implicit_dropout"])
def test_dropout_acts_in_training_only(make, rows, dropout):
    model = make(EulerNet, **{dropout: 0.5})
    assert torch.equal(model(rows), model(rows))
    model.train()
    assert not torch.equal(model(rows), model(rows))


@pytest.mark.parametrize("layer_norm", [True, False])
def test_predictions_do_not_depend_on_the_batch(make, check_batch_size, layer_norm):
    check_batch_size(make(EulerNet, shape=(6, 5), layer_norm=layer_norm))
