import pytest
import torch

from recbench.models.base import parameter_count
from recbench.models.ctr.gdcn import GDCN, GatedCrossNet
from recbench.models.layers.cross import CrossNetV2


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
def test_parameter_count_on_frappe(frappe, structure):
    """By the equations: two matrices and a bias a layer; x_L goes to the output where the perceptron is beside it."""
    config = GDCN.Config(embedding_dim=10, num_layers=3, hidden=(400, 400, 400), structure=structure)
    cross = 3 * (2 * 100**2 + 100)
    perceptron = 100 * 400 + 2 * 400**2 + 3 * 400
    output = 400 + 1 + (100 if structure == "parallel" else 0)
    assert parameter_count(GDCN(config, frappe)) == 53_890 + cross + perceptron + output


def test_closed_halfway_it_is_a_cross_network_of_half_products():
    """sigmoid(0) = 1/2, on the bias too."""
    torch.manual_seed(0)
    gated, plain, x0 = GatedCrossNet(6, 3), CrossNetV2(6, 3), torch.randn(4, 6)
    for number, (layer, other) in enumerate(zip(gated.layers, plain.layers, strict=True)):
        layer.weight.data[6:] = 0.0
        other.weight.data = layer.weight.data[:6] / 2
        other.bias.data = gated.bias.data[number] / 2
    torch.testing.assert_close(gated(x0), plain(x0))


def test_layers_follow_the_equation():
    net, x0 = GatedCrossNet(6, 2), torch.randn(4, 6)
    x = x0
    for number, layer in enumerate(net.layers):
        crossed, gate = layer.weight.split(6)
        x = x0 * (x @ crossed.T + net.bias[number]) * torch.sigmoid(x @ gate.T) + x
    torch.testing.assert_close(net(x0), x)


def test_biases_start_between_zero_and_one():
    bias = GatedCrossNet(500, 2).bias
    assert ((bias >= 0) & (bias <= 1)).all()
    assert 0.45 < bias.mean() < 0.55


def test_perceptron_stands_beside_the_cross_network_or_on_it(make, rows):
    model = make(GDCN, structure="parallel")
    x0 = model.embedding(rows).flatten(1)
    expected = model.output(torch.cat([model.cross(x0), model.mlp(x0)], 1)).squeeze(1)
    torch.testing.assert_close(model(rows), expected)
    model = make(GDCN, structure="stacked")
    torch.testing.assert_close(model(rows), model.output(model.mlp(model.cross(x0))).squeeze(1))


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
def test_predictions_do_not_depend_on_the_batch(make, check_batch_size, structure):
    check_batch_size(make(GDCN, structure=structure, dropout=0.5, batch_norm=True, embedding_dim=4))
