"""Suites: many runs (benchmarks x models x seeds), resumable, with a row for every failure."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from recbench.errors import UsageError, unknown
from recbench.resources import shipped
from recbench.running.plan import Plan, make_plan
from recbench.running.result import RECORD, Result, read_result, write_result
from recbench.running.workers import Limits, default_memory_mb, run_all
from recbench.tasks.base import read_config
from recbench.tracking.mlflow import finish_parent, start_parent


class Entry(BaseModel):
    """Models to run on a benchmark, with values that differ from their configurations."""

    model_config = ConfigDict(extra="forbid")

    benchmark: str
    models: tuple[str, ...]
    values: dict[str, Any] = {}


class Suite(BaseModel):
    """``configs/suites/<name>.yaml``. Models that all seeds leave the same run with the first seed only."""

    model_config = ConfigDict(extra="forbid")

    title: str
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    run_minutes: Annotated[float, Field(gt=0)] = 30
    """Time limit of one run."""
    runs: Annotated[tuple[Entry, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Job:
    """One run of a suite, as it travels to its process."""

    benchmark: str
    model: str
    values: Mapping[str, Any]
    seed: int
    out: Path
    parent_run_id: str | None


@dataclass(frozen=True)
class Done:
    """How one run of a suite ended."""

    job: Job
    result: Result
    position: int
    """From 1 in the order of ending."""
    total: int


def suite_names() -> list[str]:
    """Return the names of the suites shipped."""
    return sorted(path.stem for path in shipped("configs", "suites").glob("*.yaml"))


def load_suite(name_or_file: str) -> Suite:
    """Return the suite of that name, or in that file."""
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml"):
        if name_or_file not in suite_names():
            raise unknown("suite", name_or_file, suite_names(), "or give a YAML file")
        path = shipped("configs", "suites", f"{name_or_file}.yaml")
    elif not path.is_file():
        raise UsageError(f"suite file {path} does not exist")
    return read_config(path, lambda content: Suite(**content))


def run_suite(
    suite: Suite, name: str, out: Path, *, jobs: int, tracking: bool, on_done: Callable[[Done], None]
) -> list[Result]:
    """Run all of a suite that has no finished result under ``out`` yet, ``jobs`` at a time; return all results.

    Every run is its own process: a crash, a memory or time limit that is reached becomes a failed result, and the
    rest goes on. ``on_done`` is told of each as it ends, those that were finished before first.
    """
    planned = _plan(suite, out)
    total = len(planned)
    results: list[Result] = []
    waiting: list[Job] = []

    def done(job: Job, result: Result) -> None:
        results.append(result)
        on_done(Done(job, result, len(results), total))

    for job, plan in planned:
        finished = plan.finished(out)
        if finished is not None:
            done(job, finished)
        else:
            waiting.append(job)
    if not waiting:
        return results
    parent = start_parent("suites", name) if tracking else None
    threads = max(1, (os.cpu_count() or 1) // jobs)
    values = {"threads": threads, "tracking": tracking}
    started = [
        Job(job.benchmark, job.model, {**values, **job.values}, job.seed, out.resolve(), parent) for job in waiting
    ]
    try:
        limits = Limits(suite.run_minutes * 60, default_memory_mb(jobs))
        for outcome in run_all(execute_job, started, jobs, limits):
            done(outcome.job, _recorded(outcome.job, outcome.error))
    finally:
        finish_parent(parent)
    return results


def _plan(suite: Suite, out: Path) -> list[tuple[Job, Plan]]:
    """Resolve every run before the first begins, so that a wrong name or key stops the suite at once."""
    planned: list[tuple[Job, Plan]] = []
    for entry in suite.runs:
        for model in entry.models:
            for seed in suite.seeds:
                plan = make_plan(entry.benchmark, model, entry.values, seed)
                planned.append((Job(entry.benchmark, model, entry.values, seed, out, None), plan))
                if plan.model.deterministic:
                    break
    return planned


def execute_job(job: Job) -> None:
    """Carry out one run; its result is in its directory."""
    from recbench.running.run import execute  # the parent need not import torch's optimisers

    execute(make_plan(job.benchmark, job.model, job.values, job.seed), job.out, parent_run_id=job.parent_run_id)


def _recorded(job: Job, error: str | None) -> Result:
    """Return the result in the job's directory; a process that could not write one leaves its failure here."""
    plan = make_plan(job.benchmark, job.model, job.values, job.seed)
    directory = plan.directory(job.out)
    if (directory / RECORD).is_file():
        result = read_result(directory)
        # What else is there is the failure of an earlier attempt.
        if result.status == "finished" or result.error == error:
            return result
    from recbench.running.run import blank_result

    result = blank_result(plan)
    result.error = error or "the run ended without a result"
    write_result(directory, result)
    return result
