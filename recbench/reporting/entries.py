"""Results sorted into what may be compared: one benchmark and split, one model and configuration, seeds."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbench.errors import RecbenchError
from recbench.running.result import (
    FindingRecord,
    MemoryRecord,
    MetricsRecord,
    ModelRecord,
    ProtocolRecord,
    Result,
    TimingRecord,
    find_results,
)


@dataclass(frozen=True)
class Run:
    """One finished run: its directory, its record, and the parts of the record that a finished run has.

    ``timing`` and ``memory`` are None for a scored prediction file.
    """

    directory: Path
    result: Result
    model: ModelRecord
    protocol: ProtocolRecord
    metrics: MetricsRecord
    timing: TimingRecord | None
    memory: MemoryRecord | None

    @property
    def severe(self) -> list[FindingRecord]:
        """What the leakage checks found that puts the metrics in doubt."""
        return [finding for finding in self.result.leakage.findings if finding.severe] if self.result.leakage else []


@dataclass(frozen=True)
class Entry:
    """All finished runs of one model with one configuration, by seed; ``label`` tells configurations apart."""

    label: str
    runs: list[Run]

    @property
    def model(self) -> ModelRecord:
        """The model, the same in all runs."""
        return self.runs[0].model

    @property
    def memory(self) -> MemoryRecord | None:
        """The peak over all runs; None where it is not known."""
        memories = [run.memory for run in self.runs if run.memory is not None]
        device = [memory.peak_device_mb for memory in memories if memory.peak_device_mb is not None]
        if not memories:
            return None
        return MemoryRecord(
            peak_rss_mb=max(memory.peak_rss_mb for memory in memories), peak_device_mb=max(device, default=None)
        )

    def values(self, metric: str) -> dict[int, float]:
        """Return the test values of ``metric`` by seed."""
        return {run.result.seed: run.metrics.test[metric] for run in self.runs if metric in run.metrics.test}


@dataclass(frozen=True)
class Failure:
    """A run that failed."""

    model: str
    seed: int
    error: str
    config: dict[str, Any]


@dataclass
class Group:
    """Results that may be compared: one benchmark, one split. ``split_sha256`` is None if every run failed early."""

    benchmark: str
    split_sha256: str | None
    entries: list[Entry]
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def group_results(directories: Iterable[Path]) -> list[Group]:
    """Sort the results under ``directories`` into groups that may be compared, and in them into entries."""
    found = {directory.resolve(): (directory, result) for directory, result in find_results(directories)}
    finished: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    failures: dict[str, list[tuple[str | None, Failure]]] = defaultdict(list)
    for directory, result in found.values():
        if result.status == "finished":
            run = _finished(directory, result)
            finished[result.benchmark][run.protocol.split_sha256].append(run)
        else:
            # A run can fail before its model is built; the directory layout still names it.
            name = result.model.name if result.model else directory.parent.name
            split = result.protocol.split_sha256 if result.protocol else None
            failure = Failure(name, result.seed, result.error or "no reason recorded", result.config)
            failures[result.benchmark].append((split, failure))
    groups = []
    for benchmark in sorted({*finished, *failures}):
        splits = finished[benchmark]
        mine = []
        for split, runs in sorted(splits.items()):
            entries, warnings = _entries(runs)
            mine.append(Group(benchmark, split, entries, warnings=warnings))
        mine = mine or [Group(benchmark, None, [])]
        if len(mine) > 1:
            for group in mine:
                group.warnings.append(
                    f"{benchmark} was run on {len(mine)} different splits; their results cannot be compared and are "
                    "shown apart"
                )
        for of_split, failure in failures[benchmark]:
            next((group for group in mine if group.split_sha256 == of_split), mine[0]).failures.append(failure)
        groups += mine
    return groups


def _finished(directory: Path, result: Result) -> Run:
    model, protocol, metrics = result.model, result.protocol, result.metrics
    if model is None or protocol is None or metrics is None:
        raise RecbenchError(
            f"{directory}: the result is marked finished but lacks its model, protocol or metrics; delete the "
            "directory and run it again"
        )
    return Run(directory, result, model, protocol, metrics, result.timing, result.memory)


def _entries(runs: Sequence[Run]) -> tuple[list[Entry], list[str]]:
    """Return one entry for each model and configuration, and a warning for each model that is there twice."""
    by_key: dict[tuple[str, str], dict[int, Run]] = defaultdict(dict)
    ignored: dict[tuple[str, Path, Path], list[int]] = defaultdict(list)
    for run in runs:
        seeds = by_key[run.model.name, json.dumps(_identity(run), sort_keys=True)]
        kept = seeds.setdefault(run.result.seed, run)
        if kept is not run:
            ignored[run.model.name, kept.directory.parent, run.directory.parent].append(run.result.seed)
    warnings = [
        f"{model} with seed {', '.join(map(str, seeds))} is there twice; used {kept}, ignored {other}"
        for (model, kept, other), seeds in ignored.items()
    ]
    entries = []
    for (model, _), seeds in sorted(by_key.items()):
        run = next(iter(seeds.values()))
        rivals = [_identity(next(iter(other.values()))) for (name, _), other in by_key.items() if name == model]
        keys = sorted({key for rival in rivals for key in rival if any(r.get(key) != rival[key] for r in rivals)})
        differing = [f"{key}={_identity(run).get(key)}" for key in keys]
        entries.append(Entry(" ".join([model, *differing]), [seeds[seed] for seed in sorted(seeds)]))
    return entries, warnings


def _identity(run: Run) -> dict[str, Any]:
    """Return what makes two runs of one model runs of the same thing: configuration, version and code."""
    source = (run.model.source_sha256 or "")[:8]
    return {**run.result.config, "version": run.model.version, "source": source}
