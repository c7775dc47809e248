import numpy as np
import pytest
import torch
from torchmetrics import retrieval
from torchmetrics.functional import classification, mean_absolute_error, mean_squared_error
from torchmetrics.functional import retrieval as theirs

from recbench.metrics.calibration import ece
from recbench.metrics.pointwise import pointwise_metrics
from recbench.metrics.ranking import graded_ndcg, ranking_metrics, user_auc

SAME = {
    "recall@5": lambda p, y: theirs.retrieval_recall(p, y, top_k=5),
    "precision@5": lambda p, y: theirs.retrieval_precision(p, y, top_k=5),
    "hit@5": lambda p, y: theirs.retrieval_hit_rate(p, y, top_k=5),
    "ndcg@5": lambda p, y: theirs.retrieval_normalized_dcg(p, y, top_k=5),
    "mrr@5": lambda p, y: theirs.retrieval_reciprocal_rank(p, y, top_k=5),
    "map_hits@5": lambda p, y: theirs.retrieval_average_precision(p, y, top_k=5),
    "map_n@200": theirs.retrieval_average_precision,
    "rprecision": theirs.retrieval_r_precision,
}

FLOAT32 = {"rtol": 0, "atol": 1e-6}
"""It computes metrics of lists in float32 whatever the type of the scores."""


def order(relevant):
    """Scores above 0 in the order of the rows."""
    return 1 / torch.arange(1, len(relevant) + 1)


def all_ranked(rankings):
    """Users whose relevant items are all candidates; it knows of no others."""
    return [(user, relevant) for user, _, relevant in rankings.users() if relevant.sum() == rankings.n_relevant[user]]


@pytest.mark.parametrize("name", SAME)
def test_metrics_of_lists(rankings, name):
    users = all_ranked(rankings)
    # A user without a relevant item is 0 there unless empty_target_action says otherwise; here NaN, to be left out.
    ours = np.nan_to_num(rankings.values(name))[[user for user, _ in users]]
    found = [float(SAME[name](order(relevant), relevant)) for _, relevant in users]
    np.testing.assert_allclose(ours, found, **FLOAT32)


def test_relevant_items_with_scores_up_to_0_are_no_hits():
    """Recall, precision, reciprocal rank and average precision overlook them; hit rate and ndcg do not."""
    scores, relevant = torch.tensor([0.0, -1.0, -2.0]), torch.tensor([True, False, False])
    ours = ranking_metrics(relevant[None], torch.tensor([1]), ["recall@1", "precision@1", "mrr@1", "map_hits@1"])
    assert all(value.item() == 1 for value in ours.values())
    overlooked = [theirs.retrieval_recall, theirs.retrieval_precision, theirs.retrieval_reciprocal_rank]
    assert [f(scores, relevant, top_k=1).item() for f in (*overlooked, theirs.retrieval_average_precision)] == [0] * 4
    assert theirs.retrieval_hit_rate(scores, relevant, top_k=1) == 1
    assert all(f(scores.sigmoid(), relevant, top_k=1) == 1 for f in overlooked)


def test_average_precision_with_a_cutoff_is_over_the_hits():
    """One more hit lowers it, from 1 to (1 + 2/3) / 2: the variant map_hits."""
    for hits, value in (([1, 0, 0], 1), ([1, 0, 1], 5 / 6)):
        relevant = torch.tensor([*hits, 1])
        assert theirs.retrieval_average_precision(order(relevant), relevant, top_k=3) == pytest.approx(value)
        ours = ranking_metrics(relevant[None, :3], relevant.sum()[None], ["map_hits@3"])["map_hits@3"]
        assert ours.item() == pytest.approx(value)


def test_users_without_a_relevant_item_count_as_0_in_its_means():
    ours = ranking_metrics(torch.tensor([[True], [False]]), torch.tensor([1, 0]), ["hit@1"])["hit@1"]
    rows = torch.tensor([0.9, 0.9]), torch.tensor([True, False]), torch.tensor([0, 1])
    assert retrieval.RetrievalHitRate(top_k=1)(*rows[:2], indexes=rows[2]) == 0.5 == ours.nan_to_num(0).mean()
    assert retrieval.RetrievalHitRate("skip", top_k=1)(*rows[:2], indexes=rows[2]) == 1 == ours.nanmean()


def test_auc_of_the_users(rankings):
    pairs = rankings.relevant.nonzero()
    ours = user_auc(rankings.scores, pairs[:, 0], pairs[:, 1])
    found = {}
    for user, _ in all_ranked(rankings):
        known = rankings.scores[user].isfinite()
        # Ranks, within [0, 1], as scores outside are squeezed.
        _, ranks = rankings.scores[user, known].unique(return_inverse=True)
        found[user] = float(theirs.retrieval_auroc(ranks / len(ranks), rankings.relevant[user, known]))
    # Not defined: 0 there.
    np.testing.assert_allclose(ours.nan_to_num(0)[list(found)], list(found.values()), **FLOAT32)


def test_graded_ndcg(untied):
    gains = torch.randint(1, 5, untied.relevant.shape, generator=torch.Generator().manual_seed(0)) * untied.relevant
    listed = gains.gather(1, untied.items.clamp(min=0)).masked_fill(untied.items < 0, 0)
    ours = graded_ndcg(listed, gains, 4).nan_to_num(0)
    for user, _ in all_ranked(untied):
        candidates = untied.items[user] >= 0
        found = theirs.retrieval_normalized_dcg(order(listed[user, candidates]), listed[user, candidates], top_k=4)
        assert float(ours[user]) == pytest.approx(float(found), abs=1e-6)


POINTWISE = {
    "auc": classification.binary_auroc,
    "pauc.50": lambda p, y: classification.binary_auroc(p, y, max_fpr=0.5),
    "prauc": classification.binary_average_precision,
    "brier": mean_squared_error,
    "mse": mean_squared_error,
    "rmse": lambda p, y: mean_squared_error(p, y, squared=False),
    "mae": mean_absolute_error,
}


@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise(predictions, name):
    ours = pointwise_metrics(predictions.probabilities, predictions.labels, [name])[name]
    labels = predictions.labels if name in ("auc", "pauc.50", "prauc") else predictions.labels.double()
    assert ours == pytest.approx(float(POINTWISE[name](predictions.probabilities, labels)), abs=1e-6)


def test_scores_outside_0_and_1_are_squeezed():
    """It takes the sigmoid of scores if any lies outside [0, 1]; large logits become ties."""
    scores, labels = torch.tensor([40.0, 50.0]), torch.tensor([0, 1])
    assert pointwise_metrics(scores, labels, ["auc"])["auc"] == 1
    assert classification.binary_auroc(scores, labels) == 0.5
    assert pointwise_metrics(scores.sigmoid(), labels, ["auc"])["auc"] == 0.5


def test_calibration_error_is_of_bins_of_equal_width(predictions):
    """Each bin taken alone has the error that ours has with one bin."""
    bins = (predictions.probabilities * 15).long().clamp(max=14)
    n = len(bins)
    found = float(classification.binary_calibration_error(predictions.probabilities, predictions.labels, n_bins=15))
    ours = sum(
        int(rows.sum()) / n * ece(predictions.probabilities[rows], predictions.labels[rows], bins=1)
        for rows in (bins == b for b in bins.unique())
    )
    assert ours == pytest.approx(found, abs=1e-6)
