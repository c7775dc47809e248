"""All pairs of a table at once: correction for their number, groups not told apart, intervals of ranks."""

from __future__ import annotations

import string

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recbench.reporting.statistics.summary import Values


def holm(p: ArrayLike) -> Values:
    """Return Holm's (1979) adjusted p-values, shape (tests,); NaN marks a test that was not possible and stays NaN."""
    raw = np.asarray(p, dtype=float)
    adjusted = np.full_like(raw, np.nan)
    order = np.argsort(raw)[: int((~np.isnan(raw)).sum())]  # NaN sorts last
    steps = raw[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def holm_pairs(p: Values) -> Values:
    """Correct a symmetric (models, models) matrix over its pairs, each counted once; the diagonal is NaN."""
    upper = np.triu_indices(len(p), 1)
    adjusted = np.full(p.shape, np.nan)
    adjusted[upper] = holm(p[upper])
    adjusted.T[upper] = adjusted[upper]
    return adjusted


def letters(different: NDArray[np.bool_]) -> list[str]:
    """Return each model's group letters: two models share a letter exactly when they cannot be told apart.

    ``different`` is the symmetric (models, models) matrix of significant differences, models ordered best first.
    Insert-and-absorb algorithm of Piepho (2004, doi:10.1198/1061860043515).
    """
    groups = {frozenset(range(len(different)))}
    for pair in zip(*np.nonzero(np.triu(different)), strict=True):
        members = frozenset(int(index) for index in pair)
        parts = {part for group in groups for part in ([group - {i} for i in members] if members <= group else [group])}
        groups = {part for part in parts if not any(part < other for other in parts)}
    ordered = sorted(groups, key=sorted)
    return ["".join(_letter(k) for k, group in enumerate(ordered) if i in group) for i in range(len(different))]


def rank_intervals(better: NDArray[np.bool_]) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """Return the lowest and highest rank each model can have, shapes (models,), 1 = best.

    ``better[i, j]`` says that model i is significantly better than j. A model ranks behind those significantly better
    than it and ahead of those significantly worse: ``1 + better`` to ``models - worse``. When the family-wise error of
    the pairs is held at 5 %, all these intervals hold the true ranks together with 95 % certainty (Mogstad, Romano,
    Shaikh, Wilhelm 2024, doi:10.1093/restud/rdad006); among models that are truly equal, any order is true.
    """
    return 1 + better.sum(axis=0), len(better) - better.sum(axis=1)


def _letter(index: int) -> str:
    alphabet = string.ascii_letters
    return alphabet[index % len(alphabet)] + "'" * (index // len(alphabet))
