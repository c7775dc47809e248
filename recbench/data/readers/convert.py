"""Columns of files to the types of tables."""

import math
from collections.abc import Mapping
from typing import cast

import polars as pl

from recbench.data.cards import Column, ColumnType
from recbench.data.readers.block import Block
from recbench.errors import RecbenchError

TYPES: dict[ColumnType, pl.DataType] = {
    "token": pl.String(),
    "number": pl.Float64(),
    "number?": pl.Float64(),
    "tokens": pl.List(pl.String()),
    "numbers": pl.List(pl.Float64()),
}

_LONGEST = 60
"""Characters of a wrong value that a message shows."""


def converted(block: Block, columns: Mapping[str, Column], separator: str) -> pl.DataFrame:
    """Return the columns under the names and with the types of the table.

    Args:
        block: rows of a file; it has all the columns.
        columns: column of the file -> name and type in the table.
        separator: between the entries of ``tokens`` and ``numbers`` where the column is text.

    Raises:
        RecbenchError: a column or value that is not of its type, named by file and line.
    """
    return pl.DataFrame(
        [_series(block, raw, column.type, separator).alias(column.name) for raw, column in columns.items()]
    )


def _series(block: Block, raw: str, kind: ColumnType, separator: str) -> pl.Series:
    values = block.frame[raw]
    if kind == "token":
        return _tokens(block, values)
    if kind == "tokens":
        return _token_lists(block, values, separator)
    if kind == "numbers":
        return _number_lists(block, values, separator)
    return _numbers(block, values, optional=kind == "number?")


def _tokens(block: Block, values: pl.Series) -> pl.Series:
    if not _names_things(values.dtype):
        raise _wrong_type(block, values, "text or whole numbers")
    return filled(values)


def filled(values: pl.Series) -> pl.Series:
    """Return values as text, missing ones as the empty text; what is there already costs nothing."""
    text = values if values.dtype == pl.String else values.cast(pl.String)
    return text.fill_null("") if text.null_count() else text


def all_finite(values: pl.Series) -> bool:
    """Say whether all numbers of a column of floats that are not missing are finite."""
    if math.isfinite(values.sum() or 0.0):
        return True  # an infinity or a NaN would be in the sum
    return bool(values.drop_nulls().is_finite().all())


def _numbers(block: Block, values: pl.Series, *, optional: bool) -> pl.Series:
    if values.dtype == pl.Float64 and all_finite(values) and (optional or not values.null_count()):
        return values
    if not _counts_things(values.dtype):
        raise _wrong_type(block, values, "numbers")
    numbers = values.cast(pl.Float64, strict=False)
    missing = values.is_null()
    if numbers.null_count() > values.null_count():
        # Some text is no number as it stands. It may have blanks around it, or be nothing but blanks.
        text = values.str.strip_chars()
        numbers = text.cast(pl.Float64, strict=False)
        missing |= text == ""
    finite = numbers.is_finite()
    good = finite | missing if optional else finite.fill_null(False)
    if not good.all():
        raise _wrong_value(block, values, good, "a finite number or nothing" if optional else "a finite number")
    return numbers


def _token_lists(block: Block, values: pl.Series, separator: str) -> pl.Series:
    lists, entry = _lists(values, separator)
    if not _names_things(entry):
        raise _wrong_type(block, values, "text, or lists of text or of whole numbers")
    tokens = lists.cast(TYPES["tokens"]).fill_null([])
    return tokens.list.eval(pl.element().filter(pl.element() != ""))


def _number_lists(block: Block, values: pl.Series, separator: str) -> pl.Series:
    lists, entry = _lists(values, separator)
    if not _counts_things(entry):
        raise _wrong_type(block, values, "text, or lists of numbers")
    numbers = lists.cast(TYPES["numbers"], strict=False).fill_null([])
    good = numbers.list.eval(pl.element().is_finite().fill_null(False)).list.all()
    if not good.all():
        raise _wrong_value(block, values, good, "finite numbers")
    return numbers


def _lists(values: pl.Series, separator: str) -> tuple[pl.Series, pl.DataType]:
    """Return a column of lists and the type of their entries: those of the file, or the parts of a text."""
    if values.dtype == pl.String:
        values = values.str.split(separator).list.eval(pl.element().filter(pl.element() != ""))
    elif values.dtype == pl.Null:
        values = values.cast(TYPES["tokens"])
    elif isinstance(values.dtype, pl.Array):
        values = values.arr.to_list()
    dtype = values.dtype
    return values, cast(pl.DataType, dtype.inner) if isinstance(dtype, pl.List) else pl.Object()


def _names_things(dtype: pl.DataType) -> bool:
    return dtype.is_integer() or isinstance(dtype, (pl.String, pl.Boolean, pl.Categorical, pl.Enum, pl.Null))


def _counts_things(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or isinstance(dtype, (pl.String, pl.Boolean, pl.Null))


def _wrong_type(block: Block, values: pl.Series, expected: str) -> RecbenchError:
    return RecbenchError(f"{block.path}: the column '{values.name}' has the type {values.dtype}, expected {expected}")


def _wrong_value(block: Block, values: pl.Series, good: pl.Series, expected: str) -> RecbenchError:
    row = int((~good).arg_true()[0])
    value = values[row]
    found = value.to_list() if isinstance(value, pl.Series) else "" if value is None else value
    return RecbenchError(f"{block.place(row)}: {values.name} is '{_short(found)}', expected {expected}")


def _short(found: object) -> str:
    text = str(found)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
