"""SASRec: its equations in numpy, what a state depends on, and that its losses agree where they must."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional

from recbench.errors import UsageError
from recbench.models.layers import sequence
from recbench.models.layers.losses import GBCE
from recbench.models.sequential import sasrec
from recbench.models.sequential.sasrec import SASRec
from recbench.training.optimizers import make_optimizer

ROWS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3], [7]]


def make(data, **config):
    torch.manual_seed(0)
    settings = {"embedding_dim": 8, "max_length": 6, "dropout": 0.0, "batch_size": 3} | config
    model = SASRec(SASRec.Config(**settings), data).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)  # biases and scales that show
    return model


def normalised(x, layer):
    centred = x - x.mean(1, keepdims=True)
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    return centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-8) * weight + bias


def linear(x, layer):
    return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def expected_states(model, row):
    """The paper's equations for one sequence, with loops over heads and positions."""
    dim, heads = model.config.embedding_dim, model.config.heads
    first = model.config.max_length - len(row)
    position = model.position.weight.detach().numpy()[first:]
    x = np.sqrt(dim) * model.item.weight.detach().numpy()[row] + position
    for block in model.blocks:
        q = normalised(x, block.attention_norm)
        queries, keys, values = linear(q, block.query), linear(x, block.key), linear(x, block.value)
        attended = np.zeros_like(x)
        for head in range(heads):
            own = slice(head * dim // heads, (head + 1) * dim // heads)
            for t in range(len(row)):
                logits = keys[: t + 1, own] @ queries[t, own] / np.sqrt(dim / heads)
                weights = np.exp(logits) / np.exp(logits).sum()
                attended[t, own] = weights @ values[: t + 1, own]
        y = normalised(q + attended, block.forward_norm)
        x = y + linear(np.maximum(linear(y, block.feed_forward[0]), 0), block.feed_forward[3])
    return normalised(x, model.norm)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("rows_at_once", [1, 2, 16])
def test_states_are_the_paper_s(data, make_sequences, monkeypatch, heads, rows_at_once):
    monkeypatch.setattr(sasrec, "SEQUENCES_AT_ONCE", {"cpu": rows_at_once})
    model = make(data, heads=heads)
    expected = np.concatenate([expected_states(model, row) for row in ROWS])
    found = model.states(make_sequences(ROWS)).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_with_and_without_dropout_of_weights_is_one(data, make_sequences, heads):
    """So small a probability drops nothing, but takes the way of training."""
    model = make(data, heads=heads)
    plain = model.states(make_sequences(ROWS))
    for block in model.blocks:
        block.weight_dropout.p = 1e-15
    torch.testing.assert_close(model.states(make_sequences(ROWS)), plain, rtol=0, atol=1e-12)


def test_a_state_knows_nothing_of_what_comes_later(data, make_sequences):
    model = make(data)
    changed = [[3, 1, 4, 8, 0], *ROWS[1:]]
    before, after = (model.states(make_sequences(rows)) for rows in (ROWS, changed))
    assert torch.equal(before[:3], after[:3])
    assert not torch.isclose(before[3:5], after[3:5]).all(1).any()
    assert torch.equal(before[5:], after[5:])


def test_only_items_that_are_read_or_sampled_get_a_gradient(data):
    model = make(data)
    batch = next(model.batches(data).epoch(torch.Generator().manual_seed(0)))
    model.loss(batch).backward()
    used = torch.cat([batch.sequences.items, batch.positives, batch.negatives.flatten()]).unique()
    assert model.item.weight.grad.any(1).nonzero().flatten().tolist() == used.tolist()
    longest = max(batch.sequences.sizes)
    assert model.position.weight.grad.any(1).tolist() == [False] * (6 - longest) + [True] * longest


def test_the_loss_is_the_paper_s(data):
    model = make(data)
    batch = next(model.batches(data).epoch(torch.Generator().manual_seed(0)))
    bounds = np.cumsum([0, *batch.sequences.sizes])
    items = batch.sequences.items.numpy()
    rows = [items[start:end] for start, end in pairwise(bounds)]
    states = np.concatenate([expected_states(model, row) for row in rows])
    table = model.item.weight.detach().numpy()
    positive = (states * table[batch.positives]).sum(1)
    negative = (states * table[batch.negatives[:, 0]]).sum(1)
    expected = (np.log1p(np.exp(-positive)) + np.log1p(np.exp(negative))).mean() / 2
    assert float(model.loss(batch).detach()) == pytest.approx(expected, rel=1e-9)


def test_scores_are_of_the_last_state_of_the_last_items(data, make_batch):
    model = make(data).eval()
    rows = [[5, 3], [], [0, 8, 3, 1, 4, 1, 5, 9, 2]]
    found = model.score(make_batch(rows)).detach().numpy()
    table = model.item.weight.detach().numpy()
    np.testing.assert_allclose(found[0], expected_states(model, rows[0])[-1] @ table.T, atol=1e-9)
    np.testing.assert_allclose(found[2], expected_states(model, rows[2][-6:])[-1] @ table.T, atol=1e-9)
    assert not found[1].any()
    assert not model.score(make_batch([[], []])).any()


def losses(data, batch_of_other=None, **config):
    """Return the loss of the first batch and its gradients."""
    model = make(data, **config)
    batch = batch_of_other or next(model.batches(data).epoch(torch.Generator().manual_seed(0)))
    loss = model.loss(batch)
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in model.parameters()], batch


def assert_same(one, other, tolerance=1e-9):
    torch.testing.assert_close(one[0], other[0], rtol=tolerance, atol=0)
    for left, right in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-10)


def test_uncalibrated_gbce_is_bce(data):
    plain = losses(data, num_negatives=4)
    assert_same(losses(data, plain[2], loss="gbce", calibration=0.0, num_negatives=4), plain)
    assert GBCE(1.0, data.n_items).beta(torch.zeros(3, 4), None) == pytest.approx(4 / (data.n_items - 1))


def test_all_items_as_the_sample_give_the_full_cross_entropy(data):
    full = losses(data, loss="softmax", sampler="all", temperature=0.5)
    model = make(data, loss="softmax", sampler="all", temperature=0.5)
    with torch.no_grad():
        scored = model.scored(full[2])
        sampled = model.criterion(scored.positive, scored.negative, full[2])
        logits = model.states(full[2].sequences) @ model.item.weight.T / 0.5
    torch.testing.assert_close(sampled, full[0], rtol=1e-9, atol=0)
    torch.testing.assert_close(functional.cross_entropy(logits, full[2].positives), full[0], rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    "config",
    [
        {"loss": "softmax", "sampler": "all"},
        {"loss": "bce", "num_negatives": 3},
        {"loss": "gbce", "num_negatives": 1},
        {"loss": "softmax", "num_negatives": 3},
        {"loss": "softmax", "num_negatives": 5, "sampler": "shared"},
        {"loss": "softmax", "num_negatives": 5, "sampler": "popularity"},
        {"loss": "bce", "num_negatives": 2, "sampler": "hard", "candidates": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("cost", [1, 100], ids=["looked-up", "product"])
def test_memory_that_is_bounded_changes_nothing(data, monkeypatch, config, cost):
    """Blocks of positions and products with the whole table give the loss and the gradients of one piece."""
    monkeypatch.setattr(sequence, "LOOKUP_COST", 1)
    whole = losses(data, **config)
    monkeypatch.setattr(sequence, "LOOKUP_COST", cost)
    monkeypatch.setattr(sequence, "SCORES_AT_ONCE", {"cpu": 25})
    assert_same(losses(data, **config), whole)


@pytest.mark.parametrize(
    "config", [{}, {"loss": "softmax", "sampler": "all"}, {"loss": "gbce", "num_negatives": 16}], ids=str
)
def test_learns_which_item_follows_which(learns_the_cycle, cycles, config):
    torch.manual_seed(0)
    settings = {"embedding_dim": 16, "max_length": 20, "batch_size": 50} | config
    assert learns_the_cycle(SASRec(SASRec.Config(**settings), cycles), 15) > 0.8


def test_trains_with_the_authors_momenta(data):
    (stage,) = make(data).procedure(data)
    (group,) = make_optimizer(stage.steps[0]).param_groups
    assert group["betas"] == (0.9, 0.98)


def test_heads_share_the_width():
    with pytest.raises(UsageError, match="heads: expected a divisor of embedding_dim = 50, found 3"):
        SASRec.Config.parse({"heads": 3}, "the test")


def test_a_length_beyond_memory_is_refused():
    with pytest.raises(UsageError, match=r"max_length: Input should be less than or equal to 10000, found 200000"):
        SASRec.Config.parse({"max_length": 200_000}, "the given values")
