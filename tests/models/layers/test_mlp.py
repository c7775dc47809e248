import math

import numpy as np
import pytest
import torch

from recbench.models.base import parameter_count
from recbench.models.layers.mlp import MLP, linear


def test_equals_numpy():
    torch.manual_seed(0)
    mlp = MLP(4, (5, 3), 2)
    x = torch.randn(7, 4)
    value = x.numpy()
    layers = [layer for layer in mlp if isinstance(layer, torch.nn.Linear)]
    for layer in layers[:-1]:
        value = np.maximum(value @ layer.weight.detach().numpy().T + layer.bias.detach().numpy(), 0)
    value = value @ layers[-1].weight.detach().numpy().T + layers[-1].bias.detach().numpy()
    np.testing.assert_allclose(mlp(x).detach().numpy(), value, rtol=1e-5, atol=1e-6)


def test_order_of_a_hidden_layer():
    mlp = MLP(4, (5,), 1, dropout=0.5, batch_norm=True)
    assert [type(layer).__name__ for layer in mlp] == ["Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear"]


def test_without_hidden_layers_it_is_linear():
    assert [type(layer).__name__ for layer in MLP(4, (), 1, dropout=0.5)] == ["Linear"]


@pytest.mark.parametrize("batch_norm", [False, True])
def test_parameter_count(batch_norm):
    expected = (10 * 8 + 8) + (8 * 6 + 6) + (6 + 1) + batch_norm * 2 * (8 + 6)
    assert parameter_count(MLP(10, (8, 6), 1, batch_norm=batch_norm)) == expected


def test_initial_weights_are_xavier_normal():
    torch.manual_seed(0)
    layer = linear(600, 400)
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 1000), rel=0.01)
    assert not layer.bias.any()


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    mlp = MLP(4, (50,), 1, dropout=0.5)
    x = torch.randn(3, 4)
    assert not torch.equal(mlp(x), mlp(x))
    mlp.eval()
    assert torch.equal(mlp(x), mlp(x))
