"""Metrics of lists and of whole rankings: worked by hand, against plain definitions and against other libraries."""

import math

import numpy as np
import pytest
import ranx
import torch
from sklearn.metrics import ndcg_score, roc_auc_score

from recbench.errors import RecbenchError, UsageError
from recbench.metrics.names import LISTS, higher_is_better, of_label, parse, validate
from recbench.metrics.ranking import graded_ndcg, grouped_lists, ranking_metrics, user_auc
from recbench.metrics.topk import top_k

INF = math.inf


def named(k):
    """Every metric of lists at one cutoff."""
    return [form.replace("NN", "80").replace("@k", f"@{k}") for form in LISTS]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(7)


def test_metrics_by_hand():
    """One user, relevant at ranks 2 and 4 of 5, three relevant items; one with every place right and six relevant."""
    table = torch.tensor([[0, 1, 0, 1, 0], [1, 1, 1, 1, 1]]).bool()
    names = [*named(5), "ndcg@2", "mrr@1", "recall_min@2", "map_hits@1", "rbp.50@2"]
    values = {name: v.tolist() for name, v in ranking_metrics(table, torch.tensor([3, 6]), names).items()}
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    assert values == {
        "recall@5": pytest.approx([2 / 3, 5 / 6]),
        "recall_min@5": pytest.approx([2 / 3, 1]),
        "precision@5": pytest.approx([2 / 5, 1]),
        "f1@5": pytest.approx([4 / 8, 10 / 11]),
        "hit@5": [1, 1],
        "ndcg@5": pytest.approx([(1 / math.log2(3) + 1 / math.log2(5)) / ideal, 1]),
        "mrr@5": [0.5, 1],
        "map@5": pytest.approx([(1 / 2 + 2 / 4) / 3, 1]),
        "map_n@5": pytest.approx([(1 / 2 + 2 / 4) / 3, 5 / 6]),
        "map_hits@5": pytest.approx([(1 / 2 + 2 / 4) / 2, 1]),
        "rbp.80@5": pytest.approx([0.2 * (0.8 + 0.8**3), 1 - 0.8**5]),
        "ndcg@2": pytest.approx([(1 / math.log2(3)) / (1 + 1 / math.log2(3)), 1]),
        "mrr@1": [0, 1],
        "recall_min@2": pytest.approx([1 / 2, 1]),
        "map_hits@1": [0, 1],
        "rbp.50@2": pytest.approx([0.5 * 0.5, 0.75]),
    }


def test_rprecision_by_hand():
    """Of the first n: 1 of 3 right; 1 of 1; and none of the first two, though the list is right further down."""
    table = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 1, 1]]).bool()
    values = ranking_metrics(table, torch.tensor([3, 1, 2]), ["rprecision"])["rprecision"]
    assert values.tolist() == pytest.approx([1 / 3, 1, 0])
    with pytest.raises(UsageError, match="'rprecision' needs lists of 5 items, found 4"):
        ranking_metrics(table, torch.tensor([5, 1, 2]), ["rprecision"])


def test_one_more_hit_lowers_map_over_hits_alone():
    """Why ``map_hits`` is no good metric to order models by: the second list is the first and one hit more."""
    table = torch.tensor([[1, 0, 0, 0, 0], [1, 0, 0, 0, 1]]).bool()
    values = ranking_metrics(table, torch.tensor([2, 2]), named(5))
    lowered = {name for name, (less, more) in values.items() if more < less}
    assert lowered == {"map_hits@5"}


def test_metrics_are_nan_without_relevant_items():
    values = ranking_metrics(torch.zeros(2, 5).bool(), torch.tensor([0, 1]), [*named(5), "rprecision"])
    assert all(v.isnan().tolist() == [True, False] for v in values.values())


def test_metrics_equal_ranx(generator):
    n_users, n_items, k = 120, 90, 80
    hits = torch.rand(n_users, k, generator=generator) < torch.rand(n_users, 1, generator=generator) * 0.6
    n_relevant = hits.sum(1) + torch.randint(1, n_items - k, (n_users,), generator=generator)
    assert n_relevant.max() <= k
    assert (n_relevant > 20).any()

    truth, lists = {}, {}
    for u in range(n_users):
        found = hits[u].nonzero().squeeze(1).tolist()
        missed = range(k, k + int(n_relevant[u]) - len(found))
        truth[f"u{u}"] = {f"i{i}": 1 for i in [*found, *missed]}
        lists[f"u{u}"] = {f"i{i}": float(n_items - i) for i in range(k)}
    qrels, run = ranx.Qrels(truth), ranx.Run(lists)
    theirs = {f"{kind}@{c}": f"{kind}@{c}" for c in (1, 5, 20) for kind in ("recall", "precision", "ndcg", "mrr")}
    theirs |= {f"hit@{c}": f"hit_rate@{c}" for c in (1, 5, 20)} | {f"map_n@{c}": f"map@{c}" for c in (1, 5, 20)}
    # ranx knows the persistence, but no cutoff.
    theirs |= {f"rbp.80@{k}": "rbp.80", "rprecision": "r-precision"}
    expected = ranx.evaluate(qrels, run, list(theirs.values()), return_mean=False)
    for name, values in ranking_metrics(hits, n_relevant, list(theirs)).items():
        by_user = dict(zip(run.keys(), expected[theirs[name]], strict=True))
        np.testing.assert_allclose(
            values.numpy(), [by_user[f"u{u}"] for u in range(n_users)], atol=1e-9, rtol=0, err_msg=name
        )


def test_names_that_are_no_metric_of_lists():
    for wrong in ("uauc", "hits@5", "coverage@5", "gap:gender:ndcg@5", "gap:gender:rprecision", "ndcg.10@5"):
        with pytest.raises(UsageError, match="unknown metric of lists"):
            ranking_metrics(torch.zeros(1, 5).bool(), torch.ones(1), [wrong])
    with pytest.raises(UsageError, match="share of two digits"):
        ranking_metrics(torch.zeros(1, 5).bool(), torch.ones(1), ["rbp.00@5"])


def test_cutoff_beyond_the_list():
    with pytest.raises(UsageError, match="'ndcg@10' needs lists of 10 items, found 5"):
        ranking_metrics(torch.zeros(1, 5).bool(), torch.ones(1), ["ndcg@10"])


def test_more_hits_than_relevant_items():
    with pytest.raises(RecbenchError, match="more hits than its user has relevant items"):
        ranking_metrics(torch.tensor([[1, 0], [1, 1]]).bool(), torch.tensor([2, 1]), ["ndcg@1"])


def test_names():
    assert parse("recall_min@20") == ("recall_min", 20)
    for wrong in ("ndcg", "ndcg@0", "ndcg@", "ndcg@1.5", "ndgc@10", "auc@10", "auc"):
        with pytest.raises(UsageError, match="unknown ranking metric"):
            parse(wrong)
    with pytest.raises(UsageError, match="did you mean ndcg@k"):
        parse("ndgc@10")
    validate(["auc", "ndcg@10", "pcoc"])
    with pytest.raises(UsageError, match="unknown metric 'acu'; did you mean auc"):
        validate(["ndcg@10", "acu"])
    assert higher_is_better("map@3")
    assert higher_is_better("auc:like")
    assert higher_is_better("pauc.10:like")
    assert not higher_is_better("logloss:auc")
    assert of_label("auc~linearised", "like") == "auc:like~linearised"
    for name in ("auc:like", "logloss:auc", "like:auc", "auc:"):
        with pytest.raises(UsageError, match=f"unknown metric '{name}'"):
            validate([name], "ctr")
    with pytest.raises(UsageError, match="has no better direction"):
        higher_is_better("pcoc:like")
    assert higher_is_better("auc")
    assert not higher_is_better("logloss")
    with pytest.raises(UsageError, match="no better direction"):
        higher_is_better("pcoc")


def test_graded_ndcg_by_hand():
    """Gains 0, 3 and 1 in the list, and 2 that is not in it: linear and exponential gain."""
    gains, ideal = torch.tensor([[0, 3, 1]]), torch.tensor([[1, 2, 3, 0]])
    second, third = 1 / math.log2(3), 1 / 2
    assert graded_ndcg(gains, ideal, 3).item() == pytest.approx((3 * second + third) / (3 + 2 * second + third))
    assert graded_ndcg(gains, ideal, 3, exponential=True).item() == pytest.approx(
        (7 * second + third) / (7 + 3 * second + third)
    )
    assert graded_ndcg(gains, ideal, 1).item() == 0


def test_graded_ndcg_of_hits_is_ndcg(generator):
    hits = torch.rand(50, 20, generator=generator) < 0.2
    n_relevant = hits.sum(1) + 3
    ideal = torch.arange(30) < n_relevant[:, None]
    expected = ranking_metrics(hits, n_relevant, ["ndcg@20"])["ndcg@20"]
    for exponential in (False, True):
        values = graded_ndcg(hits.double(), ideal.double(), 20, exponential=exponential)
        torch.testing.assert_close(values, expected, atol=1e-15, rtol=0)


def test_graded_ndcg_refuses():
    some = torch.ones(1, 3)
    with pytest.raises(UsageError, match="'ndcg@4' needs lists of 4 items, found 3"):
        graded_ndcg(some, some, 4)
    with pytest.raises(RecbenchError, match="gains more than is ideal"):
        graded_ndcg(some, torch.ones(1, 2), 3)
    for bad in (-1.0, math.nan, INF):
        with pytest.raises(RecbenchError, match="1 of 3 labels or gains"):
            graded_ndcg(some, torch.tensor([[1.0, 1.0, bad]]), 3)
    assert graded_ndcg(torch.zeros(1, 3), torch.zeros(1, 3), 3).isnan().all()


def rating_rows(generator, n=3_000, n_groups=150):
    groups = torch.randint(0, n_groups, (n,), generator=generator) * 3 + 11
    labels = torch.randint(0, 5, (n,), generator=generator).float()
    return torch.rand(n, generator=generator, dtype=torch.float64), labels, groups, torch.arange(n)


def test_grouped_lists_by_hand():
    groups, ids = torch.tensor([7, 2, 7, 7, 2, 5]), torch.tensor([1, 1, 2, 3, 2, 9])
    labels = torch.tensor([1, 0, 0, 1, 1, 0])
    lists = grouped_lists(torch.tensor([0.1, 0.9, 0.3, 0.2, 0.4, 0.5]), labels, groups, ids, 2)
    assert lists.groups.tolist() == [2, 5, 7]
    assert lists.gains.tolist() == [[0, 1], [0, 0], [0, 1]]
    assert lists.n_relevant.tolist() == [1, 0, 2]


def test_order_of_ties_in_grouped_lists_is_frozen():
    """Published values must come out the same in later versions: by the hash of ``top_k``, the other way round."""
    items = top_k(torch.zeros(2, 20), 20, torch.tensor([4, 9]))[0]
    groups, ids = torch.tensor([4, 9]).repeat_interleave(20), torch.arange(20).repeat(2)
    assert torch.equal(grouped_lists(torch.zeros(40), ids, groups, ids, 20).gains, items.flip(1).double())


def test_ties_count_up_to_the_first_place_behind_the_list():
    rows = (torch.tensor([1.0, 3.0, 2.0, 2.0, 0.0]), torch.ones(5), torch.zeros(5).long(), torch.arange(5))
    assert [grouped_lists(*rows, k).tied.item() for k in (1, 2, 3)] == [False, True, True]


@pytest.mark.parametrize("k", [1, 5, 100])
@pytest.mark.parametrize("exponential", [False, True])
def test_ndcg_of_grouped_lists_equals_sklearn(generator, k, exponential):
    scores, labels, groups, ids = rating_rows(generator)
    labels[groups == 11] = 0
    lists = grouped_lists(scores, labels, groups, ids, k)
    assert torch.equal(lists.groups, groups.unique())
    assert not lists.tied.any()
    ideal = grouped_lists(labels, labels, groups, ids, k).gains
    values = graded_ndcg(lists.gains, ideal, k, exponential=exponential)
    assert values[0].isnan()
    true = 2**labels - 1 if exponential else labels
    expected = [ndcg_score([true[groups == g].numpy()], [scores[groups == g].numpy()], k=k) for g in lists.groups[1:]]
    np.testing.assert_allclose(values[1:].numpy(), expected, atol=1e-12)


def test_every_metric_of_grouped_lists(generator):
    """Each group measured alone, as one user with the group's rows as candidates."""
    scores, labels, groups, ids = rating_rows(generator, n=600, n_groups=40)
    labels = (labels > 2).long()
    lists = grouped_lists(scores, labels, groups, ids, 10)
    values = ranking_metrics(lists.gains, lists.n_relevant, named(10))
    for g, group in enumerate(lists.groups):
        own = labels[groups == group][scores[groups == group].argsort(descending=True)]
        hits = torch.nn.functional.pad(own, (0, 10))[None, :10]
        alone = ranking_metrics(hits, own.sum()[None], named(10))
        assert all(torch.equal(values[name][g], alone[name][0]) or own.sum() == 0 for name in alone)


def test_ties_of_grouped_lists(generator):
    scores, _, groups, ids = rating_rows(generator, n=60_000, n_groups=5_000)
    # Small ids are relevant more often, so that an order by id would be worth something.
    scores, labels = torch.zeros_like(scores), (torch.rand(60_000, generator=generator) > ids / 60_000).long()
    lists = grouped_lists(scores, labels, groups, ids, 5)
    assert torch.equal(lists.tied, groups.unique(return_counts=True)[1] > 1)
    order = torch.randperm(len(scores), generator=generator)
    again = grouped_lists(scores[order], labels[order], groups[order], ids[order], 5)
    assert all(torch.equal(a, b) for a, b in zip(lists, again, strict=True))
    # A constant scorer is as good as a random one.
    random = grouped_lists(torch.rand(len(scores), generator=generator), labels, groups, ids, 5)
    for name in named(5):
        constant, other = (ranking_metrics(x.gains, x.n_relevant, [name])[name] for x in (lists, random))
        difference = (constant - other)[~constant.isnan()]
        assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(len(difference)), name


@pytest.mark.parametrize("bad", [math.nan, INF, -INF])
def test_grouped_lists_refuse_scores_that_are_not_numbers(bad):
    with pytest.raises(RecbenchError, match="1 of 2 scores"):
        grouped_lists(torch.tensor([0.0, bad]), torch.ones(2), torch.zeros(2).long(), torch.arange(2), 1)


def test_user_auc_by_hand():
    """Relevant 3 and 1 against 2 and 1: 2 and a half of 4 pairs; the item that is no candidate is behind both."""
    scores = torch.tensor([[3.0, 1.0, 2.0, 1.0, -INF], [3.0, 1.0, 2.0, 1.0, -INF]])
    values = user_auc(scores, torch.tensor([1, 0, 0, 1]), torch.tensor([4, 0, 1, 0]))
    assert values.tolist() == [2.5 / 4, 3 / 6]


@pytest.mark.parametrize("levels", [3, 10**6])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_user_auc_equals_sklearn(generator, levels, dtype):
    scores = torch.randint(levels, (60, 80), generator=generator).to(dtype)
    relevant = torch.rand(60, 80, generator=generator) < torch.rand(60, 1, generator=generator) * 0.5
    relevant[:, 0], relevant[:, 1] = True, False
    candidates = relevant | (torch.rand(60, 80, generator=generator) < 0.8)
    candidates[:, 1] = True
    rows, columns = relevant.nonzero().T[:, torch.randperm(int(relevant.sum()), generator=generator)]
    values = user_auc(scores.masked_fill(~candidates, -INF), rows, columns)
    chosen = zip(relevant.numpy(), scores.double().numpy(), candidates.numpy(), strict=True)
    expected = [roc_auc_score(true[c], score[c]) for true, score, c in chosen]
    np.testing.assert_allclose(values.numpy(), expected, atol=1e-14, rtol=0)


def test_user_auc_is_nan_where_no_pair_is():
    """No relevant item; no other candidate; no candidate at all; then a user with both."""
    scores = torch.tensor([[1.0, 2.0], [1.0, -INF], [-INF, -INF], [1.0, 2.0]])
    values = user_auc(scores, torch.tensor([1, 3, 2]), torch.tensor([0, 1, 0]))
    assert values.isnan().tolist() == [True, True, True, False]
    nobody = torch.empty(0, dtype=torch.int64)
    assert user_auc(scores, nobody, nobody).isnan().all()


@pytest.mark.parametrize("bad", [math.nan, INF])
def test_user_auc_refuses_scores_that_are_not_numbers(bad):
    scores = torch.zeros(4, 5)
    scores[1, 2] = scores[3, 0] = bad
    with pytest.raises(RecbenchError, match="2 of 4 users contain NaN"):
        user_auc(scores, torch.tensor([0]), torch.tensor([0]))
