"""One model's value of a metric over its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Values = NDArray[np.float64]

ALPHA = 0.05
"""Level of all tests; the intervals are 1 - ALPHA."""


@dataclass(frozen=True)
class Summary:
    """Mean over ``n`` seeds; ``sd`` and ``ci95`` are None when they cannot be known (n = 1) or do not exist."""

    mean: float
    sd: float | None
    ci95: tuple[float, float] | None
    n: int


def summarise(values: Sequence[float], deterministic: bool) -> Summary:
    """Mean, standard deviation and 95 % t-interval of one metric over seeds.

    A deterministic model gives the same value for every seed, so its mean is exact and has no interval; one seed of a
    stochastic model has none either, because its spread is unknown.
    """
    data = np.asarray(values, dtype=float)
    mean = float(data.mean())
    if deterministic or len(data) == 1:
        return Summary(mean, None, None, len(data))
    sd = float(data.std(ddof=1))
    half = float(stats.t.ppf(1 - ALPHA / 2, len(data) - 1)) * sd / len(data) ** 0.5
    return Summary(mean, sd, (mean - half, mean + half), len(data))
