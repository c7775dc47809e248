"""Ranks of knowledge-graph completion, worked by hand."""

import pytest
import torch

from recbench.errors import UsageError
from recbench.metrics.names import hits_cutoff, validate
from recbench.metrics.ranks import rank_metrics, realistic_ranks

SCORES = torch.tensor([[0.9, 0.5, 0.7, 0.5, 0.1], [0.3, 0.3, 0.3, 0.3, 0.3]])
NOTHING = torch.zeros(2, 5, dtype=torch.bool)


def test_ranks_by_hand():
    """0.5 is below 0.9 and 0.7 and level with one other: between 3 and 4; among five equal scores the middle is 3."""
    assert realistic_ranks(SCORES, torch.tensor([1, 0]), NOTHING).tolist() == [3.5, 3.0]


def test_other_known_answers_do_not_count_but_the_target_itself_does():
    known = NOTHING.clone()
    known[0, [0, 1, 3]] = True
    assert realistic_ranks(SCORES, torch.tensor([1, 0]), known).tolist() == [2.0, 3.0]


def test_constant_scores_rank_as_the_mean_of_all_orders():
    scores, targets = torch.zeros(50, 11), torch.arange(50) % 11
    assert realistic_ranks(scores, targets, torch.zeros(50, 11, dtype=torch.bool)).tolist() == [6.0] * 50


def test_metrics_by_hand():
    values = rank_metrics(torch.tensor([1.0, 2.0, 3.5, 10.0]).double(), ["mrr", "hits@1", "hits@3", "hits@10"])
    assert values["mrr"].tolist() == pytest.approx([1, 1 / 2, 1 / 3.5, 1 / 10])
    assert [values[name].sum().item() for name in ("hits@1", "hits@3", "hits@10")] == [1, 2, 4]


def test_names():
    validate(["mrr", "hits@3", "ndcg@10"])
    assert hits_cutoff("hits@10") == 10
    for wrong in ("hits@0", "hits@x", "hits@"):
        with pytest.raises(UsageError, match="unknown metric of ranks"):
            validate([wrong])
