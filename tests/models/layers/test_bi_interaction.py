"""The bi-interaction layer against the same formula through autograd, and its dropout."""

import pytest
import torch
from torch.nn.functional import leaky_relu

from recbench.models.layers import bi_interaction
from recbench.models.layers.bi_interaction import BiInteraction, multipliers


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 4 rows, so that a dozen rows are several blocks and a part of one."""
    monkeypatch.setattr(bi_interaction, "ROWS_AT_ONCE", 4)


@pytest.fixture
def layer():
    torch.manual_seed(0)
    made = BiInteraction(5, 3, dropout=0.3).double()
    torch.nn.init.normal_(made.sum.bias)
    torch.nn.init.normal_(made.product.bias)
    return made


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(14, 5, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2)]


def formula(layer, nodes, messages):
    return leaky_relu(layer.sum(nodes + messages), 0.2) + leaky_relu(layer.product(nodes * messages), 0.2)


def test_values_and_all_gradients(layer, rows):
    layer.eval()
    upstream = torch.randn(14, 3, dtype=torch.float64)
    wanted = [*rows, *layer.parameters()]
    found, expected = layer(*rows), formula(layer, *rows)
    torch.testing.assert_close(found, expected)
    for one, other in zip(*(torch.autograd.grad(out, wanted, upstream) for out in (found, expected)), strict=True):
        torch.testing.assert_close(one, other)


def test_dropout_drops_whole_elements_and_their_gradients(layer, rows):
    torch.manual_seed(3)
    found = layer(*rows)
    expected = formula(layer, *rows)
    dropped = found == 0
    assert 0 < int(dropped.sum()) < 30
    torch.testing.assert_close(found, (expected / 0.7).masked_fill(dropped, 0.0), rtol=1e-4, atol=0)
    wanted = [*rows, *layer.parameters()]
    masked = (expected / 0.7).masked_fill(dropped, 0.0).sum()
    for one, other in zip(*(torch.autograd.grad(out, wanted) for out in (found.sum(), masked)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_multipliers(dropout):
    torch.manual_seed(0)
    factors = multipliers((999, 101), dropout, torch.empty(0))
    assert factors.shape == (999, 101)
    assert factors.unique().tolist() == pytest.approx([0.0, 1 / (1 - dropout)], rel=1e-4)
    deviation = (dropout * (1 - dropout) / factors.numel()) ** 0.5
    assert float((factors == 0).double().mean()) == pytest.approx(dropout, abs=4 * deviation)
    # Neighbours come from one random word: they must not go together.
    kept = (factors.flatten()[: 999 * 100] > 0).double()
    assert abs(float(torch.corrcoef(torch.stack([kept[:-1], kept[1:]]))[0, 1])) < 4 / len(kept) ** 0.5
