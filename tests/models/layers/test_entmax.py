import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from recbench.models.layers import entmax as module
from recbench.models.layers.entmax import entmax, sorting_network

ALPHAS = [1.0, 1.2, 1.5, 1.7, 2.0, 2.5, 3.0]


def drawn(*shape, scale=1.0, dtype=torch.float64):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def by_root_finding(z, alpha):
    """The definition: the tau at which the probabilities sum to 1."""
    x = (alpha - 1) * z

    def probabilities(tau):
        return np.maximum(x - tau, 0) ** (1 / (alpha - 1))

    return probabilities(brentq(lambda tau: probabilities(tau).sum() - 1, x.max() - 1.1, x.max(), xtol=1e-15))


@pytest.mark.parametrize("alpha", ALPHAS[1:])
@pytest.mark.parametrize("size", [1, 2, 3, 10, 39, 100])
def test_is_the_root_of_its_definition(alpha, size):
    z = drawn(10, size, scale=2.0)
    expected = torch.tensor(np.stack([by_root_finding(row, alpha) for row in z.numpy()]))
    tolerance = 1e-12 if alpha <= 2 else 1e-6  # the root's slope is infinite at 0 beyond
    torch.testing.assert_close(entmax(z, alpha), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_sums_to_one_in_single_precision(alpha, scale):
    p = entmax(drawn(50, 10, scale=scale, dtype=torch.float32), alpha)
    assert p.dtype == torch.float32
    assert (p >= 0).all()
    torch.testing.assert_close(p.sum(-1), torch.ones(50), rtol=0, atol=2e-6)


def test_support_shrinks_as_alpha_grows():
    """Sparsemax has exact zeros, softmax has none."""
    z = drawn(500, 10)
    sizes = [float((entmax(z, alpha) > 0).double().sum(-1).mean()) for alpha in ALPHAS]
    assert sizes[0] == 10
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)
    assert sizes[ALPHAS.index(2.0)] < 4


def test_values_by_hand():
    """Martins & Astudillo: two values t and 0 give (t + 1) / 2, cut at 0 and 1; three by hand with alpha = 1.5."""
    torch.testing.assert_close(entmax(torch.tensor([0.5, 0.0]), 2), torch.tensor([0.75, 0.25]))
    assert torch.equal(entmax(torch.tensor([1.0, 3.0, 0.5]), 2), torch.tensor([0.0, 1.0, 0.0]))
    # x = (0, -0.2, -1): (0 - tau)^2 + (-0.2 - tau)^2 = 1 has the lower root tau = -0.8, which is above -1.
    torch.testing.assert_close(entmax(torch.tensor([2.0, 1.6, 0.0]), 1.5), torch.tensor([0.64, 0.36, 0.0]))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_equal_scores_share_alike(alpha):
    torch.testing.assert_close(entmax(torch.full((3, 7), 5.0), alpha), torch.full((3, 7), 1 / 7))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("size", [1, 4, 65])
def test_gradients(alpha, size):
    z = drawn(2, size).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: entmax(z, alpha), z, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_any_dimension(alpha):
    z = drawn(4, 5, 6)
    for dim in (0, 1):
        torch.testing.assert_close(entmax(z, alpha, dim), entmax(z.movedim(dim, -1), alpha).movedim(-1, dim))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_masked_scores_get_nothing(alpha):
    z = drawn(6, 9).requires_grad_()
    masked = z.masked_fill(torch.arange(9) >= 5, -torch.inf)
    p = entmax(masked, alpha)
    torch.testing.assert_close(p[:, :5], entmax(z[:, :5], alpha))
    assert not p[:, 5:].any()
    p[:, 0].sum().backward()
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_sorting_by_network_and_by_torch_agree(alpha, monkeypatch):
    z = drawn(30, 17)
    expected = entmax(z, alpha)
    monkeypatch.setattr(module, "NETWORK_SIZE", 0)
    assert torch.equal(entmax(z, alpha), expected)


@pytest.mark.parametrize("n", range(1, 13))
def test_the_network_sorts(n):
    """By the 0-1 principle: what sorts all sequences of zeros and ones sorts everything."""
    values = np.array(list(itertools.product([0, 1], repeat=n)))
    for i, j in sorting_network(n):
        values[:, i], values[:, j] = values[:, [i, j]].max(1), values[:, [i, j]].min(1)
    assert (np.diff(values, axis=1) <= 0).all()


def test_half_precision_is_computed_in_single():
    z = drawn(4, 6).bfloat16()
    assert torch.equal(entmax(z, 2), entmax(z.float(), 2))


def test_rejects_alpha_below_one():
    with pytest.raises(ValueError, match=r"alpha: expected at least 1, found 0\.5"):
        entmax(torch.zeros(3), 0.5)
