import numpy as np
import pytest
import ranx
import torch

from recbench.metrics.ranking import graded_ndcg

SAME = {
    "recall@5": "recall@5",
    "precision@5": "precision@5",
    "f1@5": "f1@5",
    "hit@5": "hit_rate@5",
    "ndcg@5": "ndcg@5",
    "ndcg@20": "ndcg@20",
    "mrr@5": "mrr@5",
    "map_n@5": "map@5",
    "rprecision": "r-precision",
    "rbp.80@200": "rbp.80",
}


def evaluate(truth, run, metrics):
    qrels, run = ranx.Qrels.from_dict(truth), ranx.Run.from_dict(run)
    ranx.evaluate(qrels, run, metrics, return_mean=False)
    return {name: np.array([run.scores[name][user] for user in truth]) for name in metrics}


def test_metrics_of_lists(rankings):
    theirs = evaluate(rankings.truth(), rankings.run(), list(SAME.values()))
    for ours, name in SAME.items():
        # A user without a relevant item is 0 in ranx and part of its mean; here it is NaN, to be left out and counted.
        np.testing.assert_allclose(theirs[name], np.nan_to_num(rankings.values(ours)), rtol=0, atol=1e-9, err_msg=name)


def test_average_precision_over_the_hits_there_can_be(rankings):
    n = rankings.n_relevant.numpy()
    theirs = evaluate(rankings.truth(), rankings.run(), ["map@5"])["map@5"] * n / n.clip(1, 5)
    np.testing.assert_allclose(theirs, np.nan_to_num(rankings.values("map@5")), rtol=0, atol=1e-9)


def test_the_scores_themselves(untied):
    run = {
        f"u{user}": {f"i{item}": float(untied.scores[user, item]) for item in items.sort().values.tolist()}
        for user, items, _ in untied.users()
    }
    theirs = evaluate(untied.truth(), run, ["ndcg@5"])["ndcg@5"]
    np.testing.assert_allclose(theirs, np.nan_to_num(untied.values("ndcg@5")), rtol=0, atol=1e-9)


def test_ties_are_in_the_order_of_the_input():
    """The same constant scores: the first item written down wins."""
    first, last = ({"u": dict.fromkeys(order, 0.5)} for order in (["i1", "i2", "i3"], ["i3", "i2", "i1"]))
    assert evaluate({"u": {"i1": 1}}, first, ["mrr"])["mrr"] == [1]
    assert evaluate({"u": {"i1": 1}}, last, ["mrr"])["mrr"] == [1 / 3]


@pytest.mark.parametrize(("name", "exponential"), [("ndcg@4", False), ("ndcg_burges@4", True)])
def test_graded_ndcg(untied, name, exponential):
    gains = torch.randint(1, 5, untied.relevant.shape, generator=torch.Generator().manual_seed(0)) * untied.relevant
    truth = {
        f"u{user}": {f"i{item}": int(gains[user, item]) for item in row.nonzero()[:, 0].tolist()} or {"none": 0}
        for user, row in enumerate(untied.relevant)
    }
    listed = gains.gather(1, untied.items.clamp(min=0)).masked_fill(untied.items < 0, 0)
    ours = graded_ndcg(listed, gains, 4, exponential=exponential)
    theirs = evaluate(truth, untied.run(), [name])[name]
    np.testing.assert_allclose(theirs, ours.nan_to_num(0), rtol=0, atol=1e-9)
