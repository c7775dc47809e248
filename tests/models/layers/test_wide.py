"""Wide products are those of torch's own linear layers, aligned or not."""

import pytest
import torch

from recbench.models.layers.wide import WideLinear, wide_linear

WIDTH = 7


@pytest.mark.parametrize("n_out", [15, 16])
def test_a_wide_layer_is_a_linear_layer(n_out: int) -> None:
    torch.manual_seed(0)
    wide, plain = WideLinear(WIDTH, n_out), torch.nn.Linear(WIDTH, n_out)
    plain.load_state_dict(wide.state_dict())
    gradients = []
    x = torch.randn(6, WIDTH, requires_grad=True)
    for layer in (wide, plain):
        output = layer(x)
        gradients.append(torch.autograd.grad(output.square().sum(), [x, *layer.parameters()]))
    torch.testing.assert_close(wide(x), plain(x))
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("n_out", [15, 16])
def test_a_product_without_bias(n_out: int) -> None:
    x, weight = torch.randn(6, WIDTH, requires_grad=True), torch.randn(n_out, WIDTH, requires_grad=True)
    product = wide_linear(x, weight)
    torch.testing.assert_close(product, x @ weight.T)
    wide = torch.autograd.grad(product.square().sum(), [x, weight])
    torch.testing.assert_close(wide, torch.autograd.grad((x @ weight.T).square().sum(), [x, weight]))
