"""What all tasks share: the benchmark's definition, the sealed test part, and the form of an evaluation."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, TypeVar

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator

from recbench.data.protocols import AnyProtocol, Implicit
from recbench.data.protocols.labelled import Labelled
from recbench.data.store import Arrays, Prepared, read_vocabulary
from recbench.errors import RecbenchError, UsageError, unknown
from recbench.metrics import names, pointwise
from recbench.resources import shipped
from recbench.tasks.linting import Report

if TYPE_CHECKING:
    import polars as pl
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

log = logging.getLogger("recbench")


Column = Annotated[str, StringConstraints(pattern=r"^\w+\.\w+$")]
"""A column of a dataset's table, ``<table>.<column>``; the evaluator alone reads it, beside the protocol's arrays."""

ACTIVITY = "activity"
"""Attribute that every benchmark has: the quartile of the user's number of training items."""


class Benchmark(BaseModel):
    """A dataset, a protocol, a task and a primary metric: ``configs/benchmarks/<task>/<name>.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    dataset: str
    title: str
    protocol: AnyProtocol
    primary_metric: str
    metrics: tuple[str, ...]
    user_groups: Mapping[str, Column] = {}
    """Attributes by which users are grouped for ``gap:<attribute>:<metric>``."""
    item_features: Column | None = None
    """What items are described by for ``ild@k`` and ``miscalibration@k``."""
    refit: bool = False
    """Judge the test part with a model trained again, on training and validation data together, for as many epochs as
    were best on validation: how tables on a split without a validation part were made."""
    keep_valid: bool = False
    """Validation items stay candidates when the test part is judged, as in the code of some papers; else they are
    seen by then and not ranked."""
    name: str
    """Full name, ``<task>/<name>``, as the file's place says."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels of a row, where it has several."""
        return tuple(self.protocol.labels or ()) if isinstance(self.protocol, Labelled) else ()

    @model_validator(mode="after")
    def _can_be_measured(self) -> Benchmark:
        if self.primary_metric not in self.metrics:
            raise UsageError(f"primary_metric '{self.primary_metric}' is not among metrics {list(self.metrics)}")
        names.validate(self.metrics, self.task)
        names.higher_is_better(self.primary_metric)
        if (self.user_groups or self.item_features) and names.BEYOND not in names.OF_TASK.get(self.task, ()):
            raise UsageError(f"user_groups and item_features describe lists of items, which task {self.task} has not")
        if ACTIVITY in self.user_groups:
            raise UsageError(
                f"user_groups: '{ACTIVITY}' is the name of the groups by number of training items; choose another"
            )
        if self.refit and not (isinstance(self.protocol, Implicit) and self.protocol.joins):
            raise UsageError(
                "refit: true needs a protocol of interactions whose users are all in training, in no order"
            )
        if self.keep_valid and not isinstance(self.protocol, Implicit):
            raise UsageError(f"keep_valid: true is about lists of items, which task {self.task} has not")
        if self.keep_valid and self.refit:
            raise UsageError("keep_valid and refit: with both true, validation items would be trained on and asked for")
        ungrouped = isinstance(self.protocol, Labelled) and self.protocol.group is None
        for metric in self.metrics:
            if ungrouped and metric in names.GROUPED:
                raise UsageError(f"metric '{metric}' needs groups of rows, and the protocol has group: null")
            if (of := names.gap(metric)) is not None and of[0] not in (*self.user_groups, ACTIVITY):
                known = ", ".join([*self.user_groups, ACTIVITY])
                raise UsageError(f"metric '{metric}' needs groups of users by '{of[0]}', there are: {known}")
            if names.pattern(metric) in {"ild@k", "miscalibration@k"} and self.item_features is None:
                raise UsageError(f"metric '{metric}' needs item_features, a table and column as in items.genres")
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
            raise UsageError(f"expected a mapping of keys, found {type(content).__name__}")
        return make(content)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
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
    """Column ``user`` and one column a metric.

    A column ``<metric>~linearised`` has pseudo-values of a metric that is no mean over users: their mean is the metric,
    and their spread over users tells its standard error.
    """
    predictions: pl.DataFrame
    """Columns as the task says."""
    others: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    """Further tables by the name of their file."""


@dataclass(frozen=True)
class Evaluation:
    """What judging a model, or a prediction file, on one part gives."""

    metrics: dict[str, float]
    tables: Callable[[], Tables]
    """Makes the tables; a validation inside training needs none."""
    diagnostics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Development:
    """All of a prepared dataset but the test part: what training, early stopping and tuning may see."""

    shared: Arrays
    train: Arrays
    valid: Arrays
    meta: Mapping[str, Any]
    split_sha256: str
    vocabulary: Callable[[str], pl.Series]
    """Gives a field's raw values by id."""

    @classmethod
    def of(cls, prepared: Prepared) -> Development:
        """Open everything but the test part."""
        shared, train, valid = map(prepared.part, ("shared", "train", "valid"))
        vocabulary = partial(read_vocabulary, prepared.directory)
        return cls(shared, train, valid, prepared.meta, prepared.split_sha256, vocabulary)

    def joined(self) -> Development:
        """Return training and validation interactions as one training part; the validation part is then empty."""
        both = {name: np.concatenate([self.train[name], self.valid[name]]) for name in ("users", "items")}
        order = np.lexsort((both["items"], both["users"]))
        train = {name: values[order] for name, values in both.items()}
        return replace(self, train=train, valid={name: values[:0] for name, values in train.items()})


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

    def __init__(self, benchmark: Benchmark, development: Development, device: torch.device) -> None:
        self.benchmark = benchmark
        self.device = device
        self._shared = development.shared
        self._train = development.train
        self._valid = development.valid
        self._vocabulary = development.vocabulary
        self.data = self.training_data(development)

    @abstractmethod
    def training_data(self, development: Development) -> DataT:
        """Put on the device what models train on."""

    @abstractmethod
    def evaluate(
        self, model: ModelT, part: Arrays, *, seen: Arrays | None = None, metrics: Sequence[str] | None = None
    ) -> Evaluation:
        """Judge a model on a part by some metrics, or all of the benchmark's.

        ``seen`` is a further part whose items are not ranked.
        """

    @abstractmethod
    def judge_file(self, frame: pl.DataFrame, part: Arrays, seen: Arrays) -> Evaluation:
        """Judge predictions made elsewhere, a frame of raw ids in the form of ``Tables.predictions``.

        Raises ``RecbenchError`` for a frame that is not of that form, or breaks the protocol.
        """

    @abstractmethod
    def lint(self, test: Arrays) -> Report:
        """Look for leaks: what training data, validation data or features tell of the test targets."""

    def watch(self, model: ModelT) -> dict[str, float]:
        """Return the validation metrics that training watches: the cheap ones, and the primary one."""
        watched = [
            name
            for name in self.benchmark.metrics
            if name == self.benchmark.primary_metric
            or (names.pattern(name) in (*names.POINTWISE, *names.RANK, *names.LISTS) and names.gap(name) is None)
        ]
        return self.evaluate(model, self._valid, metrics=watched).metrics

    def validate(self, model: ModelT) -> Evaluation:
        """Judge a model on the validation part."""
        return self.evaluate(model, self._valid)

    @property
    def _seen(self) -> Arrays:
        """What is not ranked when the test part is judged, besides training and what is shown."""
        return {name: values[:0] for name, values in self._valid.items()} if self.benchmark.keep_valid else self._valid

    def test(self, model: ModelT, sealed: SealedTest) -> tuple[Evaluation, Report]:
        """Open the test part, judge the model on it, and return what the leakage linter found beside."""
        part = sealed.open()
        return self.evaluate(model, part, seen=self._seen), self.lint(part)

    def test_file(self, frame: pl.DataFrame, sealed: SealedTest) -> tuple[Evaluation, Report]:
        """Open the test part and judge predictions made elsewhere, as ``test`` judges a model."""
        part = sealed.open()
        return self.judge_file(frame, part, self._seen), self.lint(part)


def finite(values: Tensor, expected: tuple[int, ...], method: str) -> Tensor:
    """Return what a model's ``method`` gave as float64, if it is of the expected shape and finite."""
    if values.shape != expected:
        raise RecbenchError(f"{method} returned shape {tuple(values.shape)}, expected {expected}")
    broken = int((~values.isfinite()).sum())
    if broken:
        raise RecbenchError(f"{broken} of {values.numel()} predictions are NaN or infinite, expected finite numbers")
    return values.double()


def without_both_classes(metrics: Sequence[str], labels: Tensor, groups: Tensor) -> dict[str, int]:
    """Return how many groups gauc and uauc leave out, whose labels are of one class; only those that leave out any."""
    sizes = groups.bincount()
    positives = groups[labels > 0].bincount(minlength=len(sizes))
    left_out = int(((sizes > 0) & ((positives == 0) | (positives == sizes))).sum())
    return {name: left_out for name in metrics if name in names.GROUPED and left_out}


def per_group(
    metrics: Sequence[str], predictions: Tensor, labels: Tensor, groups: Tensor, group_ids: NDArray[np.str_]
) -> pl.DataFrame:
    """Return the table ``Tables.per_user`` of pointwise metrics.

    Columns: ``user``, the raw id of the group; ``rows``; each metric of the group's own rows, NaN where it has none;
    and ``<metric>~linearised``.

    Args:
        metrics: names of the benchmark's metrics; those that are not pointwise are passed over.
        predictions: (N,).
        labels: (N,).
        groups: (N,) each row's position in ``group_ids``.
        group_ids: raw ids.
    """
    import polars as pl

    of_group = [name for name in metrics if names.pattern(name) in names.POINTWISE]
    columns = pointwise.by_group(predictions, labels, groups, of_group)
    numbers = columns.pop("group")
    del columns["positives"]
    for name in metrics:
        if names.pattern(name) in pointwise.LINEARISED:
            columns[name + names.LINEARISED_SUFFIX] = pointwise.linearised(predictions, labels, groups, name)[1]
    values = {name: column.cpu().numpy() for name, column in columns.items()}
    return pl.DataFrame({"user": group_ids[numbers.cpu().numpy()], **values})
