"""Tests and effect sizes of paired differences: two models judged on the same users.

All functions take differences of shape (..., users), without NaN and with two users or more, and answer for the last
axis; the leading axes are comparisons (pairs of models, seeds). The tests are two-sided and about the users alone: the
models are taken as they were trained. What training could have given instead is in ``hierarchical``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats

from recbench.reporting.statistics.summary import Values

CELLS = 4_000_000
"""Random numbers held at once; the draws are made in chunks of this size."""


@dataclass(frozen=True)
class Paired:
    """Two-sided p-values of four tests and two effect sizes, each of the shape of the comparisons."""

    t: Values
    wilcoxon: Values
    permutation: Values
    bootstrap: Values
    effect: Values
    superiority: Values


def paired(differences: Values, draws: int = 5_000, seed: int = 0) -> Paired:
    """Return every test and effect size of this module for differences of shape (..., users)."""
    return Paired(
        t=student_t(differences),
        wilcoxon=signed_rank(differences),
        permutation=sign_flip(differences, draws, seed),
        bootstrap=bootstrap_t(differences, draws, seed),
        effect=matched_effect(differences),
        superiority=superiority(differences),
    )


def student_t(differences: Values) -> Values:
    """Return the p-value of the paired t-test; no difference anywhere gives 1.

    It asks whether the mean difference is zero.
    """
    p: Values = 2 * stats.t.sf(np.abs(_studentised(differences)), differences.shape[-1] - 1)
    return p


def signed_rank(differences: Values) -> Values:
    """Return the p-value of Wilcoxon's (1945) signed-rank test; no difference anywhere gives 1.

    It asks whether differences are symmetric about zero, not where their mean lies: the two can disagree in sign when a
    few users gain much and many lose a little. Zeros are ranked and then dropped (Pratt 1959), ties get mean ranks.
    Given the ranks, the signs are fair coins under the null, so the variance of their signed sum is the sum of squared
    ranks, whatever the ties; its normal approximation is accurate from about ten users on.
    """
    ranks = stats.rankdata(np.abs(differences), axis=-1) * np.sign(differences)
    spread = np.sqrt((ranks**2).sum(axis=-1))
    z = ranks.sum(axis=-1) / np.where(spread > 0, spread, 1.0)
    p: Values = 2 * stats.norm.sf(np.abs(z))
    return p


def sign_flip(differences: Values, draws: int = 5_000, seed: int = 0) -> Values:
    """Return the p-value of the permutation test of the mean: each user's two values are swapped at random.

    All comparisons share the same swaps. The observed order counts as one of the draws (Phipson and Smyth 2010,
    doi:10.2202/1544-6115.1585), so p is valid for any number of draws and never below 1 / (draws + 1).
    """
    flat = differences.reshape(-1, differences.shape[-1])
    # A swap of zeros changes nothing, but the order of summation may differ in the last bits.
    observed = np.abs(flat.sum(axis=-1)) - 1e-12 * np.abs(flat).sum(axis=-1)
    generator = np.random.default_rng(seed)
    beyond = np.zeros(len(flat))
    for rows in _chunks(draws, flat.shape[-1]):
        signs = 2.0 * generator.integers(0, 2, (rows, flat.shape[-1]), dtype=np.int8) - 1.0
        beyond += (np.abs(signs @ flat.T) >= observed).sum(axis=0)
    p: Values = ((1 + beyond) / (draws + 1)).reshape(differences.shape[:-1])
    return p


def bootstrap_t(differences: Values, draws: int = 5_000, seed: int = 0) -> Values:
    """Return the p-value of the studentised bootstrap of the mean (Hall 1988, doi:10.1214/aos/1176350933), symmetric.

    Users are drawn with replacement, the same for all comparisons; the t-statistic about the observed mean is the
    reference for the observed t-statistic about zero. Unlike percentiles of the mean itself, which give too small
    p-values with few users, it keeps its level for skewed differences. p is never below 1 / (draws + 1).
    """
    n = differences.shape[-1]
    flat = differences.reshape(-1, n)
    observed = np.abs(_studentised(flat))
    centred = (flat - flat.mean(axis=-1, keepdims=True)).T
    squared = centred**2
    beyond = np.zeros(len(flat))
    for counts in resampled(n, draws, np.random.default_rng(seed)):
        mean = counts @ centred / n
        variance = np.maximum(counts @ squared / n - mean**2, 0.0) / (n - 1)
        # A draw without spread says nothing and counts against a difference.
        beyond += (np.abs(mean) >= observed * np.sqrt(variance)).sum(axis=0)
    p: Values = ((1 + beyond) / (draws + 1)).reshape(differences.shape[:-1])
    return p


def matched_effect(differences: Values) -> Values:
    """Return the standardised mean difference d_z = mean / sd over users; NaN without any spread.

    It says how consistent a difference is over users, not how large: two models that agree on most users have a large
    d_z for a small gain, so d_z compares pairs of models only on the same benchmark and metric.
    """
    spread = differences.std(axis=-1, ddof=1)
    effect: Values = differences.mean(axis=-1) / np.where(spread > 0, spread, np.nan)
    return effect


def superiority(differences: Values) -> Values:
    """Return the share of users for whom the first model is better, ties as half: 0.5 is no difference, range [0, 1].

    The probability of superiority for matched pairs (Grissom and Kim 2012). ``differences`` must be positive where the
    first model is the better one.
    """
    share: Values = (1 + np.sign(differences).mean(axis=-1)) / 2
    return share


def resampled(users: int, draws: int, generator: np.random.Generator) -> Iterator[Values]:
    """Yield bootstrap samples as counts of each user, in chunks of shape (rows, users), ``draws`` rows together."""
    for rows in _chunks(draws, users):
        cells = generator.integers(0, users, (rows, users)) + users * np.arange(rows)[:, None]
        yield np.bincount(cells.ravel(), minlength=rows * users).reshape(rows, users).astype(float)


def _chunks(draws: int, users: int) -> Iterator[int]:
    step = max(1, CELLS // users)
    for start in range(0, draws, step):
        yield min(step, draws - start)


def _studentised(differences: Values) -> Values:
    mean = differences.mean(axis=-1)
    error = differences.std(axis=-1, ddof=1) / differences.shape[-1] ** 0.5
    with np.errstate(divide="ignore"):
        statistic: Values = mean / np.where((error == 0) & (mean == 0), 1.0, error)
    return statistic
