"""Models across benchmarks: average ranks with their critical difference, Borda counts, win rates.

All functions take ``scores`` of shape (benchmarks, models), NaN where a model has no result, and ``higher`` of shape
(benchmarks,): whether higher is better there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from recbench.errors import RecbenchError
from recbench.reporting.statistics.summary import ALPHA, Values

ORDERS = 9999
"""Random orders that Friedman's test draws."""


@dataclass(frozen=True)
class AverageRanks:
    """Ranks over the benchmarks that all models have.

    ``complete`` of shape (benchmarks,) marks these; ``ranks`` of shape (models,) are the means over them, 1 = best,
    ties as mean ranks. ``p`` is Friedman's test of no difference at all, ``critical_difference`` Nemenyi's distance of
    two average ranks from which on two models differ. ``groups`` are the largest sets of two models or more, as
    positions best first, whose ranks lie closer than that.
    """

    complete: NDArray[np.bool_]
    ranks: Values
    p: float
    critical_difference: float
    groups: list[list[int]]


def average_ranks(scores: Values, higher: NDArray[np.bool_]) -> AverageRanks:
    """Rank models across benchmarks as Demšar (2006, JMLR 7:1-30, section 3.2.2).

    Friedman's statistic, the spread of the average ranks, is compared with that of random orders within each benchmark:
    exact with few benchmarks and with ties, where the approximations by chi-squared and F are not. Raises RecbenchError
    with fewer than two models or where no benchmark has all of them.
    """
    complete = np.isnan(scores).sum(axis=1) == 0
    count = scores.shape[1]
    if count < 2 or not complete.any():
        raise RecbenchError(
            f"average ranks need two models or more and a benchmark that all of them have; found {count} models, "
            f"{int(complete.sum())} such benchmarks of {len(scores)}; leave out the models that lack results"
        )
    each = stats.rankdata(_losses(scores, higher)[complete], axis=1)
    ranks = each.mean(axis=0)
    chance = np.random.default_rng(0)
    orders = chance.permuted(np.broadcast_to(each, (ORDERS, *each.shape)), axis=2).mean(axis=1)
    # Equal sums of ranks may differ in their last bits.
    as_far = (orders.var(axis=1) >= ranks.var() * (1 - 1e-9)).sum()
    critical = critical_difference(count, len(each))
    return AverageRanks(complete, ranks, float((1 + as_far) / (ORDERS + 1)), critical, _groups(ranks, critical))


def critical_difference(models: int, benchmarks: int) -> float:
    """Return Nemenyi's (1963) critical difference of average ranks at level ALPHA over all pairs (Demšar 2006, eq. 6).

    The quantile of the studentised range is that of infinitely many degrees of freedom, divided by the root of 2.
    """
    quantile = float(stats.studentized_range.ppf(1 - ALPHA, models, np.inf)) / math.sqrt(2)
    return quantile * math.sqrt(models * (models + 1) / (6 * benchmarks))


def borda(scores: Values, higher: NDArray[np.bool_]) -> list[float | None]:
    """Return each model's Borda count: the models it beats, ties as half, summed over all benchmarks.

    A model without a result on some benchmark gets None and takes no part in the others' counts, so that nothing is
    gained or lost by what was not run. Range [0, benchmarks * (complete models - 1)].
    """
    complete = np.isnan(scores).sum(axis=0) == 0
    wins, _ = _duels(scores[:, complete], higher)
    counts = np.full(scores.shape[1], np.nan)
    counts[complete] = wins.sum(axis=1)
    return [float(value) if known else None for value, known in zip(counts, complete, strict=True)]


def win_rates(scores: Values, higher: NDArray[np.bool_]) -> tuple[Values, Values]:
    """Return the share of duels each model won, shape (models,), and by pair, shape (models, models), ties as half.

    A duel is two models on a benchmark that both have. NaN where there was none, and on the diagonal.
    """
    wins, fought = _duels(scores, higher)
    with np.errstate(invalid="ignore"):
        return wins.sum(axis=1) / fought.sum(axis=1), wins / fought


def _duels(scores: Values, higher: NDArray[np.bool_]) -> tuple[Values, Values]:
    """Return the duels won by row against column, and those fought, shapes (models, models)."""
    losses = _losses(scores, higher)
    margin = np.sign(losses[:, None, :] - losses[:, :, None])  # (benchmarks, models, models), 1 where the row wins
    fought = (~np.isnan(margin)).sum(axis=0).astype(float)
    wins = np.nansum((1 + margin) / 2, axis=0)
    np.fill_diagonal(fought, 0.0)
    np.fill_diagonal(wins, 0.0)
    return wins, fought


def _losses(scores: Values, higher: NDArray[np.bool_]) -> Values:
    return np.where(higher[:, None], -scores, scores)


def _groups(ranks: Values, critical: float) -> list[list[int]]:
    order = np.argsort(ranks, kind="stable")
    ends = np.searchsorted(ranks[order], ranks[order] + critical)  # first position too far from each
    starts = [i for i, end in enumerate(ends) if end - i > 1 and (i == 0 or end > ends[i - 1])]
    return [order[i : ends[i]].tolist() for i in starts]
