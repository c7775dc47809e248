"""Ranks of knowledge-graph completion: worked by hand, and on the facts of a real graph."""

import math

import numpy as np
import pytest
import torch

from recbench.errors import RecbenchError, UsageError
from recbench.metrics.names import validate
from recbench.metrics.ranks import Ranks, filtered_ranks, rank_metrics

SCORES = torch.tensor([[0.9, 0.5, 0.7, 0.5, 0.1], [0.3, 0.3, 0.3, 0.3, 0.3]])
NOTHING = torch.zeros(2, 5, dtype=torch.bool)
NAMES = ["mrr", "mrr_optimistic", "mrr_pessimistic", "hits@1", "hits@10", "hits_optimistic@10", "hits_pessimistic@10"]


def test_ranks_by_hand():
    """0.5 is below 0.9 and 0.7 and level with one other: 3 or 4; among five equal scores, anything from 1 to 5."""
    ranks = filtered_ranks(SCORES, torch.tensor([1, 0]), NOTHING)
    assert ranks.optimistic.tolist() == [3, 1]
    assert ranks.realistic.tolist() == [3.5, 3]
    assert ranks.pessimistic.tolist() == [4, 5]


def test_other_known_answers_do_not_count_but_the_target_itself_does():
    known = NOTHING.clone()
    known[0, [0, 1, 3]] = True
    before = known.clone()
    assert filtered_ranks(SCORES, torch.tensor([1, 0]), known).realistic.tolist() == [2, 3]
    assert torch.equal(known, before)


def test_metrics_by_hand():
    """Ranks 1, 2, 10, and one that is 3 or 4."""
    first, last = torch.tensor([1.0, 2, 10, 3]).double(), torch.tensor([1.0, 2, 10, 4]).double()
    values = rank_metrics(Ranks(first, (first + last) / 2, last), [*NAMES, "hits@3", "hits_optimistic@3"])
    assert {name: v.tolist() for name, v in values.items()} == {
        "mrr": pytest.approx([1, 1 / 2, 1 / 10, (1 / 3 + 1 / 4) / 2], abs=1e-15),
        "mrr_optimistic": [1, 1 / 2, 1 / 10, 1 / 3],
        "mrr_pessimistic": [1, 1 / 2, 1 / 10, 1 / 4],
        "hits@1": [1, 0, 0, 0],
        "hits@10": [1, 1, 1, 1],
        "hits_optimistic@10": [1, 1, 1, 1],
        "hits_pessimistic@10": [1, 1, 1, 1],
        "hits@3": [1, 1, 0, 0.5],
        "hits_optimistic@3": [1, 1, 0, 1],
    }


def test_metrics_are_the_mean_over_all_orders_of_equal_scores():
    """Against the plain sum over the ranks, up to the size of FB15k-237."""
    first, last = torch.tensor([1.0, 1, 5, 7_000, 14_541]), torch.tensor([14_541.0, 3, 12, 14_541, 14_541])
    ranks = Ranks(first.double(), (first + last).double() / 2, last.double())
    values = rank_metrics(ranks, ["mrr", "hits@10"])
    possible = [np.arange(a, b + 1) for a, b in zip(first.tolist(), last.tolist(), strict=True)]
    np.testing.assert_allclose(values["mrr"].numpy(), [(1 / r).mean() for r in possible], rtol=1e-10)
    np.testing.assert_allclose(values["hits@10"].numpy(), [(r <= 10).mean() for r in possible], rtol=1e-14)


def test_names():
    validate([*NAMES, "hits@3"], "kgc")
    for wrong in ("hits@0", "hits@x", "hits@", "mrr@10", "mrr_realistic", "gap:x:mrr"):
        with pytest.raises(UsageError, match="unknown metric of ranks"):
            rank_metrics(filtered_ranks(SCORES, torch.tensor([1, 0]), NOTHING), [wrong])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_refuses_scores_that_are_not_numbers(bad):
    scores = SCORES.clone()
    scores[1, 2] = bad
    with pytest.raises(RecbenchError, match="1 of 2 queries contain NaN"):
        filtered_ranks(scores, torch.tensor([1, 0]), NOTHING)


@pytest.fixture(scope="module")
def umls(parts_of):
    """Tail queries of the test part of UMLS: right answers (Q,) and all known ones (Q, E)."""

    def facts(part):
        arrays = parts_of("kgc/umls", part)
        return torch.stack([torch.tensor(arrays[column]).long() for column in ("heads", "relations", "tails")])

    test = facts("test")
    every = torch.cat([facts("train"), facts("valid"), test], dim=1)
    known = torch.zeros(tuple((every.amax(1) + 1).tolist()), dtype=torch.bool)
    known[tuple(every)] = True
    return test[2], known[test[0], test[1]]


@pytest.mark.usefixtures("mirrored")
def test_constant_scores_on_real_facts_are_worth_as_much_as_random_ones(umls):
    targets, known = umls
    generator = torch.Generator().manual_seed(3)
    candidates = (~known).sum(1) + 1.0
    constant = filtered_ranks(torch.zeros(known.shape), targets, known)
    assert torch.equal(constant.realistic, (candidates.double() + 1) / 2)
    values = rank_metrics(constant, NAMES)
    for name in NAMES:
        if "optimistic" in name:
            assert (values[name] == 1).all()

    draws = [filtered_ranks(torch.rand(known.shape, generator=generator), targets, known) for _ in range(20)]
    ranks = torch.stack([draw.realistic for draw in draws]).mean(0)
    expected = {"rank": (constant.realistic, ranks)}
    for name in ("mrr", "hits@1", "hits@10"):
        expected[name] = (values[name], torch.stack([rank_metrics(draw, [name])[name] for draw in draws]).mean(0))
    for name, (of_constant, of_random) in expected.items():
        difference = of_constant - of_random
        assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(len(difference)), name
    # What a constant scorer would get if the metrics were taken of the realistic rank itself.
    assert (1 / constant.realistic).mean() < values["mrr"].mean() / 2
    assert (constant.realistic <= 10).double().mean() < values["hits@10"].mean() / 2
