"""Metrics of knowledge-graph completion, from the rank of the one right answer of each query.

Ranks are filtered (other known answers are left out before ranking) and realistic where scores tie (the mean of the
best and the worst place), so they may be halves. Source: Bordes et al., NIPS 2013; Berrendorf et al., arXiv:2002.06914.
"""

from __future__ import annotations

from torch import Tensor

from recbench.metrics.names import hits_cutoff


def realistic_ranks(scores: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Return the filtered rank of each query's target, shape (Q,), float64, from 1.

    Args:
        scores: (Q, E) of every entity.
        targets: (Q,) the right entity.
        known: (Q, E) true for entities that answer the query too; the target's own entry does not matter.
    """
    target = scores.gather(1, targets[:, None])
    others = ~known
    others.scatter_(1, targets[:, None], False)
    above = ((scores > target) & others).sum(1)
    level = ((scores == target) & others).sum(1)
    return 1.0 + above.double() + level.double() / 2


def rank_metrics(ranks: Tensor, names: list[str]) -> dict[str, Tensor]:
    """Return ``mrr`` (1 / rank) and ``hits@k`` (rank at most k) of each query, shape (Q,), float64."""
    return {name: ranks.reciprocal() if name == "mrr" else (ranks <= hits_cutoff(name)).double() for name in names}
