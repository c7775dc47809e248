"""Filters: which rows of a table are kept. One class a kind, validated from the benchmark's YAML; order is kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, model_validator

from recbench.errors import RecbenchError

if TYPE_CHECKING:
    import polars as pl

Values = Annotated[tuple[str, ...], Field(min_length=1)]


class Filter(BaseModel, ABC):
    """Base of all kinds."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: str
    row_wise: ClassVar[bool] = True
    """Each row is judged by itself, so a table can be filtered batch by batch."""

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the kept rows of a whole table.

        Raises RecbenchError for a column that is not there or of another type, and where no row is kept.
        """
        kept = self.kept(frame)
        if kept.is_empty():
            given = self.model_dump_json(exclude={"kind"})
            raise RecbenchError(f"filter {self.kind} {given} leaves none of {len(frame):,} rows")
        return kept

    def kept(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the kept rows of a batch, maybe none; raises as ``apply`` for columns."""
        for column in self.columns_read():
            if column not in frame.columns:
                raise RecbenchError(
                    f"filter {self.kind}: there is no column '{column}'; the table has {', '.join(frame.columns)}"
                )
        return self._kept(frame)

    @abstractmethod
    def columns_read(self) -> tuple[str, ...]:
        """Return the columns the filter looks at."""

    @abstractmethod
    def _kept(self, frame: pl.DataFrame) -> pl.DataFrame: ...


class _OfColumn(Filter):
    column: str

    def columns_read(self) -> tuple[str, ...]:
        return (self.column,)


class _OfNumbers(_OfColumn):
    """A range of a column of numbers, bounds included; missing values are dropped."""

    def _kept(self, frame: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        if not frame.schema[self.column].is_numeric():
            raise _wrong_type(self.kind, "numbers", self.column, frame)
        low, high = self._bounds()
        return frame.filter(pl.col(self.column).is_between(low, high))

    @abstractmethod
    def _bounds(self) -> tuple[float, float]: ...


class AtLeast(_OfNumbers):
    """Keep rows whose number is the value or more; missing ones are dropped."""

    kind: Literal["at-least"] = "at-least"
    value: FiniteFloat

    def _bounds(self) -> tuple[float, float]:
        return self.value, float("inf")


class AtMost(_OfNumbers):
    """Keep rows whose number is the value or less; missing ones are dropped."""

    kind: Literal["at-most"] = "at-most"
    value: FiniteFloat

    def _bounds(self) -> tuple[float, float]:
        return float("-inf"), self.value


class Between(_OfNumbers):
    """Keep rows whose number lies between two bounds, both included; missing ones are dropped."""

    kind: Literal["between"] = "between"
    low: FiniteFloat
    high: FiniteFloat

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low must not be above high, found {self.low:g} and {self.high:g}")
        return self

    def _bounds(self) -> tuple[float, float]:
        return self.low, self.high


class _OfTokens(_OfColumn):
    def _kept(self, frame: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        if frame.schema[self.column] != pl.String:
            raise _wrong_type(self.kind, "tokens", self.column, frame)
        return frame.filter(self._matches(pl.col(self.column)))

    @abstractmethod
    def _matches(self, token: pl.Expr) -> pl.Expr: ...


class Equals(_OfTokens):
    """Keep rows with one token."""

    kind: Literal["equals"] = "equals"
    value: str

    def _matches(self, token: pl.Expr) -> pl.Expr:
        return token == self.value


class OneOf(_OfTokens):
    """Keep rows with any of several tokens."""

    kind: Literal["one-of"] = "one-of"
    values: Values

    def _matches(self, token: pl.Expr) -> pl.Expr:
        return token.is_in(self.values)


class NotIn(_OfTokens):
    """Keep rows with none of several tokens."""

    kind: Literal["not-in"] = "not-in"
    values: Values

    def _matches(self, token: pl.Expr) -> pl.Expr:
        return ~token.is_in(self.values)


class Unique(Filter):
    """Keep the first or last row of those that agree in all the columns."""

    kind: Literal["unique"] = "unique"
    row_wise: ClassVar[bool] = False
    columns: Values
    keep: Literal["first", "last"] = "first"

    def columns_read(self) -> tuple[str, ...]:
        """Return the columns in which rows are compared."""
        return self.columns

    def _kept(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.unique(list(self.columns), keep=self.keep, maintain_order=True)


class MinCount(_OfColumn):
    """Keep rows whose value of the column is in at least so many rows; counted once, before any row is dropped."""

    kind: Literal["min-count"] = "min-count"
    row_wise: ClassVar[bool] = False
    count: PositiveInt

    def _kept(self, frame: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        return frame.filter(pl.len().over(self.column) >= self.count)


class KCore(Filter):
    """Keep the largest part of the log in which each user and each item has at least so many rows.

    Rows are dropped until all that are left suffice; the outcome does not depend on the order in which they are
    dropped (Seidman, Social Networks 1983, for graphs). Rows are counted, so put ``unique`` before it to count pairs.
    """

    kind: Literal["k-core"] = "k-core"
    row_wise: ClassVar[bool] = False
    users: PositiveInt
    items: PositiveInt

    def columns_read(self) -> tuple[str, ...]:
        """Return the columns of users and items."""
        return "user", "item"

    def _kept(self, frame: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        before = -1
        while len(frame) != before:
            before = len(frame)
            frame = frame.filter(pl.len().over("user") >= self.users).filter(pl.len().over("item") >= self.items)
        return frame


def _wrong_type(kind: str, wanted: str, column: str, frame: pl.DataFrame) -> RecbenchError:
    return RecbenchError(f"filter {kind} needs {wanted}, and column '{column}' is of type {frame.schema[column]}")


AnyFilter = Annotated[
    AtLeast | AtMost | Between | Equals | OneOf | NotIn | Unique | MinCount | KCore, Field(discriminator="kind")
]
