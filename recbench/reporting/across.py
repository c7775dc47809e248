"""Models across benchmarks: how they rank when every benchmark counts the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from recbench.metrics.names import higher_is_better
from recbench.reporting.statistics.benchmarks import average_ranks, borda, win_rates
from recbench.reporting.statistics.families import letters
from recbench.reporting.statistics.summary import Values

Score = tuple[str, str, dict[str, float]]
"""A benchmark, its metric, and the mean of each model by label."""


@dataclass(frozen=True)
class AcrossRow:
    """One model across benchmarks.

    ``rank`` is the average rank (1 = best) and ``borda`` the count of models beaten, both over the benchmarks of
    ``Across.ranked``; None for a model that lacks one of these. ``group`` has letters: two ranked models that share one
    cannot be told apart. ``win_rate`` is the share of duels won, a duel being two models on one of the ``n`` benchmarks
    that this one has; ``wins`` is the same by opponent, None where the two never met.
    """

    label: str
    rank: float | None
    group: str
    borda: float | None
    win_rate: float
    wins: dict[str, float | None]
    n: int


@dataclass(frozen=True)
class Across:
    """Benchmarks that have models in common, two at least, and these models, best first.

    ``benchmarks`` gives each one's metric. Average ranks and Borda counts need models and benchmarks without a gap:
    ``ranked`` names the benchmarks of the largest such block (empty where there is none of two by two). ``friedman_p``
    is the p-value of Friedman's test that no model differs, ``critical_difference`` the distance of two average ranks
    from which on two models differ (Nemenyi), ``groups`` the largest sets of labels whose ranks lie closer than that;
    None and empty without a block. ``warnings`` says what was left out.
    """

    benchmarks: dict[str, str]
    ranked: list[str]
    rows: list[AcrossRow]
    friedman_p: float | None
    critical_difference: float | None
    groups: list[list[str]]
    warnings: list[str]


def across_benchmarks(scores: Sequence[Score]) -> list[Across]:
    """Compare models across each set of benchmarks that models link: two benchmarks or more, two models or more.

    A model takes part where it has results on two benchmarks of the set. A benchmark that was run on several splits
    cannot count once and is left out.
    """
    names = [name for name, _, _ in scores]
    split = sorted({name for name in names if names.count(name) > 1})
    kept = [score for score in scores if score[0] not in split]
    found = [label for _, _, means in kept for label in means]
    labels = sorted({label for label in found if found.count(label) > 1})
    if not labels:
        return []
    table = np.array([[means.get(label, math.nan) for label in labels] for _, _, means in kept])
    warnings = [f"{name} was run on several splits and is left out" for name in split]
    return [_across(*part, warnings) for part in _linked(kept, labels, table)]


def _linked(
    scores: Sequence[Score], labels: Sequence[str], table: Values
) -> Iterator[tuple[list[Score], list[str], Values]]:
    """Yield the parts of the (benchmarks, models) table that have no model in common with each other."""
    has = np.isfinite(table).astype(int)
    count, member = connected_components(has @ has.T)
    for number in range(count):
        rows = np.flatnonzero(member == number)
        columns = np.flatnonzero(has[rows].any(axis=0))
        if len(columns) > 1:
            yield (
                [scores[i] for i in rows.tolist()],
                [labels[j] for j in columns.tolist()],
                table[np.ix_(rows, columns)],
            )


def _across(scores: Sequence[Score], labels: Sequence[str], table: Values, warnings: Sequence[str]) -> Across:
    names = [name for name, _, _ in scores]
    higher = np.array([higher_is_better(metric) for _, metric, _ in scores])
    rates, duels = win_rates(table, higher)
    rows, columns = _block(np.isfinite(table))
    ranks: dict[int, float] = {}
    group: dict[int, str] = {}
    counts: list[float | None] = [None] * len(labels)
    p: float | None = None
    critical: float | None = None
    groups: list[list[int]] = []
    if len(rows):
        ranking = average_ranks(table[np.ix_(rows, columns)], higher[rows])
        ranks = {int(j): float(rank) for j, rank in zip(columns, ranking.ranks, strict=True)}
        counts = borda(table[rows], higher[rows])
        p, critical = ranking.p, ranking.critical_difference
        groups = [[int(columns[k]) for k in tied] for tied in ranking.groups]
        best_first = sorted(ranks, key=lambda j: ranks[j])
        sorted_ranks = np.array([ranks[j] for j in best_first])
        far = np.abs(np.subtract.outer(sorted_ranks, sorted_ranks)) >= ranking.critical_difference
        group = dict(zip(best_first, letters(far), strict=True))
    order = sorted(range(len(labels)), key=lambda j: (ranks.get(j, math.inf), -rates[j], labels[j]))
    return Across(
        benchmarks={name: metric for name, metric, _ in scores},
        ranked=[names[i] for i in rows.tolist()],
        rows=[
            AcrossRow(
                label=labels[j],
                rank=ranks.get(j),
                group=group.get(j, ""),
                borda=counts[j],
                win_rate=float(rates[j]),
                wins={labels[k]: None if np.isnan(duels[j, k]) else float(duels[j, k]) for k in order if k != j},
                n=int(np.isfinite(table[:, j]).sum()),
            )
            for j in order
        ],
        friedman_p=p,
        critical_difference=critical,
        groups=[[labels[j] for j in tied] for tied in groups],
        warnings=list(warnings),
    )


def _block(has: NDArray[np.bool_]) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """Return benchmarks and models, two of each at least, that have no gap: as many cells as a greedy choice finds.

    Models are taken in the order of how many benchmarks they have; empty where nothing is found.
    """
    order = np.argsort(-has.sum(axis=0), kind="stable")
    shared = np.logical_and.accumulate(has[:, order], axis=1)  # benchmarks that the first models all have
    rows = shared.sum(axis=0)
    sizes = rows * np.arange(1, len(order) + 1) * (rows > 1)
    sizes[0] = 0
    if not sizes.any():
        return np.array([], dtype=int), np.array([], dtype=int)
    chosen = shared[:, sizes.argmax()]
    return np.flatnonzero(chosen), np.flatnonzero(has[chosen].all(axis=0))
