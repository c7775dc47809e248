import pytest
import torch

from recbench.errors import UsageError
from recbench.models.base import parameter_count
from recbench.models.ctr.dcn import DCN
from recbench.models.ctr.dcnv2 import DCNv2
from recbench.models.ctr.dnn import DNN

CROSS = {"structure": "cross", "hidden": ()}


def test_parameter_count_on_frappe(frappe):
    config = DCNv2.Config(embedding_dim=10, num_layers=4, hidden=(400, 400, 400), batch_norm=True)
    assert parameter_count(DCNv2(config, frappe)) == 458_391


def test_parameter_count_of_crossnetv2_on_frappe(frappe):
    assert parameter_count(DCNv2(DCNv2.Config(embedding_dim=10, num_layers=4, **CROSS), frappe)) == 94_391


def test_parameter_count_of_the_low_rank_mixture(frappe):
    """A layer has K (2 N R + R^2) weights of experts and N biases; one gate of K N for all layers."""
    config = DCNv2.Config(embedding_dim=10, num_layers=4, rank=32, experts=4, **CROSS)
    layers = 4 * (4 * (2 * 100 * 32 + 32 * 32) + 100)
    assert parameter_count(DCNv2(config, frappe)) == 53_890 + layers + 4 * 100 + 101


@pytest.mark.parametrize("num_layers", [1, 3])
def test_matrices_with_equal_rows_make_it_the_first_version(make, rows, num_layers):
    """W_l = u w_l^T with u all ones, and no bias."""
    model = make(DCNv2, embedding_dim=6, num_layers=num_layers, **CROSS)
    dcn = make(DCN, embedding_dim=6, num_layers=num_layers, hidden=())
    for layer, weight in zip(model.cross.layers, dcn.cross.weight.data, strict=True):
        layer.weight.data = torch.ones(24, 1) * weight
    dcn.embedding, dcn.output = model.embedding, model.output
    torch.testing.assert_close(model.double()(rows), dcn.double()(rows))


def test_layer_has_a_bias_inside_the_product(make, rows):
    model = make(DCNv2, embedding_dim=6, num_layers=1, **CROSS)
    layer, x0 = model.cross.layers[0], model.embedding(rows).flatten(1)
    layer.weight.data.zero_()
    torch.nn.init.normal_(layer.bias)
    expected = model.output(x0 * (1 + layer.bias)).squeeze(1)
    torch.testing.assert_close(model(rows), expected, rtol=1e-4, atol=1e-4)


def test_mixture_equals_the_sum_over_gated_experts(make, rows):
    model = make(DCNv2, embedding_dim=6, num_layers=2, rank=3, experts=4, **CROSS).double()
    cross = model.cross
    torch.nn.init.normal_(cross.bias)
    x0 = x = model.embedding(rows).flatten(1)
    for layer in range(2):
        gates = (x @ cross.gate.weight.T).softmax(1)
        mixed = torch.zeros_like(x)
        for k in range(4):
            V, C, U = cross.V[layer, :, 3 * k : 3 * k + 3], cross.C[layer, k], cross.U[layer, 3 * k : 3 * k + 3].T
            projected = torch.tanh(torch.tanh(x @ V) @ C.T) @ U.T
            mixed = mixed + gates[:, k : k + 1] * x0 * (projected + cross.bias[layer])
        x = mixed + x
    torch.testing.assert_close(model(rows), model.output(x).squeeze(1))


def test_mixture_of_equal_experts_is_one_expert(make, rows):
    mixture = make(DCNv2, embedding_dim=6, num_layers=2, rank=3, experts=4, **CROSS).double()
    single = make(DCNv2, embedding_dim=6, num_layers=2, rank=3, experts=1, **CROSS).double()
    torch.nn.init.normal_(single.cross.bias)
    one, many = single.cross, mixture.cross
    many.V.data, many.C.data, many.U.data = one.V.repeat(1, 1, 4), one.C.repeat(1, 4, 1, 1), one.U.repeat(1, 4, 1)
    many.bias.data = one.bias.data
    mixture.embedding, mixture.output = single.embedding, single.output
    torch.testing.assert_close(mixture(rows), single(rows))


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
def test_is_a_perceptron_without_what_the_cross_network_adds(make, rows, structure):
    """Parallel: its output is not read. Stacked: with zero layers it hands its input on."""
    model = make(DCNv2, embedding_dim=6, hidden=(8, 5), structure=structure)
    dnn = make(DNN, embedding_dim=6, hidden=(8, 5))
    if structure == "parallel":
        model.output.weight.data[:, :24] = 0
    else:
        for layer in model.cross.layers:
            layer.weight.data.zero_()
    dnn.load_state_dict(model.state_dict(), strict=False)  # the embeddings and the hidden layers
    dnn.mlp[-1].weight.data, dnn.mlp[-1].bias.data = model.output.weight.data[:, -5:], model.output.bias.data
    torch.testing.assert_close(model(rows), dnn(rows), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("values", [{"structure": "cross"}, {"hidden": ()}, {"structure": "stacked", "hidden": ()}])
def test_structure_and_widths_must_agree(values):
    with pytest.raises(UsageError, match=r"hidden: expected .* with structure="):
        DCNv2.Config.parse(values, "the test")


@pytest.mark.parametrize("form", [{}, {"structure": "stacked"}, CROSS, {"rank": 3}])
def test_predictions_do_not_depend_on_the_batch(make, check_batch_size, form):
    check_batch_size(make(DCNv2, dropout=0.5, batch_norm=True, embedding_dim=6, **form).double())
