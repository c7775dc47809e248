import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import pdist

from recbench.metrics.beyond import entropy, exposure, intra_list_diversity, miscalibration
from recbench.metrics.ranks import filtered_ranks, rank_metrics

CLOSE = {"rtol": 0, "atol": 1e-9}


@pytest.mark.parametrize("digits", [8, 1, 0])
def test_ranks_of_ties(digits):
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(60, 20, generator=generator, dtype=torch.float64).round(decimals=digits)
    known = torch.rand(60, 20, generator=generator) < 0.2
    targets = torch.randint(20, (60,), generator=generator)
    known[torch.arange(60), targets] = True
    ranks = filtered_ranks(scores, targets, known)
    ours = rank_metrics(ranks, ["mrr", "mrr_optimistic", "mrr_pessimistic", "hits@3", "hits_pessimistic@3"])
    for query, target in enumerate(targets):
        others = ~known[query]
        others[target] = True
        place = int(others[:target].sum())
        for found, method in zip(ranks, ("min", "average", "max"), strict=True):
            assert found[query] == stats.rankdata(-scores[query, others], method)[place]
        # The mean over all orders of the ties: each rank from the first to the last is as likely.
        first, last = (int(stats.rankdata(-scores[query, others], method)[place]) for method in ("min", "max"))
        orders = np.arange(first, last + 1)
        assert float(ours["mrr"][query]) == pytest.approx((1 / orders).mean(), abs=1e-9)
        assert float(ours["hits@3"][query]) == pytest.approx((orders <= 3).mean(), abs=1e-9)
        assert float(ours["mrr_optimistic"][query]) == pytest.approx(1 / first, abs=1e-9)
        assert float(ours["mrr_pessimistic"][query]) == pytest.approx(1 / last, abs=1e-9)
        assert float(ours["hits_pessimistic@3"][query]) == (last <= 3)


def test_entropy_of_exposure(recommendations):
    n_items = recommendations.trained.shape[1]
    counts = exposure(recommendations.items, n_items)
    assert entropy(counts) == pytest.approx(stats.entropy(counts) / math.log(n_items), abs=1e-9)


def test_intra_list_diversity(recommendations):
    vectors = torch.randn(recommendations.trained.shape[1], 7, generator=torch.Generator().manual_seed(2))
    ours = intra_list_diversity(recommendations.items, vectors)
    theirs = [pdist(vectors[items].double(), "cosine").mean() for items in recommendations.items]
    np.testing.assert_allclose(ours, theirs, **CLOSE)


def test_miscalibration(recommendations):
    """The Kullback-Leibler divergence from the list's genres, smoothed by a hundredth of the user's."""
    genres = torch.rand(recommendations.trained.shape[1], 5, generator=torch.Generator().manual_seed(3)).double()
    history = [row.nonzero()[:, 0] for row in recommendations.trained]
    offsets = torch.tensor([0, *map(len, history)]).cumsum(0)
    ours = miscalibration(recommendations.items, (torch.cat(history), offsets), genres)
    shares = genres / genres.sum(1, keepdim=True)
    theirs = [
        stats.entropy(wanted, 0.99 * shares[items].mean(0) + 0.01 * wanted)
        for of_user, items in zip(history, recommendations.items, strict=True)
        for wanted in [shares[of_user].mean(0)]
    ]
    np.testing.assert_allclose(ours, theirs, **CLOSE)
