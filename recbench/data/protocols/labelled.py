"""The protocol of click models: rows with a binary label and input fields, prepared in bounded memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from recbench.data.protocols import splits
from recbench.data.protocols.base import PART_NAMES, Protocol, Published, Spec, Splitting
from recbench.data.protocols.fields import FieldSpec
from recbench.data.protocols.filters import AnyFilter
from recbench.data.protocols.splits import Log
from recbench.data.source import Source
from recbench.data.store import Writer
from recbench.errors import RecbenchError

if TYPE_CHECKING:
    import polars as pl

    from recbench.data.protocols.encoding import Dictionary, Encoder, Lists


class Label(Spec):
    """What is positive."""

    column: str = "rating"
    positive_from: float
    """A row is positive if its label column is at least this."""
    negative_below: float | None = None
    """A row below is negative, one between the two is left out; the same as ``positive_from`` if not given."""

    def apply(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Add the column ``_label`` and leave out what is neither."""
        import polars as pl

        value = pl.col(self.column)
        rows = rows.filter(value.is_not_null())
        if self.negative_below is not None:
            rows = rows.filter((value >= self.positive_from) | (value < self.negative_below))
        return rows.with_columns(_label=(value >= self.positive_from).cast(pl.Float32))


class Labelled(Protocol):
    """Rows with a binary label and fields that are categorical, multi-valued, sequences or numbers.

    Arrays of a part, for n rows: ``ids`` (n, F) of the single-valued categorical fields, ``dense`` (n, D) of the dense
    ones (only if there are any), ``<field>_values`` and ``<field>_offsets`` (n + 1,) of the multi-valued ones and
    sequences, ``labels`` (n,), and ``groups`` (n,) the number of the row's group in the shared ``group_ids``. Ids count
    through all fields: a field's ids start at its offset, and its first id means "not seen in training" (or too
    rarely). ``store.read_vocabulary`` gives the raw value of each id.

    Rows are read once, in pieces; vocabularies and transforms are learned from training rows alone. Memory holds the
    vocabularies, a few bytes a row for the split, and pieces of fixed size.
    """

    kind: Literal["labelled"] = "labelled"
    table: str = "interactions"
    label: Label
    fields: tuple[FieldSpec, ...] = Field(min_length=1)
    filters: tuple[AnyFilter, ...] = ()
    split: Splitting
    group: str | None = "user"
    """Column by which per-group values are kept; none for a log without users."""

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        owners = {field.name: field for field in self.fields}
        if len(owners) < len(self.fields):
            raise ValueError("two fields have the same name")
        for field in self.fields:
            owner = owners.get(field.vocabulary) if field.vocabulary else field
            if owner is None or (field.vocabulary and (owner.vocabulary or owner.transform)):
                raise ValueError(
                    f"field '{field.name}': vocabulary '{field.vocabulary}' is no field of tokens with its own ids"
                )
        for rule in self.filters:
            if not rule.row_wise:
                raise ValueError(f"filter '{rule.kind}' needs the whole log; here rows are read in pieces")
        return self

    def tables(self, source: Source) -> Collection[str]:
        """Return the log or the tables of the published parts, and those of users and items where they are needed."""
        return [*self._logs(), *self._sides(source)]

    def build(self, source: Source, out: Writer) -> Mapping[str, Any]:
        """Read, split, learn, encode."""
        with out.scratch() as folder, closing(_Rows(self, folder)) as rows:
            for table, part in self._logs().items():
                for batch in self._batches(source, table):
                    rows.read(batch, part)
                    out.tell(f"{rows.n_rows:,} rows read")
            if not rows.n_rows:
                raise RecbenchError(f"protocol {self.name}: label and filters leave no row of {source.card.name}")
            split = self.split_rows(self.split, rows.published, rows.log())
            out.tell(f"encoding {rows.n_rows:,} rows")
            for encoder in rows.encoders:
                encoder.learn(split.parts == splits.TRAIN)
            for encoder in rows.encoders:
                encoder.number()
            meta = rows.describe(out)
            rows.write(out, split.parts)
        return {"fields": meta}

    def _logs(self) -> dict[str, int]:
        return self.split.tables if isinstance(self.split, Published) else {self.table: splits.NONE}

    def _needed(self, source: Source) -> list[str]:
        keys = [self.label.column, *([self.group] if self.group else []), *(field.source for field in self.fields)]
        keys += [column for rule in self.filters for column in rule.columns_read()]
        if self.keyed:
            keys += [name for name in ("user", "item", "timestamp") if name in source.columns(next(iter(self._logs())))]
        return list(dict.fromkeys(keys))

    @property
    def keyed(self) -> bool:
        """Whether the split looks at users, items or times."""
        return self.split.kind not in {"random-rows", "published"} or (
            isinstance(self.split, Published) and isinstance(self.split.valid, float)
        )

    def _sides(self, source: Source) -> dict[str, list[str]]:
        """Return which columns come from the tables of users and items."""
        own = source.columns(next(iter(self._logs())))
        sides: dict[str, list[str]] = {}
        known = list(own)
        for table in ("users", "items"):
            if source.has(table) and table.removesuffix("s") in own:
                columns = [name for name in source.columns(table) if name not in known]
                known += columns
                if wanted := [name for name in columns if name in self._needed(source)]:
                    sides[table] = wanted
        for name in self._needed(source):
            if name not in known:
                wanting = [f"field '{field.name}'" for field in self.fields if field.source == name]
                field = next(iter(wanting), "the label, the group or a filter")
                raise RecbenchError(
                    f"protocol {self.name}: {field} needs the column '{name}', and the dataset has {', '.join(known)}"
                )
        return sides

    def _batches(self, source: Source, table: str) -> Iterator[pl.DataFrame]:
        """Yield the rows with their label and all columns that are needed."""
        sides = self._sides(source)
        frames = {}
        for side, columns in sides.items():
            key = side.removesuffix("s")
            frames[key] = source.table(side).select(key, *columns).unique(key, keep="first", maintain_order=True)
        joined = {name for columns in sides.values() for name in columns}
        wanted = [name for name in self._needed(source) if name not in joined]
        for batch in source.batches(table, list(dict.fromkeys([*wanted, *frames]))):
            rows = self.label.apply(batch)
            for rule in self.filters:
                rows = rule.kept(rows)
            for key, frame in frames.items():
                rows = rows.join(frame, on=key, how="left", maintain_order="left")
            if len(rows):
                yield rows


class _Rows:
    """The rows of all tables on their way to arrays."""

    def __init__(self, protocol: Labelled, folder: Path) -> None:
        from recbench.data.protocols import encoding

        self._protocol = protocol
        self._vocabularies = {
            field.name: encoding.Vocabulary(field.min_count) for field in protocol.fields if not field.vocabulary
        }
        self.encoders = [self._encoder(field, folder) for field in protocol.fields]
        self._labels: list[NDArray[np.float32]] = []
        self._parts: list[NDArray[np.int8]] = []
        self._keys: dict[str, Dictionary] = {}
        self._codes: dict[str, list[NDArray[np.int32]]] = {}
        self._times: list[NDArray[np.float64]] = []
        self.n_rows = 0

    def _encoder(self, field: FieldSpec, folder: Path) -> Encoder:
        from recbench.data.protocols import encoding

        if field.dense:
            return encoding.Numbers(field, folder)
        if field.transform == "quantile":
            return encoding.Quantiles(field, folder)
        kind = encoding.Buckets if field.transform else encoding.Lists if field.ragged else encoding.Tokens
        return kind(field, folder, self._vocabularies[field.vocabulary or field.name])

    def close(self) -> None:
        """Close the fields' files."""
        for encoder in self.encoders:
            encoder.close()

    def read(self, batch: pl.DataFrame, part: int) -> None:
        """Take the next rows in."""
        for encoder in self.encoders:
            encoder.read(batch[encoder.spec.source])
        self._labels.append(batch["_label"].to_numpy())
        self._parts.append(np.full(len(batch), part, dtype=np.int8))
        keys = {self._protocol.group} if self._protocol.group else set()
        if self._protocol.keyed:
            keys |= {"user", "item"} & set(batch.columns)
            if "timestamp" in batch.columns:
                self._times.append(batch["timestamp"].to_numpy())
        for key in keys:
            self._append_key(key, batch[key])
        self.n_rows += len(batch)

    def _append_key(self, key: str, values: pl.Series) -> None:
        from recbench.data.protocols import encoding

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

    def describe(self, out: Writer) -> list[dict[str, Any]]:
        """Write the vocabularies and return the description of the fields, with their offsets."""
        offsets: dict[str, int] = {}
        total = 0
        meta = []
        for encoder in self.encoders:
            field = encoder.spec
            owner = field.vocabulary or field.name
            if owner not in offsets:
                offsets[owner] = total
                total += next(other for other in self.encoders if other.spec.name == owner).size
            if (texts := encoder.texts()) is not None:
                out.vocabulary(field.name, texts)
            encoder.place(offsets[owner])
            entry = {"name": field.name, "multi": field.ragged, "size": encoder.size, "offset": offsets[owner]}
            meta.append(entry | ({"dense": True} if field.dense else {}))
        return meta

    def write(self, out: Writer, parts: splits.Parts) -> None:
        """Read the fields again, in blocks of rows, and write the arrays of every part."""
        from recbench.data.protocols import encoding

        labels = np.concatenate(self._labels)
        groups = self._groups(out)
        for part, name in PART_NAMES.items():
            out.write(name, "labels", labels[parts == part])
            if groups is not None:
                out.write(name, "groups", groups[parts == part])
        dense = [encoder for encoder in self.encoders if isinstance(encoder, encoding.Numbers)]
        ragged = [encoder for encoder in self.encoders if isinstance(encoder, encoding.Lists)]
        single = [
            encoder
            for encoder in self.encoders
            if isinstance(encoder, encoding.Categorical) and not isinstance(encoder, encoding.Lists)
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

    def _write_lists(self, out: Writer, encoder: Lists, parts: splits.Parts) -> None:
        from recbench.data.protocols import encoding

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
