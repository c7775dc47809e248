import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from recbench.errors import RecbenchError
from recbench.metrics.calibration import ece, reliability
from recbench.metrics.pointwise import by_group, log_loss_of_probabilities, pointwise_metrics
from recbench.metrics.ranking import grouped_lists, ranking_metrics, user_auc
from recbench.metrics.ranks import filtered_ranks, rank_metrics

CLOSE = {"rtol": 0, "atol": 1e-9}

POINTWISE = {
    "auc": sk.roc_auc_score,
    "pauc.10": lambda y, p: sk.roc_auc_score(y, p, max_fpr=0.1),
    "pauc.50": lambda y, p: sk.roc_auc_score(y, p, max_fpr=0.5),
    "prauc": sk.average_precision_score,
    "logloss": sk.log_loss,
    "ne": lambda y, p: 1 - sk.d2_log_loss_score(y, p),
    "brier": sk.brier_score_loss,
    "brier_uncertainty": lambda y, p: sk.brier_score_loss(y, np.full_like(p, y.mean())),
    "mse": sk.mean_squared_error,
    "rmse": sk.root_mean_squared_error,
    "mae": sk.mean_absolute_error,
}


@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise(predictions, name):
    ours = pointwise_metrics(predictions.probabilities, predictions.labels, [name])[name]
    theirs = POINTWISE[name](predictions.labels.numpy(), predictions.probabilities.numpy())
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9)


def test_auc_of_one_class():
    """scikit-learn warns and returns NaN. Here a value per group is NaN, and a number that is not defined an error."""
    scores, ones = torch.tensor([0.1, 0.2]), torch.ones(2)
    with pytest.warns(UserWarning, match="one class"):
        assert np.isnan(sk.roc_auc_score(ones, scores))
    assert by_group(scores, ones, torch.zeros(2, dtype=torch.int64), ["auc"])["auc"].isnan()
    with pytest.raises(RecbenchError, match="both classes"):
        pointwise_metrics(scores, ones, ["auc"])


def test_area_below_the_straight_precision_recall_curve_is_another_number():
    """The trapezoidal rule over the same points interpolates precision, which no threshold attains."""
    labels, scores = torch.tensor([1, 0, 1]), torch.tensor([0.9, 0.6, 0.3])
    precision, recall, _ = sk.precision_recall_curve(labels, scores)
    assert sk.auc(recall, precision) == pytest.approx(0.5 + 0.5 * (1 / 2 + 2 / 3) / 2)
    assert pointwise_metrics(scores, labels, ["prauc"])["prauc"] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_log_loss_clips_by_the_type_of_the_predictions():
    """float32 is clipped to [1.2e-7, 1 - 1.2e-7] there; here to float64's 2.2e-16 whatever the type."""
    labels, certain = torch.tensor([0, 1]), torch.tensor([1.0, 1.0], dtype=torch.float32)
    eps = torch.finfo(torch.float32).eps
    theirs = sk.log_loss(labels.numpy(), certain.numpy())
    assert log_loss_of_probabilities(certain.double().clamp(eps, 1 - eps), labels) == pytest.approx(theirs, rel=1e-6)
    assert log_loss_of_probabilities(certain, labels) == pytest.approx(-np.log(torch.finfo(torch.float64).eps) / 2)


@pytest.mark.parametrize("bins", [5, 20])
def test_reliability_diagram_without_ties(bins):
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(1000, generator=generator, dtype=torch.float64)
    labels = (torch.rand(1000, generator=generator) < probabilities).long()
    label, prediction = calibration_curve(labels, probabilities, n_bins=bins, strategy="quantile")
    ours = reliability(probabilities, labels, bins)
    np.testing.assert_allclose(ours.prediction, prediction, **CLOSE)
    np.testing.assert_allclose(ours.label, label, **CLOSE)
    assert ece(probabilities, labels, bins) == pytest.approx(np.abs(label - prediction).mean(), abs=1e-9)


def test_brier_decomposition_without_ties():
    generator = torch.Generator().manual_seed(1)
    probabilities = torch.rand(1000, generator=generator, dtype=torch.float64)
    labels = (torch.rand(1000, generator=generator) < probabilities**2).long()
    label, prediction = calibration_curve(labels, probabilities, n_bins=20, strategy="quantile")
    ours = pointwise_metrics(probabilities, labels, ["brier_reliability", "brier_resolution", "brier_uncertainty"])
    assert ours["brier_reliability"] == pytest.approx(((label - prediction) ** 2).mean(), abs=1e-9)
    left = ours["brier_reliability"] + ours["brier_uncertainty"] - sk.brier_score_loss(labels, probabilities)
    assert ours["brier_resolution"] == pytest.approx(left, abs=1e-9)


def test_reliability_diagram_with_ties():
    """Tied rows stay in one bin there, so bins differ in size; here each side of a cut gets its share of them."""
    probabilities = torch.tensor([0.25, 0.25, 0.25, 0.25, 0.75, 0.75], dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 0, 1, 0])
    label, prediction = calibration_curve(labels, probabilities, n_bins=2, strategy="quantile")
    assert (label.tolist(), prediction.tolist()) == ([1 / 4, 1 / 2], [0.25, 0.75])
    ours = reliability(probabilities, labels, 2)
    assert ours.rows.tolist() == [3, 3]
    assert ours.label.tolist() == pytest.approx([1 / 4, (1 / 4 + 1 / 2 + 1 / 2) / 3])


def test_auc_of_groups(predictions):
    found = by_group(predictions.probabilities, predictions.labels, predictions.users, ["auc"])
    ids, sizes, _, values = found.values()
    known = []
    for group, value, size in zip(ids, values, sizes, strict=True):
        rows = predictions.users == group
        labels = predictions.labels[rows]
        assert size == rows.sum()
        if 0 < labels.sum() < len(labels):
            known.append((sk.roc_auc_score(labels, predictions.probabilities[rows]), int(size)))
            assert float(value) == pytest.approx(known[-1][0], abs=1e-9)
        else:
            assert value.isnan()
    arguments = predictions.probabilities, predictions.labels, ["gauc", "uauc"]
    if not known:
        with pytest.raises(RecbenchError, match="none of the"):
            pointwise_metrics(*arguments, groups=predictions.users)
        return
    aucs, weights = zip(*known, strict=True)
    ours = pointwise_metrics(*arguments, groups=predictions.users)
    assert ours["gauc"] == pytest.approx(np.average(aucs, weights=weights), abs=1e-9)
    assert ours["uauc"] == pytest.approx(np.average(aucs), abs=1e-9)


def test_auc_of_the_users(rankings):
    pairs = rankings.relevant.nonzero()
    ours = user_auc(rankings.scores, pairs[:, 0], pairs[:, 1])
    for value, scores, relevant in zip(ours, rankings.scores, rankings.relevant, strict=True):
        judged = relevant | scores.isfinite()
        labels = relevant[judged]
        if 0 < labels.sum() < len(labels):
            # A relevant item that was no candidate is behind all.
            behind = scores.nan_to_num(neginf=-1e300)[judged]
            assert float(value) == pytest.approx(sk.roc_auc_score(labels, behind), abs=1e-9)
        else:
            assert value.isnan()


def test_metrics_of_lists(rankings):
    ndcg, map_n, recall = (rankings.values(name) for name in ("ndcg@5", "map_n@200", "recall@5"))
    for user, items, relevant in rankings.users():
        if relevant.sum() < rankings.n_relevant[user]:
            continue  # scikit-learn knows no relevant items but those that are ranked
        y, order = relevant[None].long().numpy(), -np.arange(len(items), dtype=float)[None]
        listed = np.arange(len(items))[None] < 5
        if not relevant.any():
            # Nothing relevant: NaN here; 0, and for label ranking 1, in scikit-learn.
            assert np.isnan([ndcg[user], map_n[user], recall[user]]).all()
            assert sk.ndcg_score(y, order, k=5) == 0
            assert sk.label_ranking_average_precision_score(y, order) == 1
            continue
        np.testing.assert_allclose(ndcg[user], sk.ndcg_score(y, order, k=5), **CLOSE)
        np.testing.assert_allclose(map_n[user], sk.label_ranking_average_precision_score(y, order), **CLOSE)
        np.testing.assert_allclose(recall[user], sk.recall_score(y, listed, average="samples"), **CLOSE)


def test_precision_of_short_lists_is_of_the_items_there():
    """Three items for precision@5: over 3 as scikit-learn counts what is there, over 5 here."""
    hits = torch.tensor([[True, False, True, False, False]])
    theirs = sk.precision_score([[1, 0, 1]], [[1, 1, 1]], average="samples")
    ours = ranking_metrics(hits, torch.tensor([2]), ["precision@5"])["precision@5"]
    assert theirs == pytest.approx(2 / 3)
    assert float(ours) == pytest.approx(theirs * 3 / 5)


def test_top_k_accuracy_is_the_hit_rate_of_users_with_one_relevant_item():
    generator = torch.Generator().manual_seed(0)
    scores, answers = torch.rand(50, 10, generator=generator), torch.randint(10, (50,), generator=generator)
    hits = scores.argsort(descending=True) == answers[:, None]
    ours = ranking_metrics(hits, torch.ones(50, dtype=torch.int64), ["hit@3"])["hit@3"]
    assert float(ours.mean()) == pytest.approx(sk.top_k_accuracy_score(answers, scores, k=3, labels=range(10)))


def test_ndcg_of_ties_is_the_mean_over_their_orders(tied):
    """scikit-learn takes the mean over the orders of ties; one order drawn by hash has that mean over draws."""
    draws, (n_users, n_items) = 300, tied.scores.shape
    rows = tied.scores.isfinite().repeat(draws, 1)
    groups = torch.arange(draws * n_users)[:, None].expand(-1, n_items)[rows]
    ids = torch.arange(n_items).expand(draws * n_users, -1)[rows]
    scores, labels = (values.repeat(draws, 1)[rows] for values in (tied.scores, tied.relevant.long()))
    lists = grouped_lists(scores, labels, groups, ids, 5)
    values = ranking_metrics(lists.gains, lists.n_relevant, ["ndcg@5"])["ndcg@5"].view(draws, n_users)
    theirs = [
        sk.ndcg_score(relevant[known][None].long(), of_user[known][None], k=5)
        for of_user, relevant in zip(tied.scores, tied.relevant, strict=True)
        for known in [of_user.isfinite()]
    ]
    error = values.std(0) / draws**0.5
    assert ((values.mean(0) - torch.tensor(theirs, dtype=torch.float64)).abs() < 5 * error + 1e-9).all()


def test_label_ranking_counts_ties_as_before(tied):
    """Its precision is that behind the ties of a relevant item, as in prauc of the user's candidates."""
    users = torch.arange(len(tied.scores))[:, None].expand_as(tied.scores)
    known = tied.scores.isfinite()
    ours = by_group(tied.scores[known], tied.relevant[known].long(), users[known], ["prauc"])["prauc"]
    theirs = [
        sk.label_ranking_average_precision_score(relevant[row][None].long(), of_user[row][None])
        for of_user, relevant, row in zip(tied.scores, tied.relevant, known, strict=True)
    ]
    np.testing.assert_allclose(ours, theirs, **CLOSE)


@pytest.mark.parametrize("digits", [8, 1])
def test_pessimistic_ranks(digits):
    """With one right answer, the coverage error is its pessimistic rank, label ranking average precision 1 over it."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(40, 15, generator=generator, dtype=torch.float64).round(decimals=digits)
    targets = torch.randint(15, (40,), generator=generator)
    right = torch.nn.functional.one_hot(targets, 15)
    ranks = filtered_ranks(scores, targets, right.bool())
    np.testing.assert_allclose(ranks.pessimistic.mean(), sk.coverage_error(right, scores), **CLOSE)
    ours = rank_metrics(ranks, ["mrr_pessimistic"])["mrr_pessimistic"]
    np.testing.assert_allclose(ours.mean(), sk.label_ranking_average_precision_score(right, scores), **CLOSE)
