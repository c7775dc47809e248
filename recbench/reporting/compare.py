"""Compare results: which model is best on each benchmark, by how much, and what cannot be told apart."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recbench.errors import UsageError, unknown
from recbench.metrics.names import higher_is_better
from recbench.reporting.across import Across, across_benchmarks
from recbench.reporting.entries import Entry, Failure, Group, group_results
from recbench.reporting.pairs import Pair, Tests, listed, p_value, per_user
from recbench.reporting.statistics.summary import Summary, summarise


@dataclass(frozen=True)
class Row:
    """One model with one configuration.

    ``label`` is the model's name, and what tells its configurations apart if there are several. ``rank`` orders the
    means; ``rank_interval`` holds the ranks that are possible given the significant differences (together with 95 %
    certainty for all rows). Two models that share a letter of ``group`` cannot be told apart. ``summary`` is over
    seeds, ``seeds`` the values by seed. Times are means over seeds in seconds, memory the peak in mebibytes,
    ``parameters`` the trained ones; they are None for a scored prediction file, whose making is not known.
    """

    label: str
    model: str
    rank: int
    rank_interval: tuple[int, int]
    group: str
    deterministic: bool
    summary: Summary
    seeds: dict[int, float]
    config: dict[str, Any]
    parameters: int | None
    fit_s: float | None
    evaluate_s: float | None
    peak_rss_mb: float | None
    peak_device_mb: float | None
    trials: int


@dataclass(frozen=True)
class Table:
    """The comparison on one benchmark and split by one metric.

    ``rows`` are best first, ``pairs`` all pairs of them in that order, ``versus`` each row minus the baseline (empty
    without one). ``split_sha256`` and ``metric`` are None where no run has finished.
    """

    benchmark: str
    split_sha256: str | None
    metric: str | None
    rows: list[Row]
    pairs: list[Pair]
    failures: list[Failure]
    versus: list[Pair]
    verdict: str
    warnings: list[str]


@dataclass(frozen=True)
class Comparison:
    """One table for each benchmark and split, and one across each set of benchmarks that have models in common."""

    tables: list[Table]
    across: list[Across]

    def to_json(self) -> str:
        """Return everything as JSON text: the fields of the dataclasses; unknown values are null."""
        return json.dumps(asdict(self), indent=2, allow_nan=False)


def compare(
    directories: list[Path], metric: str | None = None, baseline: str | None = None, within_seeds: bool = False
) -> Comparison:
    """Compare all results under ``directories`` on ``metric`` (default: each benchmark's primary one).

    ``baseline`` names a model, or one of its configurations by its label. ``within_seeds`` adds the tests within seeds,
    which take longer than all the rest. Raises UsageError for a metric that no result has or that cannot order models,
    and for a baseline that is not there or not unique; RecbenchError for values per user that cannot be used.
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
    tables = [_table(group, metric, baseline, within_seeds) for group in groups]
    ranked = [
        (table.benchmark, table.metric, {row.label: row.summary.mean for row in table.rows})
        for table in tables
        if table.metric is not None
    ]
    return Comparison(tables, across_benchmarks(ranked))


def _table(group: Group, metric: str | None, baseline: str | None, within_seeds: bool) -> Table:
    if not group.entries:
        return Table(group.benchmark, None, None, [], [], group.failures, [], "No run has finished.", group.warnings)
    metric = metric or group.entries[0].runs[0].result.primary_metric
    if metric is None or not any(entry.values(metric) for entry in group.entries):
        raise UsageError(f"no result of {group.benchmark} has its primary metric {metric}; choose one with --metric")
    better = 1.0 if higher_is_better(metric) else -1.0
    measured = [
        replace(entry, runs=[run for run in entry.runs if metric in run.metrics.test]) for entry in group.entries
    ]
    entries = [entry for entry in measured if entry.runs]
    without = [f"{entry.label} has no {metric} and is left out" for entry in measured if not entry.runs]
    entries.sort(key=lambda entry: (-better * _mean(list(entry.values(metric).values())), entry.label))
    users, doubts = per_user(entries, metric)
    tests = Tests(entries, metric, better, users)
    rows = [_row(entry, metric, *place) for entry, place in zip(entries, tests.places(), strict=True)]
    order = list(itertools.combinations(range(len(entries)), 2))
    within = tests.within_seeds(order) if within_seeds else {}
    pairs = [replace(tests.pair(i, j), within_seeds=within.get((i, j), [])) for i, j in order]
    base = None if baseline is None else _baseline(rows, baseline)
    versus = [] if base is None else [tests.pair(i, base) for i in range(len(rows)) if i != base]
    verdict = _verdict(rows, pairs, metric, better)
    warnings = [*group.warnings, *without, *doubts, *_leaks(entries)]
    return Table(group.benchmark, group.split_sha256, metric, rows, pairs, group.failures, versus, verdict, warnings)


def _row(entry: Entry, metric: str, rank: int, rank_interval: tuple[int, int], group: str) -> Row:
    values = entry.values(metric)
    timings = [run.timing for run in entry.runs if run.timing is not None]
    memory = entry.memory
    return Row(
        label=entry.label,
        model=entry.model.name,
        rank=rank,
        rank_interval=rank_interval,
        group=group,
        deterministic=entry.model.deterministic,
        summary=summarise(list(values.values()), entry.model.deterministic),
        seeds=values,
        config=entry.runs[0].result.config,
        parameters=entry.model.parameters if timings else None,
        fit_s=_mean([timing.fit_s for timing in timings]) if timings else None,
        evaluate_s=_mean([timing.evaluate_s for timing in timings]) if timings else None,
        peak_rss_mb=memory.peak_rss_mb if memory else None,
        peak_device_mb=memory.peak_device_mb if memory else None,
        trials=max(run.result.budget.trials for run in entry.runs),
    )


def _leaks(entries: Sequence[Entry]) -> list[str]:
    """Return what the leakage checks of the runs found to be severe, once for each model and finding."""
    found = [
        f"{entry.label}: {finding.check}: {finding.message}"
        for entry in entries
        for run in entry.runs
        for finding in run.severe
    ]
    return list(dict.fromkeys(found))


def _baseline(rows: Sequence[Row], baseline: str) -> int | None:
    """Return the position of the baseline; None where this table has no such model."""
    labels = [row.label for row in rows]
    chosen = [i for i, row in enumerate(rows) if row.model == baseline]
    if baseline in labels:
        return labels.index(baseline)
    if len(chosen) > 1:
        several = "; ".join(labels[i] for i in chosen)
        raise UsageError(f"'{baseline}' was run with {len(chosen)} configurations; choose one: {several}")
    return chosen[0] if chosen else None


def _verdict(rows: Sequence[Row], pairs: Sequence[Pair], metric: str, better: float) -> str:
    """Say in one sentence which model wins and by how much, or which cannot be told apart."""
    best = rows[0]
    if len(rows) == 1:
        return f"{best.label} is alone; run another model on this benchmark to compare."
    rivals = [pair for pair in pairs if pair.first == best.label]
    tied = [pair for pair in rivals if not (pair.significant and better * pair.estimate > 0)]
    corrected = f"Holm-corrected over {len(pairs)} pair{'s' * (len(pairs) > 1)}"
    if not tied:
        return (
            f"{best.label} wins on {metric}: {abs(rivals[0].estimate):.4f} {'above' if better > 0 else 'below'} the "
            f"runner-up {rivals[0].second} (p {p_value(rivals[0].p_holm)}, {corrected}; {rivals[0].method})."
        )
    untested = [pair for pair in tied if pair.p_holm is None]
    reasons = ", ".join(dict.fromkeys(pair.method.removeprefix("no test: ") for pair in untested))
    why = f"; no test is possible against {listed([pair.second for pair in untested])} ({reasons})" if untested else ""
    known = [pair.p_holm for pair in tied if pair.p_holm is not None]
    p = f" (p {p_value(min(known))}{' or more' * (len(known) > 1)}, {corrected})" if known else ""
    rivals_tied = listed([pair.second for pair in tied])
    return f"{best.label} has the best {metric} but cannot be told apart from {rivals_tied}{p}{why}."


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
