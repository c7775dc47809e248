"""Top-k lists: order, ties, what does not change them, and hits."""

import math

import pytest
import torch

from recbench.errors import RecbenchError
from recbench.metrics.ranking import ranking_metrics
from recbench.metrics.topk import hits, top_k

INF = math.inf


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(7)


@pytest.fixture
def tied_scores(generator):
    """200 users x 60 items with five distinct scores and a fifth of the items seen."""
    scores = torch.randint(0, 5, (200, 60), generator=generator).float()
    return scores.masked_fill(torch.rand(200, 60, generator=generator) < 0.2, -INF)


def test_top_k_without_ties_is_topk(generator):
    scores = torch.rand(50, 80, generator=generator, dtype=torch.float64)
    items, values, tied = top_k(scores, 10, torch.arange(50))
    expected = scores.topk(10)
    assert torch.equal(items, expected.indices)
    assert torch.equal(values, expected.values)
    assert not tied.any()


def test_top_k_by_hand():
    scores = torch.tensor([[0.1, 3.0, -INF, 2.0], [1.0, 2.0, 2.0, 0.0], [4.0, -INF, -INF, -INF], [1.0, 9.0, 0.0, 1.0]])
    items, values, tied = top_k(scores, 2, torch.arange(4))
    assert items[0].tolist() == [1, 3]
    assert sorted(items[1].tolist()) == [1, 2]
    assert items[2].tolist() == [0, -1]
    assert items[3, 0] == 1
    assert items[3, 1] in (0, 3)
    assert values.tolist() == [[3, 2], [2, 2], [4, -INF], [9, 1]]
    assert tied.tolist() == [False, True, False, True]


@pytest.mark.parametrize("k", [3, 4, 6])
def test_top_k_fills_lists_longer_than_the_items(k):
    items, values, _ = top_k(torch.tensor([[1.0, 1.0, -INF]]), k, torch.tensor([5]))
    assert sorted(items[0, :2].tolist()) == [0, 1]
    assert items[0, 2:].tolist() == [-1] * (k - 2)
    assert values[0].tolist() == [1, 1] + [-INF] * (k - 2)


def test_top_k_never_returns_seen_items_and_keeps_the_order(tied_scores):
    items, values, tied = top_k(tied_scores, 20, torch.arange(200))
    assert tied.all()
    assert torch.equal(values, tied_scores.topk(20).values)
    assert torch.equal(tied_scores.gather(1, items), values)
    assert all(len(set(row)) == 20 for row in items.tolist())


def test_top_k_does_not_depend_on_batches_order_or_item_chunks(tied_scores, generator):
    users = torch.randperm(10_000, generator=generator)[:200]
    items, values, tied = top_k(tied_scores, 10, users)

    batches = [top_k(s, 10, u)[0] for s, u in zip(tied_scores.split(7), users.split(7), strict=True)]
    assert torch.equal(torch.cat(batches), items)

    order = torch.randperm(200, generator=generator)
    assert torch.equal(top_k(tied_scores[order], 10, users[order])[0], items[order])

    columns = torch.randperm(60, generator=generator)
    assert torch.equal(top_k(tied_scores[:, columns], 10, users, items=columns)[0], items)

    chunks = [top_k(tied_scores[:, c], 11, users, items=c) for c in torch.arange(60).split(25)]
    merged = top_k(torch.cat([c[1] for c in chunks], 1), 10, users, items=torch.cat([c[0] for c in chunks], 1))
    assert torch.equal(merged[0], items)
    assert torch.equal(merged[1], values)
    assert torch.equal(merged[2], tied)


def test_hash_of_ties_is_frozen():
    """Published predictions must come out the same in later versions."""
    items, _, _ = top_k(torch.zeros(2, 10), 5, torch.tensor([0, 2**40]))
    assert items.tolist() == [splitmix_order(0, 10)[:5], splitmix_order(2**40, 10)[:5]]


def splitmix_order(user, n_items):
    """The order of tied items in Python's unbounded integers."""

    def mix(x):
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    def signed(x):
        return x - 2**64 if x >= 2**63 else x

    return sorted(range(n_items), key=lambda item: -signed(mix((mix(user) + item) % 2**64)))


@pytest.mark.parametrize("first_user", [0, 10**9])
def test_constant_scorer_scores_like_a_random_one(first_user):
    n_users, n_items, k = 20_000, 200, 10
    users = torch.arange(first_user, first_user + n_users)
    items, _, tied = top_k(torch.zeros(n_users, n_items), k, users)
    assert tied.all()
    # Every item at every rank: counts are binomial; 2,000 cells stay within 5 standard errors.
    counts = torch.stack([items[:, rank].bincount(minlength=n_items) for rank in range(k)]).double()
    share = 1 / n_items
    assert ((counts - n_users * share).abs() < 5 * math.sqrt(n_users * share * (1 - share))).all()
    # Three relevant items each, next to each other as in a poor hash's patterns.
    relevant = (users[:, None] * 7 + torch.arange(3)) % n_items
    keys = (users[:, None] * n_items + relevant).flatten().sort().values
    recall = ranking_metrics(hits(items, users, keys, n_items), torch.full((n_users,), 3), ["recall@10"])["recall@10"]
    assert abs(recall.mean() - k / n_items) < 3 * recall.std() / math.sqrt(n_users)


@pytest.mark.parametrize("bad", [math.nan, INF])
def test_top_k_refuses_scores_that_are_not_numbers(bad):
    scores = torch.zeros(4, 5)
    scores[1, 2] = scores[3, 0] = bad
    with pytest.raises(RecbenchError, match="2 of 4 users contain NaN"):
        top_k(scores, 2, torch.arange(4))


def test_hits_by_hand():
    # User 0's short list ends in -1, whose key would be the last item of the user before.
    truth = torch.tensor([1 * 5 + 0, 1 * 5 + 4, 2 * 5 + 3])
    found = hits(torch.tensor([[3, 1], [4, 0], [0, -1]]), torch.tensor([2, 1, 2]), truth, 5)
    assert found.tolist() == [[True, False], [True, True], [False, False]]
    assert not hits(torch.tensor([[0, -1]]), torch.tensor([0]), truth[:0], 5).any()
