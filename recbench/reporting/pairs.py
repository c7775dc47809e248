"""All pairs of models on one benchmark: the verdict over users and seeds, and the tests within seeds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from recbench.data.readers.block import require
from recbench.data.readers.columnar import read_columns
from recbench.errors import RecbenchError
from recbench.metrics.names import LINEARISED_SUFFIX
from recbench.reporting.entries import Entry, Run
from recbench.reporting.statistics.families import holm_pairs, letters, rank_intervals
from recbench.reporting.statistics.hierarchical import Sample, hierarchical
from recbench.reporting.statistics.paired import matched_effect, paired, superiority
from recbench.reporting.statistics.summary import ALPHA, Values
from recbench.running.result import PER_USER

AGREEMENT = 1e-6
"""Relative difference up to which per-user values and the recorded metric are the same."""


@dataclass(frozen=True)
class SeedTests:
    """Tests of one pair within one seed: of the two models as they were trained, about users alone.

    ``seeds`` are those of the first and of the second model. ``t``, ``wilcoxon``, ``permutation`` and ``bootstrap`` are
    two-sided p-values, not corrected; ``effect`` and ``superiority`` as in ``Pair``.
    """

    seeds: tuple[int, int]
    n_users: int
    t: float
    wilcoxon: float
    permutation: float
    bootstrap: float
    effect: float | None
    superiority: float


@dataclass(frozen=True)
class Pair:
    """The model ``first`` minus the model ``second``, judged for other users and other seeds.

    ``estimate`` is the difference of the metric, ``se`` its standard error with ``df`` degrees of freedom, ``ci95`` its
    interval and ``p`` its two-sided p-value, each of this pair alone; ``p_holm`` is corrected over all pairs of the
    table. All five are None where no test is possible. ``method`` says what was tested or why not, ``n_users`` on how
    many users (0: over seeds alone). ``effect`` is the mean difference over users in units of its sd (d_z),
    ``superiority`` the share of users for whom ``first`` is the better one, ties as half; both of each user's mean over
    seeds, None without per-user values. ``within_seeds`` has the tests within seeds where they were asked for: of the
    seeds that both have, and of each seed against the one result of a deterministic model.
    """

    first: str
    second: str
    estimate: float
    se: float | None
    df: float | None
    ci95: tuple[float, float] | None
    p: float | None
    p_holm: float | None
    effect: float | None
    superiority: float | None
    n_users: int
    method: str
    within_seeds: list[SeedTests]

    @property
    def significant(self) -> bool:
        """Whether the two can be told apart."""
        return self.p_holm is not None and self.p_holm < ALPHA


def p_value(p: float | None) -> str:
    """Write a p-value behind the letter p: ``= 0.013``, ``< 0.001``."""
    if p is None:
        return "-"
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def listed(labels: Sequence[str], most: int = 5) -> str:
    """Write labels as a list that does not get too long: ``ease, ials and 3 others``."""
    shown = labels if len(labels) <= most + 1 else labels[:most]
    others = f" and {len(labels) - most} others" if len(shown) < len(labels) else ""
    return ", ".join(shown) + others


def per_user(entries: Sequence[Entry], metric: str) -> tuple[list[Values | None], list[str]]:
    """Return each entry's values of shape (seeds, users), None where they are not to be had, and warnings.

    Columns are the same users for all entries; NaN marks a user that a run has no value for. Missing values are worth a
    warning only where other entries have them; for some metrics nobody has. Raises RecbenchError for a file that is not
    Parquet, has no column ``user`` or a user twice, or no numbers as values.
    """
    frames: list[pl.DataFrame] = []
    found: list[list[str]] = []
    missing: list[str] = []
    doubtful: list[str] = []
    for index, entry in enumerate(entries):
        parts = [part for run in entry.runs if (part := _values(run, metric)) is not None]
        found.append([])
        if len(parts) < len(entry.runs):
            missing.append(entry.label)
        elif not all(_agrees(part, run, metric) for part, run in zip(parts, entry.runs, strict=True)):
            doubtful.append(entry.label)
        else:
            found[-1] = [f"{index} {k}" for k in range(len(parts))]
            frames += [part.with_columns(run=pl.lit(name)) for part, name in zip(parts, found[-1], strict=True)]
    over_seeds = "so these are compared over seeds only"
    warnings = []
    if doubtful:
        warnings = [f"the mean over users is not the recorded {metric} for {listed(doubtful)}, {over_seeds}"]
    if not frames:
        return [None] * len(entries), warnings
    if missing:
        warnings.append(f"there are no per-user values of {metric} for {listed(missing)}, {over_seeds}")
    wide = pl.concat(frames).pivot(on="run", index="user", values="value").drop("user").fill_null(math.nan)
    return [wide.select(runs).to_numpy().T if runs else None for runs in found], warnings


def _values(run: Run, metric: str) -> pl.DataFrame | None:
    """Return the columns ``user`` and ``value``, whose mean is the metric; None where a run has no such values."""
    file = run.directory / PER_USER
    if not file.is_file():
        return None
    columns = (metric + LINEARISED_SUFFIX, metric)
    frame = read_columns(file, ("user", *columns))
    require(file, ["user"], frame.columns)
    column = next((name for name in columns if name in frame.columns), None)
    if column is None:
        return None
    if not frame.schema[column].is_numeric():
        raise RecbenchError(f"{file}: column '{column}' is of type {frame.schema[column]}, expected numbers")
    values = frame.select(pl.col("user").cast(pl.String), value=pl.col(column).cast(pl.Float64))
    repeated = values.filter(pl.col("user").is_duplicated())["user"]
    if len(repeated):
        raise RecbenchError(
            f"{file}: user '{repeated[0]}' has more rows than one; delete the directory and run it again"
        )
    return values


def _agrees(values: pl.DataFrame, run: Run, metric: str) -> bool:
    mean = values["value"].drop_nulls().drop_nans().mean()
    return isinstance(mean, float) and math.isclose(
        mean, run.metrics.test[metric], rel_tol=AGREEMENT, abs_tol=AGREEMENT * AGREEMENT
    )


class Tests:
    """All tests of one table; models are positions in ``entries``, best first."""

    def __init__(self, entries: Sequence[Entry], metric: str, better: float, users: Sequence[Values | None]) -> None:
        self.entries = entries
        self.better = better
        self.users = users
        self.samples = [
            Sample(entry.label, np.array(list(entry.values(metric).values())), values, entry.model.deterministic)
            for entry, values in zip(entries, users, strict=True)
        ]
        self.differences = hierarchical(self.samples)
        self.p_holm = holm_pairs(self.differences.p)

    def places(self) -> list[tuple[int, tuple[int, int], str]]:
        """Return each model's rank by its mean, the interval of that rank, and its group letters."""
        means = np.array([sample.seeds.mean() for sample in self.samples])
        ranks = 1 + (self.better * (means[:, None] - means) > 0).sum(axis=0)
        different = self.p_holm < ALPHA
        low, high = rank_intervals(different & (self.better * self.differences.estimate > 0))
        return [
            (int(rank), (int(least), int(most)), group)
            for rank, least, most, group in zip(ranks, low, high, letters(different), strict=True)
        ]

    def pair(self, i: int, j: int) -> Pair:
        """Return model i minus model j, without the tests within seeds."""
        all_pairs = self.differences
        low, high = _number(all_pairs.ci_low[i, j]), _number(all_pairs.ci_high[i, j])
        effect, share = self._effects(i, j)
        return Pair(
            first=self.entries[i].label,
            second=self.entries[j].label,
            estimate=float(all_pairs.estimate[i, j]),
            se=_number(all_pairs.se[i, j]),
            df=_number(all_pairs.df[i, j]),
            ci95=None if low is None or high is None else (low, high),
            p=_number(all_pairs.p[i, j]),
            p_holm=_number(self.p_holm[i, j]),
            effect=effect,
            superiority=share,
            n_users=int(all_pairs.n_users[i, j]),
            method=all_pairs.method[i][j],
            within_seeds=[],
        )

    def _effects(self, i: int, j: int) -> tuple[float | None, float | None]:
        first, second = self.users[i], self.users[j]
        if first is None or second is None:
            return None, None
        difference = first.mean(axis=0) - second.mean(axis=0)
        difference = difference[np.isfinite(difference)]
        if len(difference) < 2:
            return None, None
        return _number(matched_effect(difference)), _number(superiority(self.better * difference))

    def within_seeds(self, pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], list[SeedTests]]:
        """Return the tests within seeds of each pair that has per-user values."""
        # Comparisons on the same users are tested at once: they share the random draws.
        batches: dict[bytes, list[tuple[int, int, int, int]]] = defaultdict(list)
        differences: dict[bytes, list[Values]] = defaultdict(list)
        for i, j in pairs:
            first, second = self.users[i], self.users[j]
            if first is None or second is None:
                continue
            for s, t in _common_seeds(self.entries[i], self.entries[j]):
                difference = first[s] - second[t]
                finite = np.isfinite(difference)
                if finite.sum() > 1:
                    batches[finite.tobytes()].append((i, j, s, t))
                    differences[finite.tobytes()].append(difference[finite])
        tests: dict[tuple[int, int], list[SeedTests]] = defaultdict(list)
        for users, comparisons in batches.items():
            stacked = np.stack(differences[users])
            result = paired(self.better * stacked)
            for k, (i, j, s, t) in enumerate(comparisons):
                tests[i, j].append(
                    SeedTests(
                        seeds=(self.entries[i].runs[s].result.seed, self.entries[j].runs[t].result.seed),
                        n_users=stacked.shape[1],
                        t=float(result.t[k]),
                        wilcoxon=float(result.wilcoxon[k]),
                        permutation=float(result.permutation[k]),
                        bootstrap=float(result.bootstrap[k]),
                        effect=_number(self.better * result.effect[k]),
                        superiority=float(result.superiority[k]),
                    )
                )
        return tests


def _common_seeds(first: Entry, second: Entry) -> list[tuple[int, int]]:
    """Return the runs to compare, as positions: of the same seed; a deterministic model's one with every other."""
    if first.model.deterministic:
        return [(0, t) for t in range(1 if second.model.deterministic else len(second.runs))]
    if second.model.deterministic:
        return [(s, 0) for s in range(len(first.runs))]
    other = {run.result.seed: t for t, run in enumerate(second.runs)}
    return [(s, other[run.result.seed]) for s, run in enumerate(first.runs) if run.result.seed in other]


def _number(value: Any) -> float | None:
    """Return a float, None for NaN."""
    return None if np.isnan(value) else float(value)
