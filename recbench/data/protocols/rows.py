"""The rows of click logs on their way to arrays: read once, split, encoded, written."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recbench.data.protocols import encoding, leaks, splits
from recbench.data.protocols.base import PART_NAMES
from recbench.data.protocols.encoding import Dictionary, Encoder, Lists
from recbench.data.protocols.fields import FieldSpec
from recbench.data.protocols.histories import History, past
from recbench.data.protocols.items import ItemRows
from recbench.data.protocols.splits import Log
from recbench.data.store import Writer
from recbench.errors import RecbenchError

if TYPE_CHECKING:
    from recbench.data.protocols.labelled import Labelled


class Rows:
    """The rows of all tables on their way to arrays."""

    def __init__(self, protocol: Labelled, folder: Path) -> None:
        self._protocol = protocol
        self._vocabularies = {
            field.name: encoding.Vocabulary(field.min_count) for field in protocol.fields if not field.vocabulary
        }
        self.encoders = {field.name: self._encoder(field, folder) for field in protocol.fields}
        self._histories = [encoder for encoder in self.encoders.values() if isinstance(encoder, History)]
        self._items: ItemRows | None = None
        self._labels: list[NDArray[np.float32]] = []
        self._parts: list[NDArray[np.int8]] = []
        self._keys: dict[str, Dictionary] = {}
        self._codes: dict[str, list[NDArray[np.int32]]] = {}
        self._times: list[NDArray[np.float64]] = []
        self.n_rows = 0

    def _encoder(self, field: FieldSpec, folder: Path) -> Encoder:
        if field.dense:
            return encoding.Numbers(field, folder)
        if field.transform == "quantile":
            return encoding.Quantiles(field, folder)
        if field.history_of:
            kind: type[encoding.Tokens] = History
        else:
            kind = encoding.Buckets if field.transform else Lists if field.ragged else encoding.Tokens
        return kind(field, folder, self._vocabularies[field.vocabulary or field.name])

    def close(self) -> None:
        """Close the fields' files."""
        for encoder in self.encoders.values():
            encoder.close()

    def read(self, batch: pl.DataFrame, part: int) -> None:
        """Take the next rows in."""
        for encoder in self.encoders.values():
            if not isinstance(encoder, History):
                encoder.read(batch[encoder.spec.source])
        self._labels.append(batch.select(self._protocol.label_columns).to_numpy())
        self._parts.append(np.full(len(batch), part, dtype=np.int8))
        keys = {self._protocol.group} if self._protocol.group else set()
        if self._protocol.keyed:
            keys |= {"user", "item"} & set(batch.columns)
            if "timestamp" in batch.columns:
                self._times.append(batch["timestamp"].to_numpy())
        for key in keys:
            self._append_key(key, batch[key])
        self.n_rows += len(batch)

    def read_items(self, table: pl.DataFrame) -> None:
        """Take in what the table of items, one row an item, has of every item, when all rows are read."""
        spec = self._protocol.item
        assert spec is not None
        item = self.encoders[spec.field]
        assert isinstance(item, encoding.Tokens)
        self._items = ItemRows(item, [self.encoders[name] for name in spec.attributes], spec.vectors or (), table)

    def _append_key(self, key: str, values: pl.Series) -> None:
        if key not in self._keys:
            self._keys[key] = encoding.Dictionary()
            self._codes[key] = []
        self._codes[key].append(self._keys[key].encode(values.fill_null("")))

    @property
    def published(self) -> splits.Parts:
        """The part of each row's table."""
        return np.concatenate(self._parts)

    def log(self) -> Log:
        """Return what the split looks at."""
        nobody = np.broadcast_to(np.int32(0), self.n_rows)
        users, items = (np.concatenate(self._codes[key]) if key in self._codes else nobody for key in ("user", "item"))
        return Log(users, items, np.concatenate(self._times) if self._times else None)

    def learn(self, split: splits.Split) -> None:
        """Fix the ids by the rows of training, and find what the rows' histories show.

        Raises:
            RecbenchError: a history without finite times, or one that shows a row of a later part.
        """
        for encoder in self.encoders.values():
            encoder.learn(split.parts == splits.TRAIN)
        for encoder in self.encoders.values():
            encoder.number()
        for encoder in self._histories:
            self._show(encoder, split)

    def _show(self, history: History, split: splits.Split) -> None:
        spec = history.spec
        log = self.log()
        if log.times is None or (missing := np.count_nonzero(~np.isfinite(log.times))):
            raise RecbenchError(
                f"protocol {self._protocol.name}: the history '{spec.name}' needs a finite timestamp in every row; "
                f"{missing:,} rows have none"
            )
        assert spec.sequence is not None
        positive = np.concatenate([labels[:, 0] for labels in self._labels]) > 0 if spec.positive else None
        found = past(log.users, log.times, positive, spec.sequence)
        if findings := leaks.targets_in_histories(*found, *split.evaluations()):
            raise RecbenchError(
                f"protocol {self._protocol.name}: the history '{spec.name}' leaks: {'; '.join(findings)}; the parts of "
                "every user must follow each other in time"
            )
        codes = self.encoders[spec.history_of or ""].column
        history.show(found, codes.read(self.n_rows))
        codes.rewind()

    def describe(self, out: Writer) -> list[dict[str, Any]]:
        """Write the vocabularies and return the description of the fields, with their offsets."""
        offsets: dict[str, int] = {}
        total = 0
        meta = []
        for encoder in self.encoders.values():
            field = encoder.spec
            owner = field.vocabulary or field.name
            if owner not in offsets:
                offsets[owner] = total
                total += self.encoders[owner].size
            if (texts := encoder.texts()) is not None:
                out.vocabulary(field.name, texts)
            encoder.place(offsets[owner])
            entry = {"name": field.name, "multi": field.ragged, "size": encoder.size, "offset": offsets[owner]}
            if field.dense:
                entry["dense"] = True
            if field.sequence:
                entry["sequence"] = field.sequence
            if field.vocabulary:
                entry["vocabulary"] = field.vocabulary
            meta.append(entry)
        return meta

    def write(self, out: Writer, parts: splits.Parts) -> None:
        """Read the fields again, in blocks of rows, and write the arrays of every part."""
        labels = (
            np.concatenate(self._labels).squeeze(1) if self._protocol.labels is None else np.concatenate(self._labels)
        )
        groups = self._groups(out)
        for part, name in PART_NAMES.items():
            out.write(name, "labels", labels[parts == part])
            if groups is not None:
                out.write(name, "groups", groups[parts == part])
        encoders = self.encoders.values()
        dense = [encoder for encoder in encoders if isinstance(encoder, encoding.Numbers)]
        ragged = [encoder for encoder in encoders if isinstance(encoder, Lists)]
        single = [
            encoder
            for encoder in encoders
            if isinstance(encoder, encoding.Categorical) and not isinstance(encoder, Lists)
        ]
        counts = {name: int((parts == part).sum()) for part, name in PART_NAMES.items()}
        with ExitStack() as stack:
            appends = {
                name: (
                    stack.enter_context(out.pieces(name, "ids", (counts[name], len(single)), np.int32)),
                    stack.enter_context(out.pieces(name, "dense", (counts[name], len(dense)), np.float32))
                    if dense
                    else None,
                )
                for name in counts
            }
            for start in range(0, self.n_rows, encoding.ROWS_AT_ONCE):
                chosen = parts[start : start + encoding.ROWS_AT_ONCE]
                ids = np.empty((len(chosen), len(single)), dtype=np.int32)
                for column, encoder in enumerate(single):
                    ids[:, column] = encoder.ids(len(chosen))
                floats = np.stack([encoder.floats(len(chosen)) for encoder in dense], axis=1) if dense else None
                for part, name in PART_NAMES.items():
                    rows = np.flatnonzero(chosen == part)
                    append_ids, append_dense = appends[name]
                    append_ids(ids.take(rows, axis=0))
                    if append_dense is not None and floats is not None:
                        append_dense(floats.take(rows, axis=0))
        for encoder in ragged:
            self._write_lists(out, encoder, parts)
        if self._items is not None:
            self._items.write(out)

    def _write_lists(self, out: Writer, encoder: Lists, parts: splits.Parts) -> None:
        lengths = encoder.lengths.read(self.n_rows)
        encoder.lengths.rewind()
        name = encoder.spec.name
        with ExitStack() as stack:
            appends = {}
            for part, part_name in PART_NAMES.items():
                own = lengths[parts == part].astype(np.int64)
                out.write(part_name, f"{name}_offsets", np.concatenate([[0], np.cumsum(own)]))
                pieces = out.pieces(part_name, f"{name}_values", (int(own.sum()),), np.int32)
                appends[part] = stack.enter_context(pieces)
            for start in range(0, self.n_rows, encoding.ROWS_AT_ONCE):
                chosen = parts[start : start + encoding.ROWS_AT_ONCE]
                counts, ids = encoder.rows(len(chosen))
                owner = np.repeat(chosen, counts)
                for part, append in appends.items():
                    append(ids[owner == part])

    def _groups(self, out: Writer) -> NDArray[np.int32] | None:
        """Write the raw ids of the groups, sorted, and return each row's group."""
        group = self._protocol.group
        if group is None:
            return None
        raw = self._keys[group].values()
        order = raw.arg_sort().to_numpy()
        out.write("shared", "group_ids", raw.gather(order).to_numpy().astype(str))
        numbers = np.empty(len(order), dtype=np.int32)
        numbers[order] = np.arange(len(order), dtype=np.int32)
        return numbers[np.concatenate(self._codes[group])]
