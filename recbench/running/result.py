"""The result of one run: the record ``result.json`` and the directory that holds it.

A directory ``<out>/<task>/<name>/<model>/seed-<n>/`` has ``result.json``, ``predictions.parquet``, ``per_user.parquet``
and ``log.txt``. The record is written last and by renaming, so a directory with a record is a whole one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from recbench.errors import RecbenchError, UsageError

RECORD = "result.json"
PREDICTIONS = "predictions.parquet"
PER_USER = "per_user.parquet"
LOG = "log.txt"
CHECKPOINT = "checkpoint"

SCORED = "file"
"""Version of a model known by its predictions alone. Not the file's digest: the files of all seeds are one model."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DatasetRecord(_Part):
    """Which data: the card's name and version, and the digest of the raw files' sha256."""

    name: str
    version: str
    sha256: str


class ProtocolRecord(_Part):
    """How the data became train, valid and test; ``split_sha256`` is the digest of the prepared arrays."""

    name: str
    version: str
    split_sha256: str


class ReferenceRecord(_Part):
    """A published number, kept apart from measured ones and never ranked."""

    source: str
    benchmark: str
    metric: str
    value: float
    tolerance: float


class ModelRecord(_Part):
    """The model, its number of trained parameters, and where its code is when it is not the package's own."""

    name: str
    version: str
    parameters: int
    deterministic: bool
    reference: ReferenceRecord | None = None
    source: str | None = None
    source_sha256: str | None = None


class MetricsRecord(_Part):
    """Metric values on the validation and on the test part."""

    valid: dict[str, float]
    test: dict[str, float]


class TimingRecord(_Part):
    """Seconds of each phase; ``device_ms_per_step`` (p50, p95) only on CUDA."""

    prepare_s: float
    fit_s: float
    epoch_s: list[float]
    evaluate_s: float
    samples_per_s: float | None
    device_ms_per_step: dict[str, float] | None


class MemoryRecord(_Part):
    """Peak memory in mebibytes; ``peak_device_mb`` only on CUDA."""

    peak_rss_mb: float
    peak_device_mb: float | None


class BudgetRecord(_Part):
    """What tuning the configuration cost; zero for default or hand-given configurations."""

    trials: int = 0
    tune_s: float = 0.0


class EnvironmentRecord(_Part):
    """The software and hardware of the run."""

    python: str
    torch: str
    cpu: str
    device: str
    driver: str | None
    threads: int
    git_commit: str | None
    lock_sha256: str | None
    packages: dict[str, str]


class FindingRecord(_Part):
    """What one check of the leakage linter found; a severe finding puts the metrics in doubt."""

    check: str
    count: int
    message: str
    severe: bool


class LeakageRecord(_Part):
    """The checks that the leakage linter made, and what they found; a check without a finding found nothing."""

    checks: list[str]
    findings: list[FindingRecord]


class Result(_Part):
    """``result.json``. A failed run has ``error`` and only the parts known when it failed.

    The result of a prediction file has neither timing nor memory, for the work was done elsewhere.
    """

    schema_version: Literal[1] = 1
    status: Literal["finished", "failed"]
    error: str | None = None
    task: str
    benchmark: str
    """Full name, such as ``topn/ml-100k``."""
    primary_metric: str | None = None
    seed: int
    dataset: DatasetRecord | None = None
    protocol: ProtocolRecord | None = None
    model: ModelRecord | None = None
    config: dict[str, Any] = {}
    """The model's fully resolved configuration."""
    settings: dict[str, Any] = {}
    """How it was run: device, precision, threads, tracking and the like."""
    metrics: MetricsRecord | None = None
    timing: TimingRecord | None = None
    memory: MemoryRecord | None = None
    energy_j: float | None = None
    budget: BudgetRecord = BudgetRecord()
    environment: EnvironmentRecord | None = None
    mlflow: dict[str, str | None] = {"run_id": None}
    leakage: LeakageRecord | None = None
    diagnostics: dict[str, Any] = {}
    """What the evaluator noticed: tie rate, short lists, users without truth, best epoch."""


def result_dir(out: Path, benchmark: str, model: str, seed: int) -> Path:
    """Return the directory of one run; ``benchmark`` is the full name (``topn/ml-100k``)."""
    return out / benchmark / model / f"seed-{seed}"


def write_result(directory: Path, result: Result) -> None:
    """Write the record to a temporary name and rename it, so that it exists whole or not at all."""
    write_atomic(directory / RECORD, json.dumps(result.model_dump(mode="json"), indent=2, allow_nan=False) + "\n")


def write_atomic(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` through a temporary file beside it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise RecbenchError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that can be written to and has room"
        ) from error


def read_result(path: Path) -> Result:
    """Read a record, given its file or its directory."""
    file = path / RECORD if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"{path} holds no {RECORD}; give a result directory or the file itself")
    try:
        return Result.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise RecbenchError(f"{file}: {where}: {first['msg']}; it is not a result record of this version") from None


def find_results(roots: Iterable[Path]) -> Iterator[tuple[Path, Result]]:
    """Yield (directory, record) of every result under ``roots``, sorted by path; a root must exist and hold one."""
    for root in roots:
        if not root.exists():
            raise UsageError(f"{root} does not exist; give directories that hold results")
        files = [root] if root.is_file() else sorted(root.rglob(RECORD))
        if not files:
            raise UsageError(f"no {RECORD} under {root}; run a benchmark with --out {root} first")
        for file in files:
            yield file.parent, read_result(file)
