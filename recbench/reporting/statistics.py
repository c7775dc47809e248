"""What can be said about a difference between two models, and with what certainty.

Two sources of chance are kept apart. Seeds: a stochastic model is a different model each time it is trained; the
interval of a mean says where the mean over all seeds lies. Users: the test users are a sample of those the models are
meant for; where a metric is a mean over users, two models are compared on the same users, pairwise. Which of the two a
test is about is in ``Difference.method``.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

ALPHA = 0.05
"""Level of all tests; the intervals are 1 - ALPHA."""


@dataclass(frozen=True)
class Summary:
    """Mean over ``n`` seeds; ``sd`` and ``ci95`` are None when they cannot be known (n = 1) or do not exist."""

    mean: float
    sd: float | None
    ci95: tuple[float, float] | None
    n: int


@dataclass(frozen=True)
class Difference:
    """One model minus another.

    ``estimate`` is the mean difference, ``ci95`` its interval (each alone, not widened for the number of pairs),
    ``effect`` the matched-pairs standardised difference d_z = mean / sd over users (None for a test over seeds), ``p``
    the two-sided p-value before correction (None: no test is possible), ``n`` the number of users or of seeds used.
    """

    estimate: float
    ci95: tuple[float, float] | None
    effect: float | None
    p: float | None
    method: str
    n: int

    def negated(self) -> Difference:
        """Return the same difference seen from the other side."""
        ci95 = None if self.ci95 is None else (-self.ci95[1], -self.ci95[0])
        return replace(self, estimate=-self.estimate, ci95=ci95, effect=None if self.effect is None else -self.effect)


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
    return Summary(mean, sd, _t_interval(mean, sd / len(data) ** 0.5, len(data) - 1), len(data))


def user_difference(a: ArrayLike, b: ArrayLike) -> Difference:
    """Compare two models on the same users: Wilcoxon's signed-rank test and the t-interval of the mean difference.

    ``a`` and ``b`` have shape (users,): each user's value averaged over seeds, NaN where the user has none; users
    without both values are left out, and two must remain. The test asks whether differences are symmetric about zero,
    the interval where their mean lies. These can disagree when a few users gain much and many lose a little; then the
    ranks are no evidence for the mean difference shown, and p is 1.

    The null is about the trained models at hand. A luck of training that all users share is not in it and adds to the
    error: by simulation with 943 users and 5 seeds, a shared sd over seeds of 0.002 turns the level 0.05 into 0.06 when
    differences have an sd of 0.1 over users, and into 0.11 when it is 0.05. ``joint_difference`` asks about both.
    """
    difference = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    difference = difference[~np.isnan(difference)]
    n = len(difference)
    estimate, sd = float(difference.mean()), float(difference.std(ddof=1))
    z, p = signed_rank(difference)
    return Difference(
        estimate=estimate,
        ci95=_t_interval(estimate, sd / n**0.5, n - 1),
        effect=estimate / sd if sd > 0 else None,
        p=1.0 if z * estimate < 0 else float(p),
        method="Wilcoxon signed-rank over users",
        n=n,
    )


def signed_rank(differences: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return z and the two-sided p of Wilcoxon's signed-rank test along the last axis, shape (..., users).

    Zeros are ranked and then dropped (Pratt 1959), ties get mean ranks. Given the ranks, the signs are fair coins under
    the null, so the variance of their signed sum is the sum of squared ranks, whatever the ties; z is taken as normal,
    which is accurate from about ten users on. No difference anywhere gives z = 0, p = 1.
    """
    from scipy.stats import norm, rankdata

    ranks = rankdata(np.abs(differences), axis=-1) * np.sign(differences)
    spread = np.sqrt((ranks**2).sum(axis=-1))
    z = ranks.sum(axis=-1) / np.where(spread > 0, spread, 1.0)
    return z, 2 * norm.sf(np.abs(z))


def seed_difference(
    a: Sequence[float], b: Sequence[float], a_deterministic: bool = False, b_deterministic: bool = False
) -> Difference:
    """Compare two models by their values per seed, for metrics that are no mean over users (AUC, for instance).

    Welch's t-test (Welch 1947); a deterministic side adds no variance, which makes it the one-sample t-test against
    that side's value. With no spread to judge by (one seed of a stochastic model, or none on either side) p is None.
    """
    sides = [(np.asarray(a, dtype=float), a_deterministic), (np.asarray(b, dtype=float), b_deterministic)]
    estimate = float(sides[0][0].mean() - sides[1][0].mean())
    stochastic = [values for values, deterministic in sides if not deterministic]
    n = sum(len(values) for values in stochastic)
    if not stochastic or min(map(len, stochastic)) < 2:
        return Difference(estimate, None, None, None, "no test: fewer than two seeds", n)
    variances = np.array([values.var(ddof=1) / len(values) for values in stochastic])
    variance = float(variances.sum())
    if variance == 0:
        return Difference(estimate, None, None, None, "no test: no spread over seeds", n)
    from scipy.stats import t

    freedom = variance**2 / float(sum(v**2 / (len(x) - 1) for v, x in zip(variances, stochastic, strict=True)))
    error = variance**0.5
    p = 2 * float(t.sf(abs(estimate) / error, freedom))
    return Difference(estimate, _t_interval(estimate, error, freedom), None, p, "Welch t over seeds", n)


def joint_difference(users: Difference, seeds: Difference) -> Difference:
    """Ask whether a difference holds for other users and for other seeds: the larger of the two p-values counts.

    That is an intersection-union test (Berger 1982): its level is that of each of the two, with no correction. Between
    models without any spread over seeds only the users are asked.
    """
    if seeds.p is None or users.p is None:
        return users
    return replace(users, p=max(users.p, seeds.p), method="larger p of Wilcoxon over users and Welch t over seeds")


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Return Holm's (1979) adjusted p-values, shape (tests,); NaN marks a test that was not possible and stays NaN."""
    raw = np.asarray(p, dtype=float)
    adjusted = np.full_like(raw, np.nan)
    order = np.argsort(raw)[: int((~np.isnan(raw)).sum())]  # NaN sorts last
    steps = raw[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
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


def _letter(index: int) -> str:
    alphabet = string.ascii_letters
    return alphabet[index % len(alphabet)] + "'" * (index // len(alphabet))


def _t_interval(mean: float, error: float, freedom: float) -> tuple[float, float]:
    from scipy.stats import t

    half = float(t.ppf(1 - ALPHA / 2, freedom)) * error
    return mean - half, mean + half
