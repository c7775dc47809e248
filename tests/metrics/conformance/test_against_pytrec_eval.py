import numpy as np
import pytrec_eval

SAME = {
    "recall@5": "recall_5",
    "recall_min@5": "relative_P_5",
    "precision@5": "P_5",
    "hit@5": "success_5",
    "ndcg@5": "ndcg_cut_5",
    "mrr@200": "recip_rank",
    "map_n@5": "map_cut_5",
    "map_n@200": "map",
    "rprecision": "Rprec",
}


def evaluate(truth, run, measures):
    """Values of each measure, such as P_5, in the order of the users; NaN for those it leaves out."""
    judge = pytrec_eval.RelevanceEvaluator(truth, {".".join(m.rsplit("_", 1)) if m[-1] == "5" else m for m in measures})
    found = judge.evaluate(run)
    return {m: np.array([found[user][m] if user in found else np.nan for user in truth]) for m in measures}


def test_metrics_of_lists(rankings):
    theirs = evaluate(rankings.truth(), rankings.run(), list(SAME.values()))
    for ours, name in SAME.items():
        # A user judged to have nothing relevant is 0 in trec_eval and part of its mean; here it is NaN, to be left out.
        np.testing.assert_allclose(theirs[name], np.nan_to_num(rankings.values(ours)), rtol=0, atol=1e-9, err_msg=name)


def test_users_who_are_not_judged_or_have_no_list_are_left_out():
    """So a recommender gains by giving no list to difficult users; here a user without a list scores 0."""
    judge = pytrec_eval.RelevanceEvaluator({"judged": {"a": 1}, "no list": {"a": 1}}, {"recip_rank"})
    assert list(judge.evaluate({"judged": {"a": 1.0}, "not judged": {"a": 1.0}})) == ["judged"]


def test_ties_are_in_descending_order_of_the_items_names():
    truth, run = {"u": {"a": 1}, "v": {"c": 1}}, {user: dict.fromkeys("abc", 0.5) for user in "uv"}
    assert evaluate(truth, run, ["recip_rank"])["recip_rank"].tolist() == [1 / 3, 1]


def test_scores_are_float32():
    """Scores that differ in float64 alone are ties to trec_eval, here broken by name."""
    run = {"u": {"a": 1 + 1e-9, "b": 1.0}}
    assert evaluate({"u": {"a": 1}}, run, ["recip_rank"])["recip_rank"].tolist() == [0.5]
