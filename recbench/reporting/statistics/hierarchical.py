"""The verdict: whether a difference between two models would hold for other users and for other seeds.

The value y[s, u] of seed s for user u has four sources of chance: the user, who differs between models; the seed, which
moves all users of one training together; and their interaction, each user's own luck in each training. Users are
shared by all models, seeds belong to one model each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from recbench.reporting.statistics.paired import resampled
from recbench.reporting.statistics.summary import ALPHA, Values


@dataclass(frozen=True)
class Sample:
    """One model's results on one benchmark.

    ``seeds`` has shape (seeds,): the metric of each run. ``users`` has shape (seeds, users): each user's value, NaN
    where the user has none, the same users in the same order for all models; None where the metric is no mean over
    users (AUC, for instance). A ``deterministic`` model has no spread over seeds, however many were run.
    """

    label: str
    seeds: Values
    users: Values | None
    deterministic: bool


@dataclass(frozen=True)
class Differences:
    """All differences of a table, row minus column, as matrices of shape (models, models).

    ``se`` is the standard error, ``df`` the degrees of freedom of its t reference, ``p`` the two-sided p-value of each
    pair alone (see ``families.holm_pairs``), ``ci_low`` to ``ci_high`` the 95 % interval of each pair alone. They are
    NaN where no test is possible, and on the diagonal; ``method`` then says why. ``n_users`` is the number of users
    compared, 0 where only seeds were.
    """

    labels: tuple[str, ...]
    estimate: Values
    se: Values
    df: Values
    p: Values
    ci_low: Values
    ci_high: Values
    method: tuple[tuple[str, ...], ...]
    n_users: NDArray[np.int_]


def hierarchical(samples: Sequence[Sample], draws: int = 2000, seed: int = 0) -> Differences:
    """Compare all models of a table by one crossed bootstrap of users, shared by all, and of each model's seeds.

    Where both models have values per user, the variance of their difference is the sum of

    - users: over draws of users, of the difference of means over seeds, less the interaction that this contains;
    - seeds, of each stochastic model: over draws of its seeds, of the mean over users. It contains the interaction.

    Drawing n of n with replacement gives a variance that is (n - 1) / n of the true one, 0.8 with five seeds, so each
    part is divided by that. Drawing users and seeds at once would count the interaction three times (Owen 2007,
    doi:10.1214/07-AOAS122). The reference is Student's t with the degrees of freedom of Welch and Satterthwaite: users
    - 1 for the first part, seeds - 1 for each of the others.

    By simulation (``scripts/statistics_grid.py``, 232 settings) with 100 and 943 users, one to five seeds, sd over
    seeds from none to three times the users' standard error, interaction from none to nearly all of the users' part,
    normal, heavy-tailed, sparse and skewed differences: a level of 0.05 is 0.040 to 0.060, and 95 % intervals hold the
    truth in 94.0 to 96.0 %. Percentiles of users and seeds drawn at once have 0.097 where seeds matter most and 0.002
    where the interaction does. The limit: differences with a skewness of 2.6 have a level of 0.069 with 100 users and
    0.058 with 300.

    The users are those with a value in every sample that has values per user; the means are over them. Without two
    of them, or without values per user in one of two models, the pair has Welch's (1947) t-test over ``seeds``, a
    deterministic model adding no variance. A stochastic model of one seed is judged as it was trained, by users alone,
    and without them not at all; ``method`` says so.
    """
    count = len(samples)
    freedom = np.array([0 if sample.deterministic else len(sample.seeds) - 1 for sample in samples])
    single = np.array([not sample.deterministic and len(sample.seeds) == 1 for sample in samples])
    with_users = [(i, sample.users) for i, sample in enumerate(samples) if sample.users is not None]
    shared = np.all([np.isfinite(users).all(axis=0) for _, users in with_users], axis=0)  # (users,)
    both = np.zeros((count, count), dtype=bool)

    mean = np.array([sample.seeds.mean() for sample in samples])
    estimate = np.subtract.outer(mean, mean)
    between_users = np.zeros((count, count))
    between_seeds = np.repeat(_welch_variance(samples, freedom)[:, None], count, axis=1)  # of the row's seeds
    if shared.sum() > 1:
        at = [i for i, _ in with_users]
        block = np.ix_(at, at)
        both[block] = True
        mean, between_users[block], own = _crossed(
            [users[:, shared] for _, users in with_users], freedom[at], draws, np.random.default_rng(seed)
        )
        estimate[block], between_seeds[block] = np.subtract.outer(mean, mean), own[:, None]

    n_users = np.where(both, shared.sum(), 0)
    variance = between_users + between_seeds + between_seeds.T
    same = both & (variance == 0) & (estimate == 0)
    unknown = ~both & (single[:, None] | single)
    tested = ((variance > 0) & ~unknown) | same
    np.fill_diagonal(tested, False)
    with np.errstate(divide="ignore", invalid="ignore"):
        squares = between_seeds**2 / np.maximum(freedom, 1)[:, None]
        df = variance**2 / (between_users**2 / np.maximum(n_users - 1, 1) + squares + squares.T)
    df = np.where(tested, np.where(same, n_users - 1.0, df), np.nan)
    se = np.where(tested, np.sqrt(variance), np.nan)
    half = stats.t.ppf(1 - ALPHA / 2, df) * se
    p = np.asarray(2 * stats.t.sf(np.abs(estimate) / np.where(same, 1.0, se), df))
    return Differences(
        labels=tuple(sample.label for sample in samples),
        estimate=estimate,
        se=se,
        df=df,
        p=p,
        ci_low=estimate - half,
        ci_high=estimate + half,
        method=tuple(
            tuple(
                _method(bool(both[i, j]), int(freedom[i] + freedom[j]), bool(single[i] | single[j]), bool(tested[i, j]))
                if i != j
                else "the model itself"
                for j in range(count)
            )
            for i in range(count)
        ),
        n_users=n_users,
    )


def detectable_difference(
    user_sd: float, users: int, seed_sd: float = 0.0, seeds: int = 5, pairs: int = 1, power: float = 0.8
) -> float:
    """Return the smallest true difference of two models that ``hierarchical`` finds with the given power.

    ``user_sd`` is the sd over users of the difference between the two (0: no values per user), ``seed_sd`` the sd over
    seeds of each one's metric (0: deterministic models) and ``seeds`` the seeds of each; a level of ALPHA / ``pairs``
    is the first step of Holm's correction. The noncentral t-distribution is solved for the difference; by simulation
    (``scripts/statistics_grid.py``) the power is that asked for within 0.03.
    """
    by_users, by_seeds = user_sd**2 / users, seed_sd**2 / seeds
    se = (by_users + 2 * by_seeds) ** 0.5
    df = se**4 / (by_users**2 / (users - 1) + 2 * by_seeds**2 / max(seeds - 1, 1))
    # The t-statistic is normal given the estimated variance; the power is the mean over the quantiles of that.
    limits = stats.t.ppf(1 - ALPHA / pairs / 2, df) * np.sqrt(stats.chi2.ppf((np.arange(1000) + 0.5) / 1000, df) / df)
    found = optimize.brentq(lambda shift: power - stats.norm.sf(limits - shift).mean(), 0.0, limits.max() + 10)
    return float(found * se)


def _crossed(
    values: Sequence[Values], freedom: NDArray[np.int_], draws: int, generator: np.random.Generator
) -> tuple[Values, Values, Values]:
    """Return means (models,), variance between users of each difference (models, models), between seeds (models,)."""
    profiles = np.stack([each.mean(axis=0) for each in values])  # (models, users)
    means = profiles.mean(axis=1)
    count = profiles.shape[1]
    centred = (profiles - means[:, None]).T
    drawn = np.concatenate([counts @ centred / count for counts in resampled(count, draws, generator)])
    moments = drawn.T @ drawn / draws * count / (count - 1)
    total = np.add.outer(np.diag(moments), np.diag(moments))
    users = total - 2 * moments

    seeds, interaction = np.zeros(len(values)), np.zeros(len(values))
    for i in np.flatnonzero(freedom).tolist():
        each, number = values[i], freedom[i] + 1
        deviations = each.mean(axis=1) - means[i]
        picked = deviations[generator.integers(0, number, (draws, number))].mean(axis=1)
        seeds[i] = (picked**2).mean() * number / freedom[i]
        residuals = each - profiles[i] - deviations[:, None]
        interaction[i] = (residuals**2).sum() / (freedom[i] * (count - 1)) / (number * count)
    users = users - np.add.outer(interaction, interaction)
    return means, np.where(users > 1e-12 * total, users, 0.0), seeds  # models of equal values leave rounding errors


def _welch_variance(samples: Sequence[Sample], freedom: NDArray[np.int_]) -> Values:
    return np.array(
        [sample.seeds.var(ddof=1) / len(sample.seeds) if f else 0.0 for sample, f in zip(samples, freedom, strict=True)]
    )


def _method(users: bool, freedom: int, single: bool, tested: bool) -> str:
    if not tested:
        return "no test: one seed of a stochastic model" if single and not users else "no test: no spread to judge by"
    if not users:
        return "Welch t over seeds"
    sources = "users and seeds" if freedom else "users"
    return f"bootstrap over {sources}" + (", luck of a single seed not counted" if single else "")
