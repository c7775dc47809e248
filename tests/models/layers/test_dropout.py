import pytest
import torch

from recbench.models.layers.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_drops_that_share_and_keeps_the_mean(p):
    torch.manual_seed(1)
    ones = torch.ones(1003, 997)
    out = Dropout(p)(ones)
    # Four standard errors of a share of a million elements.
    assert abs(float((out == 0).double().mean()) - p) < 4 * (p * (1 - p) / ones.numel()) ** 0.5
    assert out.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=2e-4)


def test_neighbours_fall_independently():
    torch.manual_seed(2)
    kept = Dropout(0.5)(torch.ones(2**20)) > 0
    for distance in (1, 2, 3, 4, 8):
        together = (kept[distance:] == kept[:-distance]).double().mean()
        assert abs(float(together) - 0.5) < 4 * 0.5 / 2**10


def test_gradient_passes_where_it_is_kept():
    torch.manual_seed(3)
    x = torch.randn(50, 7, requires_grad=True)
    out = Dropout(0.3)(x)
    out.sum().backward()
    torch.testing.assert_close(x.grad * x.detach(), out.detach())


def test_follows_the_global_generator():
    outs = []
    for _ in range(2):
        torch.manual_seed(4)
        outs.append(Dropout(0.5)(torch.ones(100)))
    assert torch.equal(*outs)


@pytest.mark.parametrize("layer", [Dropout(0.0), Dropout(0.5).eval()])
def test_does_nothing_at_zero_and_in_evaluation(layer):
    x = torch.randn(9)
    assert torch.equal(layer(x), x)
