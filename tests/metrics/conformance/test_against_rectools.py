"""RecTools 0.19 is pinned to numpy < 2 and pandas < 3, so it is no requirement of the tests.

Its metrics run on numpy 2.4 and pandas 3 all the same, but for PartialAUC and PAP, which sum a column of objects.
"""

import numpy as np
import pandas as pd
import pytest
import torch

from recbench.metrics.beyond import Catalogue, Lists, beyond_metrics, serendipity

theirs = pytest.importorskip("rectools.metrics", reason="RecTools is not installed", exc_type=ImportError)

CLOSE = {"rtol": 0, "atol": 1e-9}

SAME = {
    "recall@5": theirs.Recall(k=5),
    "recall_min@5": theirs.Precision(k=5, r_precision=True),
    "precision@5": theirs.Precision(k=5),
    "hit@5": theirs.HitRate(k=5),
    "ndcg@5": theirs.NDCG(k=5, divide_by_achievable=True),
    "mrr@5": theirs.MRR(k=5),
    "map_n@5": theirs.MAP(k=5),
}


def frame(pairs, **columns):
    """One row for each (user, item) of (P, 2)."""
    return pd.DataFrame({"user_id": pairs[:, 0].numpy(), "item_id": pairs[:, 1].numpy(), **columns})


def lists(items):
    """Lists (U, k), -1 where they are short, as rows of user, item and rank."""
    listed = (items >= 0).nonzero()
    return frame(torch.stack([listed[:, 0], items[listed[:, 0], listed[:, 1]]], 1), rank=listed[:, 1].numpy() + 1)


def per_user(metric, rankings):
    """Their values of the users who have a relevant item; it leaves out the others, as we do."""
    values = metric.calc_per_user(lists(rankings.items), frame(rankings.relevant.nonzero())).sort_index()
    assert values.index.tolist() == rankings.judged.nonzero()[:, 0].tolist()
    return values.to_numpy()


@pytest.mark.parametrize("name", SAME)
def test_metrics_of_lists(rankings, name):
    ours = rankings.values(name)[rankings.judged]
    np.testing.assert_allclose(per_user(SAME[name], rankings), ours, **CLOSE)


def test_ndcg_is_by_default_over_k_relevant_items(rankings):
    """The ideal list has k relevant items, whatever a user has: fewer than k keep ndcg below 1."""
    ideal = np.cumsum(1 / np.log2(np.arange(2, 7)))
    n = rankings.n_relevant[rankings.judged].clamp(max=5).numpy()
    ours = rankings.values("ndcg@5")[rankings.judged] * ideal[n - 1] / ideal[4]
    np.testing.assert_allclose(per_user(theirs.NDCG(k=5), rankings), ours, **CLOSE)


def test_average_precision_over_k(rankings):
    """A third denominator beside n and min(k, n)."""
    n = rankings.n_relevant[rankings.judged].clamp(max=5).numpy()
    ours = rankings.values("map@5")[rankings.judged] * n / 5
    np.testing.assert_allclose(per_user(theirs.MAP(k=5, divide_by_k=True), rankings), ours, **CLOSE)


@pytest.fixture
def catalogue(recommendations):
    genres = torch.randint(4, (recommendations.trained.shape[1],), generator=torch.Generator().manual_seed(0))
    return Catalogue(
        recommendations.trained.sum(0), len(recommendations.trained), torch.nn.functional.one_hot(genres, 4)
    )


def beyond(recommendations, catalogue, name):
    name = f"{name}@{recommendations.items.shape[1]}"
    return beyond_metrics([name], Lists(recommendations.items), catalogue)[name]


def test_coverage(recommendations, catalogue):
    k, items = recommendations.items.shape[1], range(recommendations.trained.shape[1])
    found = theirs.CatalogCoverage(k=k, normalize=True).calc(lists(recommendations.items), items)
    assert beyond(recommendations, catalogue, "coverage") == pytest.approx(found, abs=1e-9)


def test_novelty(recommendations, catalogue):
    """Mean inverse user frequency; items that nobody has count as if one user had them, in both."""
    found = theirs.MeanInvUserFreq(k=recommendations.items.shape[1]).calc_per_user(
        lists(recommendations.items), frame(recommendations.trained.nonzero())
    )
    np.testing.assert_allclose(beyond(recommendations, catalogue, "novelty"), found.sort_index(), **CLOSE)


@pytest.mark.parametrize("normalize", [False, True])
def test_popularity_is_a_count_or_a_share_of_interactions(recommendations, catalogue, normalize):
    """Here it is a share of users, so that it does not grow with the training data."""
    found = theirs.AvgRecPopularity(k=recommendations.items.shape[1], normalize=normalize).calc_per_user(
        lists(recommendations.items), frame(recommendations.trained.nonzero())
    )
    unit = int(recommendations.trained.sum()) if normalize else 1
    ours = beyond(recommendations, catalogue, "popularity") * catalogue.n_users / unit
    np.testing.assert_allclose(ours, found.sort_index(), **CLOSE)


def test_intra_list_diversity(recommendations, catalogue):
    """Items of one genre each: the Hamming distance of two genres is 2 where the cosine distance is 1."""
    genres = pd.DataFrame(catalogue.vectors.numpy())
    distance = theirs.PairwiseHammingDistanceCalculator(genres)
    found = theirs.IntraListDiversity(k=recommendations.items.shape[1], distance_calculator=distance).calc_per_user(
        lists(recommendations.items)
    )
    np.testing.assert_allclose(beyond(recommendations, catalogue, "ild"), found.sort_index() / 2, **CLOSE)


def test_intra_list_diversity_of_one_item_is_0():
    """Here it is not defined."""
    distance = theirs.PairwiseHammingDistanceCalculator(pd.DataFrame([0]))
    one = theirs.IntraListDiversity(k=5, distance_calculator=distance)
    assert one.calc_per_user(lists(torch.tensor([[0]]))).tolist() == [0]
    vectors = torch.ones(1, 1)
    ours = beyond_metrics(["ild@1"], Lists(torch.tensor([[0]])), Catalogue(torch.tensor([1]), 1, vectors))["ild@1"]
    assert ours.isnan().all()


def test_serendipity_weighs_hits_by_their_rank_in_the_list_and_by_popularity(recommendations):
    """It has no list of a popularity recommender, but max(0, rank by popularity - rank in the list) / I for each hit.

    Items of equal popularity share a rank, and the next level has the next rank. Where these weights are 0 or 1, as for
    the first place and items that nobody has, both are the share of unexpected hits.
    """
    n_users, k = recommendations.items.shape
    n_items = recommendations.trained.shape[1]
    counts = recommendations.trained.sum(0)
    level = {count: rank for rank, count in enumerate(counts[counts > 0].unique().tolist()[::-1], 1)}
    found = theirs.Serendipity(k=k).calc_per_user(
        lists(recommendations.items),
        frame(recommendations.relevant.nonzero()),
        frame(recommendations.trained.nonzero()),
        range(n_items),
    )
    nobody = torch.full((n_users, 1), -1)
    hits = recommendations.relevant.gather(1, recommendations.items)
    # Each place alone: 1 for a hit that no other list has.
    unexpected = torch.stack(
        [serendipity(recommendations.items[:, i : i + 1], hits[:, i : i + 1], nobody, n_items) for i in range(k)], 1
    )
    popular = torch.tensor([level.get(count, n_items + 1) for count in counts.tolist()])
    ahead = (popular[recommendations.items] - torch.arange(1, k + 1)).clamp(min=0).double() / n_items
    np.testing.assert_allclose((unexpected * ahead).mean(1), found.sort_index(), **CLOSE)
