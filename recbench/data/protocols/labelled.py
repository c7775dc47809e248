"""The protocol of click models: rows with a binary label and input fields, prepared in bounded memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, StringConstraints, model_serializer, model_validator

from recbench.data.protocols import splits
from recbench.data.protocols.base import Protocol, Published, Spec, Splitting
from recbench.data.protocols.fields import FieldSpec, without_unused
from recbench.data.protocols.filters import AnyFilter
from recbench.data.source import Source
from recbench.data.store import Writer
from recbench.errors import RecbenchError

if TYPE_CHECKING:
    import polars as pl

ITEMS = "items_"
"""Begins the names of the shared arrays about items, which are otherwise named as those of rows."""

LabelName = Annotated[str, StringConstraints(pattern=r"^\w+$")]


class Label(Spec):
    """What is positive."""

    column: str = "rating"
    positive_from: float
    """A row is positive if its label column is at least this."""
    negative_below: float | None = None
    """A row below is negative, one between the two is left out; the same as ``positive_from`` if not given."""

    def decided(self) -> pl.Expr:
        """Say whether a row is positive or negative; one whose column is empty is neither."""
        import polars as pl

        value = pl.col(self.column)
        if self.negative_below is None:
            return value.is_not_null()
        return (value >= self.positive_from) | (value < self.negative_below)

    def positive(self) -> pl.Expr:
        """Return the label, 0 or 1."""
        import polars as pl

        return (pl.col(self.column) >= self.positive_from).cast(pl.Float32)


class Items(Spec):
    """Which field is the item, and what is told of every item, for models that look items up."""

    field: str
    """A field made from the column ``item``."""
    attributes: tuple[str, ...] = ()
    """Fields that are made from columns of the table of items."""
    vectors: tuple[str, ...] | None = None
    """Columns of the table of items that are one given vector, side by side: a column of numbers as it is, one of lists
    of tokens as a flag for each of its tokens."""


class Labelled(Protocol):
    """Rows with binary labels and fields that are categorical, multi-valued, sequences, histories or numbers.

    Arrays of a part, for n rows: ``ids`` (n, F) of the single-valued categorical fields, ``dense`` (n, D) of the dense
    ones (only if there are any), ``<field>_values`` and ``<field>_offsets`` (n + 1,) of the other fields, ``labels``
    (n,), or (n, T) of T labels, and ``groups`` (n,) the number of the row's group in the shared ``group_ids``. Ids
    count through all fields: a field's ids start at its offset, and its first id means "not seen in training" (or too
    rarely). ``store.read_vocabulary`` gives the raw value of each id.

    With ``item``, the shared ``items_ids``, ``items_dense``, ``items_<field>_values`` and ``items_<field>_offsets``
    have a row for each id of the item, of its field and then its attributes, and ``items_vectors`` (number of ids, V)
    float32 the given vectors.

    Rows are read once, in pieces; vocabularies and transforms are learned from training rows alone. Memory holds the
    vocabularies, a few bytes a row for the split, and pieces of fixed size. A history needs the log's ``user`` and
    ``timestamp``: memory holds those of all rows, and some 100 bytes a row while it is found what each row shows. That
    is only what is past, and no row shows one of a later part, or preparing fails.
    """

    kind: Literal["labelled"] = "labelled"
    table: str = "interactions"
    label: Label | None = None
    labels: Annotated[dict[LabelName, Label], Field(min_length=2)] | None = None
    """Several labels by name, in place of ``label``; a row that has not all of them is left out."""
    fields: tuple[FieldSpec, ...] = Field(min_length=1)
    filters: tuple[AnyFilter, ...] = ()
    split: Splitting
    group: str | None = "user"
    """Column by which per-group values are kept; none for a log without users."""
    item: Items | None = None

    @model_serializer(mode="wrap")
    def _as_given(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_unused(dump(self), "label", "labels", "item")

    @model_validator(mode="after")
    def _labels_are_given_once(self) -> Self:
        if (self.label is None) == (self.labels is None):
            raise ValueError("give the label (label) or several by name (labels): one of them, not both")
        return self

    @model_validator(mode="after")
    def _histories_are_past(self) -> Self:
        owners = {field.name: field for field in self.fields}
        for field in self.histories:
            of = owners.get(field.history_of or "")
            if of is None or of.ragged or of.transform or (of.vocabulary or of.name) != field.vocabulary:
                raise ValueError(
                    f"field '{field.name}': history_of '{field.history_of}' is no field of one token with the ids of "
                    f"'{field.vocabulary}'"
                )
            drawn = isinstance(self.split, Published) and isinstance(self.split.valid, float)
            if drawn or not isinstance(self.split, Published | splits.Temporal | splits.Sliding):
                raise ValueError(
                    f"field '{field.name}': a history needs a split by time for all users (temporal, sliding, or "
                    f"published parts that follow each other); with split {self.split.kind} it would show targets"
                )
        return self

    @model_validator(mode="after")
    def _items_are_fields(self) -> Self:
        if self.item is None:
            return self
        owners = {field.name: field for field in self.fields}
        item = owners.get(self.item.field)
        if (
            item is None
            or item.source != "item"
            or item != FieldSpec(name=item.name, column=item.column, min_count=item.min_count)
        ):
            raise ValueError(f"item: field '{self.item.field}' is no field of tokens made from the column item")
        for name in self.item.attributes:
            if name not in owners or name == item.name or owners[name].history_of:
                others = ", ".join(field.name for field in self.fields if field is not item and not field.history_of)
                raise ValueError(f"item: attribute '{name}' is no other field of the item; fields are: {others}")
        if len(set(self.item.attributes)) < len(self.item.attributes):
            raise ValueError("item: an attribute is named twice")
        return self

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
        return dict.fromkeys([*self._logs(), *self._sides(source), *(["items"] if self.item else [])])

    def build(self, source: Source, out: Writer) -> Mapping[str, Any]:
        """Read, split, learn, encode."""
        from recbench.data.protocols.rows import Rows

        item_columns = self._item_columns(source)
        with out.scratch() as folder, closing(Rows(self, folder)) as rows:
            for table, part in self._logs().items():
                for batch in self._batches(source, table):
                    rows.read(batch, part)
                    out.tell(f"{rows.n_rows:,} rows read")
            if not rows.n_rows:
                raise RecbenchError(f"protocol {self.name}: label and filters leave no row of {source.card.name}")
            if self.item is not None:
                items = source.table("items").select("item", *item_columns)
                rows.read_items(items.unique("item", keep="first", maintain_order=True))
            split = self.split_rows(self.split, rows.published, rows.log())
            out.tell(f"encoding {rows.n_rows:,} rows")
            rows.learn(split)
            meta: dict[str, Any] = {"fields": rows.describe(out)}
            rows.write(out, split.parts)
        if self.labels is not None:
            meta["labels"] = list(self.labels)
        if self.item is not None:
            meta["item"] = self.item.model_dump(include={"field", "attributes"})
        return meta

    @property
    def histories(self) -> list[FieldSpec]:
        """The fields that show what the user did before."""
        return [field for field in self.fields if field.history_of]

    @property
    def label_columns(self) -> list[str]:
        """Names that the labels have as columns of the rows that are read."""
        return [f"_label {name}" for name in self._labels]

    @property
    def _labels(self) -> dict[str, Label]:
        return self.labels or ({} if self.label is None else {"": self.label})

    def _logs(self) -> dict[str, int]:
        return self.split.tables if isinstance(self.split, Published) else {self.table: splits.NONE}

    def _needed(self, source: Source) -> list[str]:
        keys = [label.column for label in self._labels.values()]
        keys += [self.group] if self.group else []
        keys += [field.source for field in self.fields if not field.history_of]
        keys += ["user", "timestamp"] if self.histories else []
        keys += [column for rule in self.filters for column in rule.columns_read()]
        if self.keyed:
            keys += [name for name in ("user", "item", "timestamp") if name in source.columns(next(iter(self._logs())))]
        return list(dict.fromkeys(keys))

    @property
    def keyed(self) -> bool:
        """Whether the split, or a history, looks at users, items or times."""
        return (
            bool(self.histories)
            or self.split.kind not in {"random-rows", "published"}
            or (isinstance(self.split, Published) and isinstance(self.split.valid, float))
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
                wanting += [f"the history '{field.name}'" for field in self.histories if name in {"user", "timestamp"}]
                field = next(iter(wanting), "the label, the group or a filter")
                raise RecbenchError(
                    f"protocol {self.name}: {field} needs the column '{name}', and the dataset has {', '.join(known)}"
                )
        return sides

    def _item_columns(self, source: Source) -> list[str]:
        """Return the columns of the table of items that tell of each item."""
        if self.item is None:
            return []
        columns = {
            f"attribute '{field.name}'": field.source for field in self.fields if field.name in self.item.attributes
        }
        columns |= {f"vectors: '{name}'": name for name in self.item.vectors or ()}
        known = source.columns("items")
        for what, column in columns.items():
            if column not in known:
                raise RecbenchError(
                    f"protocol {self.name}: item: {what} needs the column '{column}' of the table items, which has "
                    f"{', '.join(known)}"
                )
        return list(dict.fromkeys(columns.values()))

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
            rows = batch.filter(label.decided() for label in self._labels.values()).with_columns(
                label.positive().alias(column)
                for column, label in zip(self.label_columns, self._labels.values(), strict=True)
            )
            for rule in self.filters:
                rows = rule.kept(rows)
            for key, frame in frames.items():
                rows = rows.join(frame, on=key, how="left", maintain_order="left")
            if len(rows):
                yield rows
