"""Leaderboards: records built from results only (``leaderboards/<task>/<name>/<model>.json``) and pages made of them.

A record states means over seeds with their intervals; a board never ranks a published number, and never a model against
another by test luck: where a model has several configurations, validation chooses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from recbench.errors import RecbenchError, UsageError
from recbench.metrics.names import higher_is_better
from recbench.reporting import page
from recbench.reporting.entries import Entry, Failure, Group, group_results
from recbench.reporting.statistics.summary import summarise
from recbench.running.result import (
    BudgetRecord,
    DatasetRecord,
    EnvironmentRecord,
    MemoryRecord,
    MetricsRecord,
    ProtocolRecord,
    ReferenceRecord,
    write_atomic,
)
from recbench.running.suite import Entry as SuiteEntry
from recbench.running.suite import Suite

SEEDS = 5
"""Seeds a stochastic model needs for a number of record."""

Status = Literal["verified", "unverified", "partial", "failed"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BoardModel(_Part):
    """The model; all but the name is None when no seed came far enough to build it."""

    name: str
    version: str | None = None
    parameters: int | None = None
    deterministic: bool = False
    reference: ReferenceRecord | None = None
    source: str | None = None
    source_sha256: str | None = None


class BoardMetric(_Part):
    """One metric over seeds; ``sd`` and ``ci95`` are None for a deterministic model and for a single seed."""

    mean: float
    sd: float | None
    ci95: tuple[float, float] | None
    seeds: dict[str, float]


class BoardMetrics(_Part):
    """Metrics on the validation and on the test part."""

    valid: dict[str, BoardMetric] = {}
    test: dict[str, BoardMetric] = {}


class BoardTiming(_Part):
    """Means over seeds, in seconds; ``epoch_s`` is the mean time of one epoch, None for closed-form models."""

    prepare_s: float
    fit_s: float
    epoch_s: float | None
    evaluate_s: float
    samples_per_s: float | None
    device_ms_per_step: dict[str, float] | None


class BoardRecord(_Part):
    """One model on one leaderboard. ``memory`` is the peak over seeds, ``environment`` that of the first seed."""

    schema_version: Literal[1] = 1
    task: str
    benchmark: str
    """Full name, such as ``topn/ml-100k``."""
    primary_metric: str | None
    model: BoardModel
    config: dict[str, Any]
    dataset: DatasetRecord | None
    protocol: ProtocolRecord | None
    seeds: list[int]
    metrics: BoardMetrics
    timing: BoardTiming | None
    memory: MemoryRecord | None
    budget: BudgetRecord
    environment: EnvironmentRecord | None
    status: Status
    reason: str | None
    """Why the status is what it is; None for a verified one."""
    command: str
    """What reproduces the numbers."""


def collect_records(directories: Iterable[Path], command: str) -> list[BoardRecord]:
    """Return one record for each benchmark and model under ``directories``, by benchmark and model name.

    Raises UsageError where results of one benchmark stem from different splits, or one run is there twice.
    """
    records = []
    for group in group_results(directories):
        if group.warnings:
            raise UsageError(f"{group.warnings[0]}; give the results of one split, each run once, to build a board")
        names = {entry.model.name for entry in group.entries} | {failure.model for failure in group.failures}
        records += [_record(group, name, command) for name in sorted(names)]
    return records


def build_records(
    directories: Iterable[Path], boards_dir: Path, command: str, suite: Suite | None = None
) -> list[BoardRecord]:
    """Write the records of all results under ``directories`` to ``boards_dir`` and return them.

    Models of a ``suite`` that have neither results nor a record get one that says that they were not run. Records of
    other models stay. Raises UsageError if one of those stems from another split of the same benchmark.
    """
    records = collect_records(directories, command)
    if suite is not None:
        known = {_path(boards_dir, record) for record in [*records, *read_records(boards_dir)]}
        planned = [_not_run(entry, model, command) for entry in suite.runs for model in entry.models]
        records += [record for record in planned if _path(boards_dir, record) not in known]
    new = {_path(boards_dir, record): record for record in records}
    for old in read_records(boards_dir):
        for record in records:
            if old.benchmark == record.benchmark and _path(boards_dir, old) not in new and _splits_differ(old, record):
                raise UsageError(
                    f"{_path(boards_dir, old)} stems from another split of {old.benchmark} than the new results; "
                    "run its model again or delete it"
                )
    for path, record in new.items():
        write_atomic(path, json.dumps(record.model_dump(mode="json"), indent=2, allow_nan=False) + "\n")
    return records


def read_records(boards_dir: Path) -> list[BoardRecord]:
    """Read all records under ``boards_dir``, sorted by path. Raises RecbenchError for a file that is not one."""
    records = []
    for file in sorted(boards_dir.glob("*/*/*.json")):
        try:
            records.append(BoardRecord.model_validate_json(file.read_text(encoding="utf-8")))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise RecbenchError(f"{file}: {where}: {first['msg']}; build the record again from its results") from None
    return records


def build_pages(boards_dir: Path) -> tuple[Path, Path]:
    """Write ``README.md`` and ``index.html`` of all records under ``boards_dir`` and return their paths."""
    records = read_records(boards_dir)
    if not records:
        raise UsageError(f"no records under {boards_dir}; build them from result directories first")
    return page.write_markdown(records, boards_dir / "README.md"), page.write_page(records, boards_dir / "index.html")


def _path(boards_dir: Path, record: BoardRecord) -> Path:
    return boards_dir / record.benchmark / f"{record.model.name}.json"


def _splits_differ(a: BoardRecord, b: BoardRecord) -> bool:
    return a.protocol is not None and b.protocol is not None and a.protocol.split_sha256 != b.protocol.split_sha256


def _record(group: Group, name: str, command: str) -> BoardRecord:
    entries = [entry for entry in group.entries if entry.model.name == name]
    failures = [failure for failure in group.failures if failure.model == name]
    if not entries:
        return _failed(group.benchmark, name, failures, command)
    entry = _chosen(entries)
    # A run that failed before its configuration was resolved may belong to any configuration, so it counts.
    failures = [failure for failure in failures if failure.config in ({}, entry.runs[0].result.config)]
    first = entry.runs[0]
    metrics = BoardMetrics(
        valid=_metrics(entry, lambda parts: parts.valid), test=_metrics(entry, lambda parts: parts.test)
    )
    leaks = [finding.message for run in entry.runs for finding in run.severe]
    status, reason = ("unverified", f"leakage: {leaks[0]}") if leaks else _status(entry, failures, metrics)
    return BoardRecord(
        task=first.result.task,
        benchmark=group.benchmark,
        primary_metric=first.result.primary_metric,
        model=BoardModel.model_validate(first.model.model_dump()),
        config=first.result.config,
        dataset=first.result.dataset,
        protocol=first.protocol,
        seeds=[run.result.seed for run in entry.runs],
        metrics=metrics,
        timing=_timing(entry),
        memory=entry.memory,
        budget=first.result.budget,
        environment=first.result.environment,
        status=status,
        reason=reason,
        command=command,
    )


def _failed(benchmark: str, name: str, failures: Sequence[Failure], command: str) -> BoardRecord:
    return _empty(benchmark, name, failures[0].config, "failed", failures[0].error, command)


def _not_run(entry: SuiteEntry, model: str, command: str) -> BoardRecord:
    return _empty(entry.benchmark, model, entry.values, "partial", f"not run: 0 of {SEEDS} seeds", command)


def _empty(benchmark: str, name: str, config: dict[str, Any], status: Status, reason: str, command: str) -> BoardRecord:
    """Return the record of a model without a finished result."""
    return BoardRecord(
        task=benchmark.partition("/")[0],
        benchmark=benchmark,
        primary_metric=None,
        model=BoardModel(name=name),
        config=config,
        dataset=None,
        protocol=None,
        seeds=[],
        metrics=BoardMetrics(),
        timing=None,
        memory=None,
        budget=BudgetRecord(),
        environment=None,
        status=status,
        reason=reason,
        command=command,
    )


def _chosen(entries: Sequence[Entry]) -> Entry:
    """Choose among configurations by the mean of the primary metric on validation; the test part has no say."""
    if len(entries) == 1:
        return entries[0]
    metric = entries[0].runs[0].result.primary_metric
    if metric is None or any(metric not in run.metrics.valid for entry in entries for run in entry.runs):
        labels = "; ".join(entry.label for entry in entries)
        raise UsageError(f"no validation value of the primary metric to choose by; give results of one of: {labels}")
    better = 1.0 if higher_is_better(metric) else -1.0
    return max(entries, key=lambda entry: better * _mean([run.metrics.valid[metric] for run in entry.runs]))


def _metrics(entry: Entry, part: Callable[[MetricsRecord], dict[str, float]]) -> dict[str, BoardMetric]:
    found = {}
    for metric in part(entry.runs[0].metrics):
        seeds = {str(run.result.seed): value[metric] for run in entry.runs if metric in (value := part(run.metrics))}
        summary = summarise(list(seeds.values()), entry.model.deterministic)
        found[metric] = BoardMetric(mean=summary.mean, sd=summary.sd, ci95=summary.ci95, seeds=seeds)
    return found


def _timing(entry: Entry) -> BoardTiming | None:
    timings = [run.timing for run in entry.runs if run.timing is not None]
    if not timings:
        return None
    epochs = [second for timing in timings for second in timing.epoch_s]
    speeds = [timing.samples_per_s for timing in timings if timing.samples_per_s is not None]
    steps = [timing.device_ms_per_step for timing in timings if timing.device_ms_per_step is not None]
    return BoardTiming(
        prepare_s=_mean([timing.prepare_s for timing in timings]),
        fit_s=_mean([timing.fit_s for timing in timings]),
        epoch_s=_mean(epochs) if epochs else None,
        evaluate_s=_mean([timing.evaluate_s for timing in timings]),
        samples_per_s=_mean(speeds) if speeds else None,
        device_ms_per_step={key: _mean([step[key] for step in steps]) for key in steps[0]} if steps else None,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _status(entry: Entry, failures: Sequence[Failure], metrics: BoardMetrics) -> tuple[Status, str | None]:
    """Return the status and why. Verified: the published number for this very benchmark and metric was met."""
    if failures:
        return "partial", f"seed {failures[0].seed} failed: {failures[0].error}"
    if len(entry.runs) < SEEDS and not entry.model.deterministic:
        return "partial", f"{len(entry.runs)} of {SEEDS} seeds"
    reference, benchmark = entry.model.reference, entry.runs[0].result.benchmark
    if reference is None:
        return "unverified", "no published reference"
    if reference.benchmark != benchmark or reference.metric not in metrics.test:
        return "unverified", f"the reference is for {reference.metric} on {reference.benchmark}"
    mean = metrics.test[reference.metric].mean
    if abs(mean - reference.value) > reference.tolerance:
        expected = f"{reference.value:g} ± {reference.tolerance:g}"
        return "unverified", f"{reference.metric} {mean:.4f} is outside the published {expected}"
    return "verified", None
