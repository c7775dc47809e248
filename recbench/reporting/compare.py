"""Compare results: which model is best on each benchmark, by how much, and what cannot be told apart."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table as Grid
from rich.text import Text

from recbench.errors import UsageError, unknown
from recbench.metrics.names import higher_is_better
from recbench.reporting.entries import Entry, Failure, Group, group_results
from recbench.reporting.page import count, interval, mean_interval, seconds
from recbench.reporting.statistics import (
    ALPHA,
    Difference,
    Summary,
    holm,
    joint_difference,
    letters,
    seed_difference,
    summarise,
    user_difference,
)
from recbench.running.result import PER_USER

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Pair:
    """``first`` minus ``second``, with the p-value corrected over all pairs of the table (Holm)."""

    first: str
    second: str
    difference: Difference
    p_holm: float | None

    @property
    def significant(self) -> bool:
        """Whether the two can be told apart."""
        return self.p_holm is not None and self.p_holm < ALPHA


@dataclass(frozen=True)
class Row:
    """One model with one configuration. Times are means over seeds in seconds, memory the peak in mebibytes."""

    label: str
    model: str
    rank: int
    """One more than the number of models that are significantly better."""
    group: str
    """Letters; two models that share one cannot be told apart."""
    deterministic: bool
    summary: Summary
    seeds: dict[int, float]
    config: dict[str, Any]
    parameters: int
    fit_s: float
    evaluate_s: float
    peak_rss_mb: float
    peak_device_mb: float | None
    trials: int


@dataclass(frozen=True)
class Table:
    """The comparison on one benchmark and split, rows best first."""

    benchmark: str
    split_sha256: str | None
    metric: str | None
    rows: list[Row]
    pairs: list[Pair]
    failures: list[Failure]
    versus: list[Pair]
    """Each model minus the baseline; empty without one."""
    verdict: str
    warnings: list[str]


@dataclass(frozen=True)
class Comparison:
    """One table for each benchmark and split."""

    tables: list[Table]

    def to_json(self) -> str:
        """Return everything as JSON text."""
        return json.dumps(asdict(self), indent=2, allow_nan=False)


def compare(directories: list[Path], metric: str | None = None, baseline: str | None = None) -> Comparison:
    """Compare all results under ``directories`` on ``metric`` (default: each benchmark's primary one).

    ``baseline`` names a model, or one of its configurations by its label. Raises UsageError for a metric that no
    result has, or a baseline that is not there or not unique.
    """
    groups = group_results(directories)
    entries = [entry for group in groups for entry in group.entries]
    if metric is not None:
        known = {name for entry in entries for run in entry.runs for name in run.metrics.test}
        if metric not in known:
            raise unknown("metric", metric, known)
        groups = [group for group in groups if any(entry.values(metric) for entry in group.entries)]
    if baseline is not None and not any(baseline in (entry.label, entry.model.name) for entry in entries):
        raise unknown("baseline", baseline, {entry.label for entry in entries})
    return Comparison([_table(group, metric, baseline) for group in groups])


def _table(group: Group, metric: str | None, baseline: str | None) -> Table:
    if not group.entries:
        verdict = "No run has finished."
        return Table(group.benchmark, None, metric, [], [], group.failures, [], verdict, group.warnings)
    metric = metric or group.entries[0].runs[0].result.primary_metric
    if metric is None:
        raise UsageError(f"the results of {group.benchmark} name no primary metric; choose one with --metric")
    better = 1.0 if higher_is_better(metric) else -1.0
    without = [entry.label for entry in group.entries if not entry.values(metric)]
    warnings = group.warnings + [f"{label} has no {metric} and is left out" for label in without]
    summaries = [
        (summarise(list(entry.values(metric).values()), entry.model.deterministic), entry)
        for entry in group.entries
        if entry.label not in without
    ]
    summaries.sort(key=lambda item: (-better * item[0].mean, item[1].label))
    pairs = _pairs([entry for _, entry in summaries], metric)
    different, worse = _significant(pairs, better, [entry.label for _, entry in summaries])
    rows = [
        _row(entry, metric, summary, 1 + int(above), group_letters)
        for (summary, entry), above, group_letters in zip(summaries, worse, letters(different), strict=True)
    ]
    versus = _versus(rows, pairs, baseline) if baseline else []
    verdict = _verdict(rows, pairs, metric, better)
    return Table(group.benchmark, group.split_sha256, metric, rows, pairs, group.failures, versus, verdict, warnings)


def _row(entry: Entry, metric: str, summary: Summary, rank: int, group: str) -> Row:
    device = [run.memory.peak_device_mb for run in entry.runs if run.memory.peak_device_mb is not None]
    return Row(
        label=entry.label,
        model=entry.model.name,
        rank=rank,
        group=group,
        deterministic=entry.model.deterministic,
        summary=summary,
        seeds=entry.values(metric),
        config=entry.runs[0].result.config,
        parameters=entry.model.parameters,
        fit_s=float(np.mean([run.timing.fit_s for run in entry.runs])),
        evaluate_s=float(np.mean([run.timing.evaluate_s for run in entry.runs])),
        peak_rss_mb=max(run.memory.peak_rss_mb for run in entry.runs),
        peak_device_mb=max(device, default=None),
        trials=max(run.result.budget.trials for run in entry.runs),
    )


def _pairs(entries: Sequence[Entry], metric: str) -> list[Pair]:
    """Test every pair: over seeds, and over users too where both have per-user values of the metric."""
    users = _per_user(entries, metric)
    tested = []
    for (i, a), (j, b) in itertools.combinations(enumerate(entries), 2):
        x, y = list(a.values(metric).values()), list(b.values(metric).values())
        difference = seed_difference(x, y, a.model.deterministic, b.model.deterministic)
        if i in users and j in users and np.isfinite(users[i] - users[j]).sum() > 1:
            difference = joint_difference(user_difference(users[i], users[j]), difference)
        tested.append((a.label, b.label, difference))
    adjusted = holm([math.nan if difference.p is None else difference.p for *_, difference in tested])
    return [
        Pair(first, second, difference, None if math.isnan(p) else float(p))
        for (first, second, difference), p in zip(tested, adjusted, strict=True)
    ]


def _per_user(entries: Sequence[Entry], metric: str) -> dict[int, NDArray[np.float64]]:
    """Return, by entry, each user's value averaged over seeds, aligned on all users (NaN where an entry lacks one)."""
    import polars as pl

    frames: list[pl.DataFrame] = []
    for index, entry in enumerate(entries):
        files = [run.directory / PER_USER for run in entry.runs]
        if all(file.is_file() and metric in pl.read_parquet_schema(file) for file in files):
            values = pl.concat([pl.read_parquet(file, columns=["user", metric]) for file in files])
            frames.append(values.group_by("user").agg(pl.col(metric).mean()).with_columns(entry=pl.lit(str(index))))
    if not frames:
        return {}
    wide = pl.concat(frames).pivot(on="entry", index="user", values=metric)
    return {int(name): wide[name].cast(pl.Float64).fill_null(math.nan).to_numpy() for name in wide.columns[1:]}


def _significant(
    pairs: Sequence[Pair], better: float, labels: Sequence[str]
) -> tuple[NDArray[np.bool_], NDArray[np.int_]]:
    """Return the symmetric matrix of significant differences, and how many are significantly better than each."""
    position = {label: index for index, label in enumerate(labels)}
    beats = np.zeros((len(labels), len(labels)), dtype=bool)
    for pair in pairs:
        if pair.significant:
            i, j = position[pair.first], position[pair.second]
            winner, loser = (i, j) if better * pair.difference.estimate > 0 else (j, i)
            beats[winner, loser] = True
    return beats | beats.T, beats.sum(axis=0)


def _versus(rows: Sequence[Row], pairs: Sequence[Pair], baseline: str) -> list[Pair]:
    """Return each row minus the baseline, best row first; empty where this table has no such baseline."""
    chosen = [row.label for row in rows if row.label == baseline] or [
        row.label for row in rows if row.model == baseline
    ]
    if len(chosen) > 1:
        raise UsageError(f"'{baseline}' was run with {len(chosen)} configurations; choose one: {'; '.join(chosen)}")
    flipped = [Pair(p.second, p.first, p.difference.negated(), p.p_holm) for p in pairs if p.first in chosen]
    # Pairs follow the order of the rows, so those above the baseline come first.
    return [pair for pair in pairs if pair.second in chosen] + flipped


def _verdict(rows: Sequence[Row], pairs: Sequence[Pair], metric: str, better: float) -> str:
    """Say in one sentence which model wins and by how much, or which cannot be told apart."""
    if not rows:
        return "No run has finished."
    best = rows[0]
    if len(rows) == 1:
        return f"{best.label} is alone; run another model on this benchmark to compare."
    rivals = [pair for pair in pairs if pair.first == best.label]
    tied = [pair for pair in rivals if not (pair.significant and better * pair.difference.estimate > 0)]
    corrected = f"Holm-corrected over {count(len(pairs))} pair{'s' * (len(pairs) > 1)}"
    if not tied:
        gap = abs(rivals[0].difference.estimate)
        return (
            f"{best.label} wins on {metric}: {gap:.4f} {'above' if better > 0 else 'below'} the runner-up "
            f"{rivals[0].second} (p {_p(rivals[0].p_holm)}, {corrected}; {rivals[0].difference.method})."
        )
    untested = [pair.second for pair in tied if pair.p_holm is None]
    labels = ", ".join(pair.second for pair in tied)
    why = f"; no test is possible against {', '.join(untested)} (run more seeds)" if untested else ""
    smallest = min((pair.p_holm for pair in tied if pair.p_holm is not None), default=None)
    p = f" (p {_p(smallest)} or more, {corrected})" if smallest is not None else ""
    return f"{best.label} has the best {metric} but cannot be told apart from {labels}{p}{why}."


def _p(p: float | None) -> str:
    if p is None:
        return "-"
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def render(comparison: Comparison) -> RenderableType:
    """Return the comparison for a terminal of 80 columns or more."""
    return Stack(*(part for table in comparison.tables for part in _render_table(table)))


def _render_table(table: Table) -> Iterable[RenderableType]:
    grid = Grid(
        box=box.SIMPLE_HEAD,
        title=f"{table.benchmark}" + (f"  split {table.split_sha256[:8]}" if table.split_sha256 else ""),
        title_justify="left",
        title_style="bold",
        pad_edge=False,
    )
    grid.add_column("rank", no_wrap=True)
    grid.add_column("model", overflow="fold", min_width=10)
    grid.add_column(Text(table.metric or ""), justify="right", no_wrap=True)
    for name in ("n", "fit s", "eval s", "MB", "params"):
        grid.add_column(name, justify="right", no_wrap=True)
    for row in table.rows:
        mean = mean_interval(row.summary.mean, row.summary.ci95, row.deterministic)
        cost = (seconds(row.fit_s), seconds(row.evaluate_s), f"{row.peak_rss_mb:.0f}", count(row.parameters))
        grid.add_row(f"{row.rank} {row.group}", Text(row.label), mean, str(row.summary.n), *cost)
    yield grid
    for failure in table.failures:
        yield Text(f"FAILED {failure.model} seed {failure.seed}: {failure.error}", style="red")
    for warning in table.warnings:
        yield Text(f"warning: {warning}", style="yellow")
    if table.versus:
        yield _render_versus(table.versus)
    yield Text(table.verdict + "\n", style="bold")


def _render_versus(versus: Sequence[Pair]) -> RenderableType:
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column(Text(f"minus {versus[0].second}"), overflow="fold")
    for name in ("difference", "95 % interval", "p (Holm)", "effect"):
        grid.add_column(name, justify="right", no_wrap=True)
    for pair in versus:
        difference = pair.difference
        effect = "-" if difference.effect is None else f"{difference.effect:+.2f}"
        limits = interval(difference.ci95, signed=True)
        grid.add_row(Text(pair.first), f"{difference.estimate:+.4f}", limits, _p(pair.p_holm).lstrip("= "), effect)
    return grid
