"""Task ``ctr``: the probability that a row, given by its categorical fields, is positive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbench.data.protocols.leaks import count_repeated
from recbench.data.store import Arrays, Prepared
from recbench.errors import RecbenchError
from recbench.metrics import pointwise
from recbench.tasks.base import Evaluation, Tables, Task
from recbench.tasks.batches import Ragged, blocks, to_device

ROWS_AT_ONCE = 2**14
ROWS_IN_BLOCK = 1000


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
    def n_ids(self) -> int:
        """Number of ids of all fields together."""
        return max(field.offset + field.size for field in self)


@dataclass(frozen=True)
class CTRBatch:
    """A block of B rows.

    ``ids`` (B, F) of the single-valued fields, ``multi`` a ragged per multi-valued one, ``labels`` (B,), and ``dense``
    (B, D) float32 of the fields that are numbers, None where there are none.
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


class CTRData:
    """What a CTR model trains on: its fields and the training rows, on the device."""

    def __init__(self, fields: FieldSpace, rows: CTRBatch) -> None:
        self.fields = fields
        self._rows = rows

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
        yield from self._rows.take(order).split(self._batch_size)


class Classifier(Protocol):
    """What the task asks of a model."""

    def __call__(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        ...


class CTRTask(Task[CTRData, Classifier]):
    """Click-through-rate prediction, judged over all rows of the part."""

    name: ClassVar[str] = "ctr"

    def training_data(self, shared: Arrays, train: Arrays, prepared: Prepared) -> CTRData:
        """Put the training rows on the device."""
        self.fields = FieldSpace(Field(**field) for field in prepared.meta["fields"])
        return CTRData(self.fields, self._batch(train))

    def _batch(self, part: Arrays) -> CTRBatch:
        multi = {
            field.name: Ragged(
                to_device(part[f"{field.name}_values"], self.device),
                to_device(part[f"{field.name}_offsets"], self.device),
            )
            for field in self.fields.multi
        }
        labels = torch.tensor(part["labels"], device=self.device)
        dense = torch.tensor(part["dense"], device=self.device) if "dense" in part else None
        return CTRBatch(to_device(part["ids"], self.device), multi, labels, dense)

    def evaluate(self, model: Classifier, part: Arrays, *, seen: Arrays | None = None) -> Evaluation:
        """Predict every row and measure.

        Predictions: ``row, score``, the row's number in the part and the predicted probability. Log loss per user (or
        whatever groups the rows), or per block of consecutive rows in a log without groups.
        """
        rows = self._batch(part)
        logits = torch.cat([model(block).double() for block in rows.split(ROWS_AT_ONCE)])
        if logits.shape != rows.labels.shape:
            raise RecbenchError(f"forward() returned shape {tuple(logits.shape)}, expected {tuple(rows.labels.shape)}")
        if not bool(torch.isfinite(logits).all()):
            raise RecbenchError(f"{int((~torch.isfinite(logits)).sum())} of {len(logits)} predictions are not finite")
        probabilities = logits.sigmoid()

        def tables() -> Tables:
            import polars as pl

            losses = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, rows.labels.double(), reduction="none"
            )
            by_row = pl.DataFrame({"user": self._groups(part), "logloss": losses.cpu().numpy()})
            scores = probabilities.cpu().numpy()
            return Tables(
                per_user=by_row.group_by("user").agg(pl.col("logloss").mean()).sort("user"),
                predictions=pl.DataFrame({"row": np.arange(len(scores)), "score": scores}),
            )

        return Evaluation(
            metrics=pointwise.pointwise_metrics(probabilities, rows.labels, list(self.benchmark.metrics)),
            tables=tables,
            diagnostics={"positive_share": float(rows.labels.mean())},
        )

    def _groups(self, part: Arrays) -> NDArray[np.str_]:
        """Return the raw id of each row's group."""
        if "groups" in part:
            return self._shared["group_ids"][part["groups"]]
        first = np.arange(len(part["labels"])) // ROWS_IN_BLOCK * ROWS_IN_BLOCK
        return np.char.add("rows from ", first.astype(str))

    def leaks(self, test: Arrays) -> list[str]:
        """Find test rows whose single-valued fields all equal those of a training row (the same event twice)."""
        if "dense" in test:
            return []  # equal ids do not make the same event
        multipliers = np.random.default_rng(0).integers(1, 2**62, test["ids"].shape[1])
        # One 64-bit key a row, wrapping around: equal rows have equal keys, others almost surely not.
        keys = (test["ids"] * multipliers).sum(axis=1)
        train = (self._train["ids"] * multipliers).sum(axis=1)
        count = count_repeated(keys, train)
        return [f"{count} test rows have the same fields as a training row"] if count else []
