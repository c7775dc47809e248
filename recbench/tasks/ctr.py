"""Task ``ctr``: the probability that a row, given by its categorical fields, is positive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbench.data.protocols.labelled import ITEMS
from recbench.data.store import Arrays
from recbench.metrics import calibration, names, pointwise
from recbench.tasks import predictions
from recbench.tasks.base import Development, Evaluation, Tables, Task, finite, per_group, without_both_classes
from recbench.tasks.batches import Ragged, blocks, to_device
from recbench.tasks.labels import over_labels
from recbench.tasks.linting import Report, lint_rows

if TYPE_CHECKING:
    import polars as pl

ROWS_AT_ONCE = 2**12
"""Predicted in one call: on a CPU larger blocks are slower, for their activations leave the cache."""
ROWS_IN_BLOCK = 1000
LEAST_ROWS = 50
"""Rows that a field's value needs to be judged by itself."""


@dataclass(frozen=True)
class Field:
    """An input field; a categorical one has the ids ``offset <= id < offset + size``, the first meaning "unseen".

    Fields that share a vocabulary have the same ids. A dense field is a number, and has one id for its vector.
    """

    name: str
    multi: bool
    size: int
    offset: int
    dense: bool = False
    sequence: int | None = None
    """A multi-valued field in order, oldest first, has the greatest number of its values."""
    vocabulary: str | None = None
    """Name of the field whose ids it has, where they are not its own: a history has the items'."""


class FieldSpace(tuple[Field, ...]):
    """All input fields, in the order in which the benchmark names them."""

    __slots__ = ()

    @property
    def single(self) -> list[Field]:
        """Fields of one id a row: the columns of ``CTRBatch.ids``."""
        return [field for field in self if not field.multi and not field.dense]

    @property
    def dense(self) -> list[Field]:
        """Fields that are numbers: the columns of ``CTRBatch.dense``."""
        return [field for field in self if field.dense]

    @property
    def multi(self) -> list[Field]:
        """Fields of any number of values a row."""
        return [field for field in self if field.multi]

    @property
    def sequences(self) -> list[Field]:
        """Those of the multi-valued fields whose values are in order."""
        return [field for field in self if field.sequence is not None]

    @property
    def n_ids(self) -> int:
        """Number of ids of all fields together."""
        return max(field.offset + field.size for field in self)


@dataclass(frozen=True)
class CTRBatch:
    """A block of B rows.

    ``ids`` (B, F) of the single-valued fields, ``multi`` a ragged per multi-valued one, ``labels`` (B,), or (B, T) with
    T labels a row, and ``dense`` (B, D) float32 of the fields that are numbers, None where there are none.
    """

    ids: Tensor
    multi: Mapping[str, Ragged]
    labels: Tensor
    dense: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Tensor) -> CTRBatch:
        """Return the given rows in the given order."""
        multi = {name: ragged.take(rows) for name, ragged in self.multi.items()}
        dense = None if self.dense is None else self.dense[rows]
        return CTRBatch(self.ids[rows], multi, self.labels[rows], dense)

    def split(self, size: int) -> Iterator[CTRBatch]:
        """Yield consecutive blocks of ``size`` rows (the last may be smaller)."""
        columns = [ragged.split(size) for ragged in self.multi.values()]
        dense = repeat(None) if self.dense is None else blocks(self.dense, size)
        singles = zip(blocks(self.ids, size), blocks(self.labels, size), dense, strict=False)
        for (ids, labels, numbers), *raggeds in zip(singles, *columns, strict=True):
            yield CTRBatch(ids, dict(zip(self.multi, raggeds, strict=True)), labels, numbers)


@dataclass(frozen=True)
class ItemTable:
    """What is known of each item: one row for each id of the field ``item``, from its offset on.

    ``fields`` are the item's own fields (the id first, then its attributes), ``rows`` their ids as a batch whose labels
    are empty, and ``vectors`` (n_items, V) float32 a given vector of each, None where the benchmark has none.
    """

    item: Field
    fields: FieldSpace
    rows: CTRBatch
    vectors: Tensor | None = None


class CTRData:
    """What a CTR model trains on, on the device: its fields, the names of its labels, the training rows, the items.

    ``items`` is None where the benchmark names no field as the item.
    """

    def __init__(
        self, fields: FieldSpace, rows: CTRBatch, labels: Sequence[str] = ("label",), items: ItemTable | None = None
    ) -> None:
        self.fields = fields
        self.labels = tuple(labels)
        self.items = items
        self._rows = rows

    def __len__(self) -> int:
        """Return the number of training rows."""
        return len(self._rows)

    @property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self._rows.ids.device

    def take(self, rows: Tensor) -> CTRData:
        """Return the data with the given training rows only: a part held out for a search, a cluster."""
        return CTRData(self.fields, self._rows.take(rows), self.labels, self.items)

    def all_rows(self) -> CTRBatch:
        """Return all training rows, in the order in which the data set has them."""
        return self._rows

    def rows(self, batch_size: int) -> Rows:
        """Supply every training row once an epoch, in random order."""
        return Rows(self._rows, batch_size)


class Rows:
    """Source of ``CTRBatch``."""

    def __init__(self, rows: CTRBatch, batch_size: int) -> None:
        self._rows = rows
        self._batch_size = batch_size

    @property
    def n_samples(self) -> int:
        """Number of training rows."""
        return len(self._rows)

    def epoch(self, generator: torch.Generator) -> Iterator[CTRBatch]:
        """Yield the batches of one epoch."""
        order = torch.randperm(len(self._rows), generator=generator, device=self._rows.ids.device)
        if len(order) % self._batch_size == 1 < len(order):
            # A last batch of one row has no variance to normalise by: one row, another each epoch, is left out.
            order = order[:-1]
        yield from self._rows.take(order).split(self._batch_size)


class Classifier(Protocol):
    """What the task asks of a model."""

    def __call__(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,), or (B, T) for T labels."""
        ...


class CTRTask(Task[CTRData, Classifier]):
    """Click-through-rate prediction, judged over all rows of the part."""

    name: ClassVar[str] = "ctr"

    def training_data(self, development: Development) -> CTRData:
        """Put the training rows on the device."""
        self.fields = FieldSpace(Field(**field) for field in development.meta["fields"])
        labels = self.benchmark.labels or ("label",)
        return CTRData(self.fields, self._batch(development.train, self.fields), labels, self._items(development))

    def _items(self, development: Development) -> ItemTable | None:
        """Return what the benchmark tells of each item."""
        told = development.meta.get("item")
        if told is None:
            return None
        field_of = {field.name: field for field in self.fields}
        item = field_of[told["field"]]
        fields = FieldSpace((item, *(field_of[name] for name in told["attributes"])))
        arrays = {
            name.removeprefix(ITEMS): values for name, values in development.shared.items() if name.startswith(ITEMS)
        }
        # A row that is no example has no label.
        rows = self._batch({**arrays, "labels": np.empty((item.size, 0), dtype=np.float32)}, fields)
        vectors = torch.tensor(arrays["vectors"], device=self.device) if "vectors" in arrays else None
        return ItemTable(item, fields, rows, vectors)

    def _batch(self, part: Arrays, fields: FieldSpace) -> CTRBatch:
        multi = {
            field.name: Ragged(
                to_device(part[f"{field.name}_values"], self.device),
                to_device(part[f"{field.name}_offsets"], self.device),
            )
            for field in fields.multi
        }
        labels = torch.tensor(part["labels"], device=self.device)
        dense = torch.tensor(part["dense"], device=self.device) if "dense" in part else None
        return CTRBatch(to_device(part["ids"], self.device), multi, labels, dense)

    def evaluate(
        self, model: Classifier, part: Arrays, *, seen: Arrays | None = None, metrics: Sequence[str] | None = None
    ) -> Evaluation:
        """Predict every row and measure."""
        rows = self._batch(part, self.fields)
        logits = torch.cat([model(block).double() for block in rows.split(ROWS_AT_ONCE)])
        if logits.shape == (len(rows), 1):
            logits = logits.squeeze(1)  # of a model for any number of labels
        return self.judge(finite(logits, tuple(rows.labels.shape), "forward()").sigmoid(), part, metrics)

    def judge_file(self, frame: pl.DataFrame, part: Arrays, seen: Arrays) -> Evaluation:
        """Judge probabilities ``row, score``, or ``row, score:<label>, ...`` where there are several labels."""
        return self.judge(predictions.row_scores(frame, len(part["labels"]), self.benchmark.labels), part)

    def judge(self, probabilities: Tensor, part: Arrays, metrics: Sequence[str] | None = None) -> Evaluation:
        """Measure predicted probabilities (N,) float64 of the part's rows, or (N, T) of T labels.

        Predictions: ``row, score``, the row's number in the part and its probability. Users are whatever groups the
        rows, or blocks of consecutive rows in a log without groups. Besides: ``reliability``, the data of the diagram,
        and ``per_field``, the metrics of each value of each field that has at least 50 rows. Of several labels, all of
        it is of each label, and metrics are averaged over them, as ``labels.over_labels`` says.
        """
        probabilities = probabilities.to(self.device)
        labels = torch.tensor(part["labels"], device=self.device)
        measured = metrics or self.benchmark.metrics
        if labels.ndim == 1:
            return self._judge(probabilities, labels, part, measured)
        columns = zip(self.benchmark.labels, probabilities.T.contiguous(), labels.T.contiguous(), strict=True)
        return over_labels({label: self._judge(scores, truth, part, measured) for label, scores, truth in columns})

    def _judge(self, probabilities: Tensor, labels: Tensor, part: Arrays, measured: Sequence[str]) -> Evaluation:
        """Measure probabilities (N,) for one label (N,)."""
        group_ids, group_of = self._groups(part)
        groups = to_device(group_of, self.device)
        values = pointwise.pointwise_metrics(probabilities, labels, measured, groups=groups)

        def tables() -> Tables:
            import polars as pl

            diagram = calibration.reliability(probabilities, labels)
            scores = probabilities.cpu().numpy()
            return Tables(
                per_user=per_group(measured, probabilities, labels, groups, group_ids),
                predictions=pl.DataFrame({"row": np.arange(len(scores)), "score": scores}),
                others={
                    "reliability": pl.DataFrame({name: column.cpu().numpy() for name, column in vars(diagram).items()}),
                    "per_field": self._per_field(probabilities, labels, part),
                },
            )

        return Evaluation(
            values,
            tables,
            diagnostics={
                "positive_share": float(labels.mean()),
                "undefined": without_both_classes(measured, labels, groups),
            },
        )

    def _groups(self, part: Arrays) -> tuple[NDArray[np.str_], NDArray[np.integer]]:
        """Return the raw ids of the groups, and the number of each row's group among them."""
        if "groups" in part:
            return self._shared["group_ids"], part["groups"]
        numbers = np.arange(len(part["labels"])) // ROWS_IN_BLOCK
        first = np.arange(numbers[-1] + 1) * ROWS_IN_BLOCK
        return np.char.add("rows from ", first.astype(str)), numbers

    def _per_field(self, probabilities: Tensor, labels: Tensor, part: Arrays) -> pl.DataFrame:
        """Return ``field, value, rows, positives`` and the pointwise metrics of all rows with that value."""
        import polars as pl

        metrics = [name for name in self.benchmark.metrics if names.pattern(name) in names.POINTWISE]
        frames = []
        for column, field in enumerate(self.fields.single):
            ids = to_device(part["ids"][:, column], self.device) - field.offset
            found = pointwise.by_group(probabilities, labels, ids, metrics)
            values = {name: values.cpu().numpy() for name, values in found.items() if name != "group"}
            raw = self._vocabulary(field.name).gather(found["group"].cpu().numpy())
            frames.append(pl.DataFrame({"field": field.name, "value": raw.cast(pl.String), **values}))
        return pl.concat(frames).filter(pl.col("rows") >= LEAST_ROWS) if frames else pl.DataFrame()

    def lint(self, test: Arrays) -> Report:
        """Look for repeated rows, and for fields that give the label away."""
        return lint_rows(self._train, test, self.fields, self.data.labels)
