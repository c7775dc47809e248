"""RecBole 1.2.1 pins what does not install with current numpy, so it is no requirement of the tests."""

import numpy as np
import pytest
import torch

from recbench.metrics.beyond import Catalogue, Lists, beyond_metrics
from recbench.metrics.pointwise import by_group, log_loss_of_probabilities, pointwise_metrics
from recbench.metrics.ranking import user_auc

theirs = pytest.importorskip("recbole.evaluator", reason="RecBole is not installed", exc_type=ImportError)

CLOSE = {"rtol": 0, "atol": 1e-9}

SAME = {
    "recall@5": theirs.Recall,
    "precision@5": theirs.Precision,
    "hit@5": theirs.Hit,
    "ndcg@5": theirs.NDCG,
    "mrr@5": theirs.MRR,
    "map@5": theirs.MAP,
}


@pytest.fixture(autouse=True)
def _numpy_of_its_time(monkeypatch):
    """Its metrics use a name that numpy 1.24 removed, which its configuration puts back."""
    monkeypatch.setattr(np, "float", float, raising=False)


def make(metric, k=5, **config):
    return metric({"topk": [k], "metric_decimal_place": 15, "tail_ratio": None} | config)


def collected(**parts):
    """What its collector hands to metrics."""
    data = theirs.DataStruct()
    for name, value in parts.items():
        data.set(name.replace("_", ".", 1), value)
    return data


@pytest.mark.parametrize("name", SAME)
def test_metrics_of_lists(rankings, name):
    """Of users who have a relevant item; it makes lists for no others."""
    hits, n = rankings.hits[rankings.judged], rankings.n_relevant[rankings.judged]
    found = make(SAME[name]).calculate_metric(collected(rec_topk=torch.cat([hits[:, :5].int(), n[:, None]], 1)))
    assert np.nanmean(rankings.values(name)) == pytest.approx(found[name], abs=1e-9)


@pytest.mark.parametrize("name", ["recall@5", "ndcg@5", "map@5"])
def test_metrics_of_each_user(rankings, name):
    hits, n = rankings.hits[rankings.judged], rankings.n_relevant[rankings.judged]
    found = make(SAME[name]).metric_info(hits[:, :5].numpy(), n.numpy())[:, 4]
    np.testing.assert_allclose(rankings.values(name)[rankings.judged], found, **CLOSE)


def test_auc_of_users_is_weighted_by_their_relevant_items(rankings):
    """gauc here weighs by rows, uauc not at all."""
    others = (rankings.scores.isfinite() & ~rankings.relevant).sum(1)
    pairs = rankings.relevant.nonzero()
    ours = user_auc(rankings.scores, pairs[:, 0], pairs[:, 1])
    defined = ~ours.isnan()
    if not defined.any():
        return
    ranks = mean_ranks(rankings)
    found = make(theirs.GAUC).calculate_metric(
        collected(rec_meanrank=torch.stack([ranks, (others + rankings.n_relevant).double(), rankings.n_relevant], 1))
    )
    weights = rankings.n_relevant[defined].double()
    assert float((ours[defined] * weights).sum() / weights.sum()) == pytest.approx(found["gauc"], abs=1e-9)


def mean_ranks(rankings):
    """Sum of the ranks of each user's relevant items, ties at their mean; what is no candidate is behind all."""
    behind = rankings.scores.masked_fill(rankings.scores.isneginf(), -1e300)
    known = rankings.relevant | rankings.scores.isfinite()
    higher = ((behind[:, None, :] > behind[:, :, None]) & known[:, None, :]).sum(2)
    level = ((behind[:, None, :] == behind[:, :, None]) & known[:, None, :]).sum(2)
    ranks = higher + (level + 1).double() / 2
    return (ranks * rankings.relevant).sum(1)


POINTWISE = {"auc": theirs.AUC, "rmse": theirs.RMSE, "mae": theirs.MAE}


@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise(predictions, name):
    ours = pointwise_metrics(predictions.probabilities, predictions.labels, [name])[name]
    found = make(POINTWISE[name]).metric_info(predictions.probabilities.numpy(), predictions.labels.numpy())
    assert ours == pytest.approx(float(found), abs=1e-9)


def test_log_loss_clips_at_1e_15(predictions):
    """Here at 2.2e-16, float64's eps."""
    found = make(theirs.LogLoss).metric_info(predictions.probabilities.numpy(), predictions.labels.numpy())
    clipped = predictions.probabilities.clamp(1e-15, 1 - 1e-15)
    assert log_loss_of_probabilities(clipped, predictions.labels) == pytest.approx(found, abs=1e-9)


def test_gauc_by_positives(predictions):
    """Its weighting of the same values per user."""
    of_users = by_group(predictions.probabilities, predictions.labels, predictions.users, ["auc"])
    ids, aucs = of_users["group"], of_users["auc"]
    sums, sizes, positives = [], [], []
    for user in ids:
        rows = predictions.users == user
        p, y = predictions.probabilities[rows], predictions.labels[rows]
        ranks = (p[None] > p[:, None]).sum(1) + ((p[None] == p[:, None]).sum(1) + 1).double() / 2
        sums, sizes, positives = [*sums, (ranks * y).sum()], [*sizes, len(p)], [*positives, int(y.sum())]
    data = torch.tensor([sums, sizes, positives], dtype=torch.float64).T
    defined = ~aucs.isnan()
    if not defined.any():
        return
    weights = data[defined, 2]
    found = make(theirs.GAUC).calculate_metric(collected(rec_meanrank=data))
    assert float((aucs[defined] * weights).sum() / weights.sum()) == pytest.approx(found["gauc"], abs=1e-9)


def beyond(recommendations, name):
    name = f"{name}@{recommendations.items.shape[1]}"
    catalogue = Catalogue(recommendations.trained.sum(0), len(recommendations.trained))
    return beyond_metrics([name], Lists(recommendations.items), catalogue)[name]


def judge(recommendations, metric, **config):
    k, n_items = recommendations.items.shape[1], recommendations.trained.shape[1]
    counts = dict(enumerate(recommendations.trained.sum(0).tolist()))
    data = collected(rec_items=recommendations.items, data_num_items=n_items, data_count_items=counts)
    (value,) = make(metric, k, **config).calculate_metric(data).values()
    return value


def test_coverage_and_gini(recommendations):
    """Where the number of items is that of ours; RecBole's own counts its padding item too."""
    assert beyond(recommendations, "coverage") == pytest.approx(judge(recommendations, theirs.ItemCoverage), abs=1e-9)
    assert beyond(recommendations, "gini") == pytest.approx(judge(recommendations, theirs.GiniIndex), abs=1e-9)


def test_shannon_entropy_is_over_the_number_of_listed_items(recommendations):
    """In nats over that number, which has no range; here over the log of the number of all items, so from 0 to 1."""
    n_listed, n_items = len(recommendations.items.unique()), recommendations.trained.shape[1]
    found = judge(recommendations, theirs.ShannonEntropy)
    assert beyond(recommendations, "entropy") * np.log(n_items) / n_listed == pytest.approx(found, abs=1e-9)


def test_popularity_is_a_count(recommendations):
    ours = beyond(recommendations, "popularity").mean() * len(recommendations.trained)
    assert float(ours) == pytest.approx(judge(recommendations, theirs.AveragePopularity), abs=1e-9)


def test_tail_is_the_rarest_part_of_the_items(recommendations):
    """Its tail is the rarest tenth by default, ties by id; ours all but the most popular fifth, ties shared."""
    counts = recommendations.trained.sum(0)
    distinct = len(counts) * counts + torch.arange(len(counts))
    ours = beyond_metrics(
        [f"tail@{recommendations.items.shape[1]}"],
        Lists(recommendations.items),
        Catalogue(distinct, int(distinct.max())),
    )
    (tail,) = ours.values()
    assert float(tail.mean()) == pytest.approx(judge(recommendations, theirs.TailPercentage, tail_ratio=0.8))
