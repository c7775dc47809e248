import pytest
import torch
from torch.nn import functional

from recbench.models.layers.attention import SHORT, attend, softmax
from recbench.models.layers.dropout import Dropout

KEYS = [1, 7, SHORT - 1, SHORT, 40]


def parts(n_keys, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(3, 2, n, 5, generator=generator, dtype=dtype).requires_grad_() for n in (4, n_keys, n_keys)
    ]  # query, key, value


@pytest.mark.parametrize("n_keys", KEYS)
def test_attention_is_torchs(n_keys):
    query, key, value = parts(n_keys)
    expected = functional.scaled_dot_product_attention(query, key, value, scale=0.3)
    found = attend(query, key, value, scale=0.3, dropout=Dropout(0.0))
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    for ours, torchs in zip(
        torch.autograd.grad((found * weights).sum(), (query, key, value)),
        torch.autograd.grad((expected * weights).sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(ours, torchs)


@pytest.mark.parametrize("n_keys", KEYS)
def test_large_scores_do_not_overflow(n_keys):
    scores = 1e4 * torch.randn(6, n_keys, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(softmax(scores), scores.softmax(-1))


def test_masked_keys_have_no_weight():
    scores = torch.tensor([[0.0, torch.finfo(torch.float32).min, 1.0], [-torch.inf, 2.0, -torch.inf]])
    assert softmax(scores)[0, 1] == 0
    assert softmax(scores)[1].tolist() == [0, 1, 0]


def test_half_precision_gives_single():
    scores = torch.randn(6, 7, generator=torch.Generator().manual_seed(1)).bfloat16()
    assert softmax(scores).dtype == torch.float32
    torch.testing.assert_close(softmax(scores), scores.float().softmax(-1))


@pytest.mark.parametrize("n_keys", [SHORT - 1, SHORT])
def test_weights_are_dropped_in_training_only(n_keys):
    query, key, value = parts(n_keys)
    dropout = Dropout(0.25)
    torch.manual_seed(0)
    mean = sum(attend(query, key, value, scale=1.0, dropout=dropout) for _ in range(4000)) / 4000
    whole = attend(query, key, value, scale=1.0, dropout=dropout.eval())
    torch.testing.assert_close(mean, whole, atol=0.08, rtol=0)
    assert not torch.equal(attend(query, key, value, scale=1.0, dropout=dropout.train()), whole)
