"""What all tasks share: the benchmark's definition, the sealed test part, and the form of an evaluation."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from recbench.data.protocols import AnyProtocol
from recbench.data.protocols.leaks import count_repeated
from recbench.data.store import Arrays, Prepared
from recbench.errors import RecbenchError, UsageError, unknown
from recbench.metrics import names
from recbench.resources import shipped

if TYPE_CHECKING:
    import polars as pl
    import torch

log = logging.getLogger("recbench")


class Benchmark(BaseModel):
    """A dataset, a protocol, a task and a primary metric: ``configs/benchmarks/<task>/<name>.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    dataset: str
    title: str
    protocol: AnyProtocol
    primary_metric: str
    metrics: tuple[str, ...]
    name: str
    """Full name, ``<task>/<name>``, as the file's place says."""

    @model_validator(mode="after")
    def _primary_is_measured(self) -> Benchmark:
        if self.primary_metric not in self.metrics:
            raise ValueError(f"primary_metric '{self.primary_metric}' is not among metrics {list(self.metrics)}")
        names.validate(self.metrics)
        return self


def _benchmark_files() -> dict[str, Path]:
    """Return the file of each benchmark by full name: the working folder's own go before the shipped ones."""
    roots = (shipped("configs", "benchmarks"), Path("configs", "benchmarks"))
    return {path.relative_to(root).with_suffix("").as_posix(): path for root in roots for path in root.glob("*/*.yaml")}


def benchmark_names() -> list[str]:
    """Return the full names of all benchmarks."""
    return sorted(_benchmark_files())


def load_benchmark(name: str) -> Benchmark:
    """Return the benchmark of that full name: ``configs/benchmarks/<task>/<name>.yaml`` here, else the one shipped."""
    files = _benchmark_files()
    if name not in files:
        raise unknown("benchmark", name, files, "recbench benchmarks list")
    path = files[name]
    return read_config(path, lambda content: Benchmark(name=name, task=name.partition("/")[0], **content))


ConfigT = TypeVar("ConfigT")


def read_config(path: Path, make: Callable[[dict[str, Any]], ConfigT]) -> ConfigT:
    """Read a YAML mapping and make a configuration of it; any fault is one sentence with the file and the key."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise UsageError(f"{path}: expected a mapping of keys, found {type(content).__name__}")
        return make(content)
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UsageError(f"{path}: {where}: {first['msg']}") from None


@dataclass(frozen=True)
class Tables:
    """The stored side of an evaluation, with raw ids throughout."""

    per_user: pl.DataFrame
    """Column ``user`` and one column a metric."""
    predictions: pl.DataFrame
    """Columns as the task says."""


@dataclass(frozen=True)
class Evaluation:
    """What judging a model on one part gives."""

    metrics: dict[str, float]
    tables: Callable[[], Tables]
    """Makes the tables; a validation inside training needs none."""
    diagnostics: dict[str, float] = field(default_factory=dict)


class SealedTest:
    """The test part, which only the evaluator opens, once, when a run has finished training."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._opened = False

    def open(self) -> Arrays:
        """Return the arrays of the test part and log that they were opened."""
        if self._opened:
            raise RecbenchError("the test part was opened before; a run is judged once, after training")
        self._opened = True
        log.info("test labels opened for the final evaluation")
        return self._prepared.part("test")


DataT = TypeVar("DataT")
ModelT = TypeVar("ModelT")


class Task(ABC, Generic[DataT, ModelT]):
    """The contract between prepared data and a model.

    ``data`` is what a model trains on: nothing in it, or reachable from it, holds validation or test labels.
    """

    name: ClassVar[str]

    def __init__(self, benchmark: Benchmark, prepared: Prepared, device: torch.device) -> None:
        self.benchmark = benchmark
        self.device = device
        self._shared = prepared.part("shared")
        self._train = prepared.part("train")
        self._valid = prepared.part("valid")
        self.data = self.training_data(self._shared, self._train, prepared)

    @abstractmethod
    def training_data(self, shared: Arrays, train: Arrays, prepared: Prepared) -> DataT:
        """Put on the device what models train on."""

    @abstractmethod
    def evaluate(self, model: ModelT, part: Arrays, *, seen: Arrays | None = None) -> Evaluation:
        """Judge a model on a part; ``seen`` is a further part whose items are not ranked."""

    @abstractmethod
    def leaks(self, test: Arrays) -> list[str]:
        """Return findings of test targets that training or validation data hold (empty where all is well)."""

    def validate(self, model: ModelT) -> Evaluation:
        """Judge a model on the validation part."""
        return self.evaluate(model, self._valid)

    def test(self, model: ModelT, sealed: SealedTest) -> tuple[Evaluation, list[str]]:
        """Open the test part, judge the model on it, and return the leakage findings beside."""
        part = sealed.open()
        return self.evaluate(model, part, seen=self._valid), self.leaks(part)


def repeated_pairs(test: Arrays, others: Mapping[str, Arrays], n_items: int) -> list[str]:
    """Return a sentence for each of the ``others`` that holds user-item pairs of the test part."""
    keys = {name: part["users"].astype(np.int64) * n_items + part["items"] for name, part in others.items()}
    target = test["users"].astype(np.int64) * n_items + test["items"]
    counts = {name: count_repeated(target, known) for name, known in keys.items()}
    return [f"{count} test pairs are also in the {name} part" for name, count in counts.items() if count]
