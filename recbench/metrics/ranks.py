"""Metrics of knowledge-graph completion, from the rank of the one right answer of each query.

Ranks are filtered: other known answers are left out before ranking (Bordes et al., NIPS 2013). Where other answers
score the same as the right one, its rank may be any from the optimistic to the pessimistic one; the realistic rank is
their mean (Berrendorf et al., arXiv:2002.06914).

mrr       1 / rank                 of the mean over all orders of equal scores
hits@k    1 if rank <= k, else 0   of the mean over all orders of equal scores

and ``mrr_optimistic``, ``mrr_pessimistic``, ``hits_optimistic@k``, ``hits_pessimistic@k`` of that rank alone. All lie
in [0, 1], and higher is better. Only the mean over all orders gives a scorer that cannot tell answers apart what a
random one gets: 1 / (realistic rank), which some libraries report, gives it less, and "realistic rank <= k" all or
nothing. Without equal scores all agree.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from recbench.errors import RecbenchError, unknown
from recbench.metrics.names import RANK, pattern


class Ranks(NamedTuple):
    """Ranks of the right answers, each (Q,) float64, from 1; see ``filtered_ranks``."""

    optimistic: Tensor
    realistic: Tensor
    pessimistic: Tensor


def filtered_ranks(scores: Tensor, targets: Tensor, known: Tensor) -> Ranks:
    """Return the filtered ranks of each query's target.

    Args:
        scores: (Q, E) floating point, of every entity.
        targets: (Q,) int64, the right entity.
        known: (Q, E) bool, true for entities that answer the query too; the target's own entry does not matter.

    Returns:
        Before its equals (optimistic), behind them (pessimistic), and the mean of both (realistic), which may be a
        half.

    Raises:
        RecbenchError: a score is NaN or infinite.
    """
    broken = int((~scores.isfinite()).any(1).sum())
    if broken:
        raise RecbenchError(
            f"scores of {broken} of {len(scores)} queries contain NaN or infinite values, expected finite numbers; "
            "the model has probably diverged: try a lower learning rate"
        )
    target = scores.gather(1, targets[:, None])
    others = ~known
    others.scatter_(1, targets[:, None], False)
    optimistic = 1 + ((scores > target) & others).sum(1).double()
    pessimistic = 1 + ((scores >= target) & others).sum(1).double()
    return Ranks(optimistic, (optimistic + pessimistic) / 2, pessimistic)


def rank_metrics(ranks: Ranks, names: Iterable[str]) -> dict[str, Tensor]:
    """Compute metrics of each query, (Q,) float64; the definitions are at the top of this module.

    Raises ``UsageError`` for an unknown name.
    """
    bounds = {
        "": (ranks.optimistic, ranks.pessimistic),
        "optimistic": (ranks.optimistic, ranks.optimistic),
        "pessimistic": (ranks.pessimistic, ranks.pessimistic),
    }
    values = {}
    for name in names:
        if pattern(name) not in RANK or ":" in name:
            raise unknown("metric of ranks", name, RANK)
        kind, _, k = name.partition("@")
        measure, _, end = kind.partition("_")
        values[name] = _reciprocal(*bounds[end]) if measure == "mrr" else _hits(*bounds[end], int(k))
    return values


def _reciprocal(first: Tensor, last: Tensor) -> Tensor:
    """Mean of 1 / rank over the ranks first, first + 1, ..., last."""
    # The digamma function steps by 1 / x from x to x + 1.
    mean = (torch.digamma(last + 1) - torch.digamma(first)) / (last + 1 - first)
    return torch.where(first == last, 1 / first, mean)


def _hits(first: Tensor, last: Tensor, k: int) -> Tensor:
    """Share of the ranks first, first + 1, ..., last that are at most k."""
    return ((k + 1 - first) / (last + 1 - first)).clamp(0, 1)
