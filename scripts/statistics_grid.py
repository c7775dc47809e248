"""Simulate the statistics of ``recbench compare`` where the truth is known.

    python scripts/statistics_grid.py

Writes statistics_grid.json beside itself: level, coverage and power of the verdict, family-wise error and rank
intervals of whole tables, level of the paired tests. About ten minutes on one core.
"""

import itertools
import json
from pathlib import Path

import numpy as np

from recbench.reporting.statistics.families import holm_pairs, rank_intervals
from recbench.reporting.statistics.hierarchical import Differences, Sample, detectable_difference, hierarchical
from recbench.reporting.statistics.paired import bootstrap_t, sign_flip, signed_rank, student_t
from recbench.reporting.statistics.summary import ALPHA

TABLE = 40
"""Models simulated together: twenty pairs that have nothing in common but the users drawn."""
FIRST, SECOND = np.arange(0, TABLE, 2), np.arange(1, TABLE, 2)

DRAWS = 200
"""Fewer than the default, so a little worse than what is used."""


def sparse(chance: np.random.Generator, size: tuple[int, ...], parts: list[tuple[float, float, float]]) -> np.ndarray:
    """Mostly zeros: each part is (share of users, lowest, highest value); mean 0 and sd 1 in expectation."""
    shares = np.array([share for share, _, _ in parts])
    means = np.array([(low + high) / 2 for _, low, high in parts])
    squares = np.array([(low**2 + low * high + high**2) / 3 for _, low, high in parts])
    part = np.searchsorted(np.cumsum(shares), chance.random(size), side="right")  # len(parts): zero
    lows, highs = (np.array([*(each[k] for each in parts), 0.0]) for k in (1, 2))
    values = lows[part] + (highs - lows)[part] * chance.random(size)
    mean = shares @ means
    return (values - mean) / (shares @ squares - mean**2) ** 0.5


SHAPES = {
    "normal": lambda chance, size: chance.normal(size=size),
    "heavy-tailed": lambda chance, size: chance.standard_t(3, size) / 3**0.5,
    "sparse": lambda chance, size: sparse(chance, size, [(0.125, 0.0, 1.0), (0.125, -1.0, 0.0)]),
    # Skewness 1.9: a few users gain much, more lose a little, most see no difference.
    "skewed": lambda chance, size: sparse(chance, size, [(0.1, 0.2, 0.8), (0.2, -0.35, -0.05)]),
    # Skewness 2.6, the limit stated.
    "extreme": lambda chance, size: sparse(chance, size, [(0.07, 0.2, 0.8), (0.23, -0.25, -0.05)]),
}
"""Per-user differences of mean 0 and variance 1."""


def table(
    chance: np.random.Generator,
    users: int,
    seeds: tuple[int, int],
    shape: str,
    ratio: float,
    interaction: float,
    unequal: float,
    shift: float,
) -> Differences:
    """Simulate TABLE / 2 pairs; the first of each has ``seeds[0]`` seeds, the second ``seeds[1]`` (1: deterministic).

    In units of the sd over users of a difference of means over seeds: ``interaction`` is the share of its variance that
    is luck of one user in one training, ``ratio`` the sd over seeds of a model's metric times the root of users (that
    of the second is ``unequal`` times as large), ``shift`` the true difference times the root of users.
    """
    common = chance.normal(0, 2, users)
    stochastic = sum(count > 1 for count in seeds)
    samples = []
    for i in range(TABLE):
        second = i % 2
        count = seeds[second]
        values = np.tile(common, (count, 1))
        if not second:
            values += SHAPES[shape](chance, (users,)) * (1 - interaction) ** 0.5 + shift / users**0.5
        if count > 1:
            values += (
                chance.normal(0, (interaction / stochastic * count) ** 0.5, (count, users)) if interaction else 0.0
            )
            values += chance.normal(0, ratio * unequal**second / users**0.5, (count, 1))
        samples.append(Sample(str(i), values.mean(axis=1), values, deterministic=count == 1))
    return hierarchical(samples, DRAWS, int(chance.integers(2**31)))


def cell(seed: int, pairs: int = 4000, **setting) -> dict:
    """Return the share of ``pairs`` pairs told apart, and that of intervals that hold the true difference."""
    chance = np.random.default_rng(seed)
    truth = setting["shift"] / setting["users"] ** 0.5
    told_apart, covered = [], []
    for _ in range(pairs // (TABLE // 2)):
        found = table(chance, **setting)
        told_apart.append(found.p[FIRST, SECOND] < ALPHA)
        covered.append((found.ci_low[FIRST, SECOND] <= truth) & (truth <= found.ci_high[FIRST, SECOND]))
    found = {"told_apart": float(np.mean(told_apart)), "coverage": float(np.mean(covered))}
    return {**setting, "pairs": pairs, **found}


PLAIN = {"ratio": 0.0, "interaction": 0.0, "unequal": 1.0, "shift": 0.0}


def settings(shapes: list[str]) -> list[dict]:
    """Return the grid of the verdict."""
    cells = []
    for users, seeds, shape in itertools.product((100, 943), ((1, 1), (5, 1), (5, 5), (3, 5)), shapes):
        plain = {"users": users, "seeds": seeds, "shape": shape} | PLAIN
        if seeds == (1, 1):
            cells.append(plain)
            continue
        varied = [(ratio, 0.0) for ratio in (0.0, 0.3, 1.0, 3.0)] + list(itertools.product((0.0, 1.0), (0.5, 0.95)))
        cells += [{**plain, "ratio": ratio, "interaction": interaction} for ratio, interaction in varied]
        if seeds[1] > 1:
            cells += [{**plain, "ratio": 1.0, "interaction": 0.5, "unequal": unequal} for unequal in (1 / 3, 3.0)]
    return cells


def settled(seed: int, setting: dict) -> dict:
    """Return the cell, simulated anew with five times the pairs where chance alone could carry it over a limit.

    The standard error of a level is 0.0034 with 4000 pairs, 0.0015 with 20,000.
    """
    found = cell(seed, **setting)
    return found if 0.04 <= found["told_apart"] <= 0.06 else cell(1000 + seed, pairs=20_000, **setting)


def paired_level(seed: int, users: int, shape: str, comparisons: int = 4000, draws: int = 1000) -> dict:
    """Return the type I error of each paired test; draws are shared by 200 comparisons at a time."""
    chance = np.random.default_rng(seed)
    p: dict[str, list[np.ndarray]] = {"t": [], "wilcoxon": [], "permutation": [], "bootstrap": []}
    for part in range(comparisons // 200):
        differences = SHAPES[shape](chance, (200, users))
        p["t"].append(student_t(differences))
        p["wilcoxon"].append(signed_rank(differences))
        p["permutation"].append(sign_flip(differences, draws, part))
        p["bootstrap"].append(bootstrap_t(differences, draws, part))
    return {"users": users, "shape": shape} | {name: float(np.mean(np.concatenate(v) < ALPHA)) for name, v in p.items()}


def family(seed: int, steps: list[float], tables: int = 1000, users: int = 300, seeds: int = 5) -> dict:
    """Simulate tables of models whose true means are ``steps`` (in units of a difference's standard error).

    Returns the family-wise error of Holm over all pairs (any equal pair told apart, or any pair the wrong way round),
    the share of tables whose rank intervals hold all true ranks, and the share of true differences found.
    """
    chance = np.random.default_rng(seed)
    truth = np.subtract.outer(steps, steps)
    wrong, held, found = [], [], []
    error = (2 / users + 2 * (1 / users) / seeds) ** 0.5
    for _ in range(tables):
        samples = []
        for step in steps:
            values = step * error + chance.normal(0, 1, users) + chance.normal(0, users**-0.5, (seeds, 1))
            samples.append(Sample("", values.mean(axis=1), values, deterministic=False))
        differences = hierarchical(samples, DRAWS, int(chance.integers(2**31)))
        better = (holm_pairs(differences.p) < ALPHA) & (differences.estimate > 0)
        low, high = rank_intervals(better)
        wrong.append((better & (truth <= 0)).any())
        held.append(
            bool((low <= 1 + (truth < 0).sum(axis=1)).all() and (high >= len(steps) - (truth > 0).sum(axis=1)).all())
        )
        found.append(better[truth > 0].mean() if (truth > 0).any() else np.nan)
    return {
        "means": steps,
        "family_wise_error": float(np.mean(wrong)),
        "rank_intervals_hold": float(np.mean(held)),
        "differences_found": None if np.isnan(found[0]) else float(np.mean(found)),
    }


def power(seed: int, users: int, user_sd: float, seed_sd: float, seeds: int, pairs: int, simulated: int = 2000) -> dict:
    """Return the share of differences found that are as large as ``detectable_difference`` says, at ALPHA / pairs."""
    chance = np.random.default_rng(seed)
    shift = detectable_difference(user_sd, users, seed_sd, seeds, pairs)
    hits = []
    for _ in range(simulated // (TABLE // 2)):
        samples = []
        for i in range(TABLE):
            values = np.tile(chance.normal(0, user_sd / 2**0.5, users), (seeds, 1)) + shift * (i % 2)
            values += chance.normal(0, seed_sd, (seeds, 1))
            samples.append(Sample(str(i), values.mean(axis=1), values, deterministic=seed_sd == 0))
        found = hierarchical(samples, DRAWS, int(chance.integers(2**31)))
        hits.append(found.p[FIRST, SECOND] < ALPHA / pairs)
    given = {"users": users, "user_sd": user_sd, "seed_sd": seed_sd, "seeds": seeds, "pairs": pairs}
    return {**given, "detectable_difference": shift, "power": float(np.mean(hits))}


def percentile_level(seed: int, tables: int = 1000, users: int = 100, seeds: int = 5) -> dict:
    """Return the type I error of the usual crossed bootstrap: percentiles of means over drawn users and drawn seeds."""
    chance = np.random.default_rng(seed)
    result = {}
    for name, ratio, interaction in (("seeds", 3.0, 0.0), ("interaction", 0.0, 0.95)):
        outside = []
        for _ in range(tables):
            values = chance.normal(0, (interaction / 2 * seeds) ** 0.5, (2, seeds, users))
            values += chance.normal(0, ratio / users**0.5, (2, seeds, 1))
            values[0] += chance.normal(0, (1 - interaction) ** 0.5, users)
            counts = chance.multinomial(users, np.full(users, 1 / users), DRAWS) / users
            picks = chance.multinomial(seeds, np.full(seeds, 1 / seeds), (2, DRAWS)) / seeds
            means = np.einsum("mds,msu,du->md", picks, values, counts, optimize=True)
            low, high = np.quantile(means[0] - means[1], [ALPHA / 2, 1 - ALPHA / 2])
            outside.append(low > 0 or high < 0)
        result[name] = float(np.mean(outside))
    return result


def main() -> None:
    cells = [settled(k, setting) for k, setting in enumerate(settings(["normal", "heavy-tailed", "sparse", "skewed"]))]
    shifted = [
        cell(k, users=users, seeds=seeds, shape="skewed", **PLAIN | {"ratio": 1.0, "shift": 3.0})
        for k, (users, seeds) in enumerate(itertools.product((100, 943), ((5, 1), (5, 5))))
    ]
    limits = [
        cell(k, pairs=8000, users=users, seeds=(1, 1), shape="extreme", **PLAIN)
        for k, users in enumerate((100, 300, 943))
    ]
    result = {
        "range_of_type_one": [extreme(c["told_apart"] for c in cells) for extreme in (min, max)],
        "range_of_coverage": [extreme(c["coverage"] for c in cells + shifted) for extreme in (min, max)],
        "power": [
            power(k, users, user_sd, seed_sd, seeds, pairs)
            for k, (users, user_sd, seed_sd, seeds, pairs) in enumerate(
                [
                    (100, 0.2, 0.0, 1, 1),
                    (943, 0.2, 0.0, 1, 1),
                    (943, 0.2, 0.002, 5, 1),
                    (943, 0.2, 0.005, 5, 1),
                    (943, 0.2, 0.02, 5, 1),
                    (943, 0.2, 0.005, 3, 1),
                    (943, 0.2, 0.005, 10, 1),
                    (943, 0.2, 0.005, 5, 91),
                ]
            )
        ],
        "families": [
            family(0, [0.0] * 6),
            family(1, [0.0] * 3 + [4.0] * 3),
            family(2, [0.0, 0.0, 2.0, 2.0, 6.0, 6.0]),
            family(3, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
        ],
        "paired_tests": [
            paired_level(k, users, shape) for k, (users, shape) in enumerate(itertools.product((100, 943), SHAPES))
        ],
        "percentile_bootstrap": percentile_level(0),
        "limits": limits,
        "true_difference": shifted,
        "verdict": cells,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
