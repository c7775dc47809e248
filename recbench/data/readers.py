"""Readers: raw files to polars tables, strict about every row, without a Python loop over rows."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recbench import errors
from recbench.data.cards import Card, ReaderName
from recbench.errors import RecbenchError

Matrix = NDArray[np.float64]
_TAB, _NEWLINE = ord("\t"), ord("\n")


def read_table(card: Card, table: str, files: Mapping[str, Path]) -> pl.DataFrame:
    """Return one table of a data set, its columns as the card names them, its rows in the order of the file.

    Identifiers and other tokens are strings as they stand in the file, numbers are Float64, sequences are lists.

    Args:
        card: the data set.
        table: the table's name on the card.
        files: where each of the card's files is (from ``fetch``).

    Raises:
        UsageError: the card has no such table.
        RecbenchError: a broken row (named by file and line), a missing column, or not the card's number of rows.
    """
    if table not in card.tables:
        raise errors.unknown(f"table of the dataset {card.name}", table, card.tables)
    spec = card.tables[table]
    path = files[spec.file]
    frame = _READERS[spec.reader](path, list(spec.columns)).rename(spec.columns)
    expected = card.statistics.get(table, frame.height)
    if frame.height != expected:
        raise RecbenchError(f"{path}: the table {table} has {frame.height} rows, expected {expected} by the card")
    return frame


def _read_atomic(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Read an atomic file of RecBole: tab-separated, a header of ``name:type``, sequences separated by spaces.

    Source: Zhao et al., CIKM 2021, arXiv:2011.01731.
    """
    raw = _utf8(path.read_bytes()).replace(b"\r\n", b"\n")
    header, _, body = raw.partition(b"\n")
    types = _atomic_header(path, header.decode())
    _require(path, columns, types)
    _check_fields(path, body, len(types))
    if not body:
        return pl.DataFrame(schema={name: _ATOMIC_TYPES[types[name]] for name in columns})
    text = pl.read_csv(
        body, has_header=False, schema=dict.fromkeys(types, pl.String), separator="\t", quote_char=None
    ).select(pl.col(columns).fill_null(""))
    # Numbers that cannot be read become null here, and are looked for in the next step.
    frame = text.select(_atomic_value(name, types[name]) for name in columns)
    for name in columns:
        _check_numbers(path, name, text[name], frame[name])
    return frame


_ATOMIC_TYPES: dict[str, type[pl.DataType] | pl.DataType] = {
    "token": pl.String,
    "float": pl.Float64,
    "token_seq": pl.List(pl.String),
    "float_seq": pl.List(pl.Float64),
}


def _atomic_value(name: str, kind: str) -> pl.Expr:
    column = pl.col(name).str.extract_all(r"[^ ]+") if kind.endswith("_seq") else pl.col(name)
    return column.cast(_ATOMIC_TYPES[kind], strict=False)


def _utf8(raw: bytes) -> bytes:
    """Return the text as UTF-8; what is not UTF-8 is taken as Latin-1, the other encoding of old public data sets."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1").encode()
    return raw


def _atomic_header(path: Path, header: str) -> dict[str, str]:
    """Return the type of each column, in order."""
    types = {}
    for field in header.split("\t"):
        name, _, kind = field.partition(":")
        if kind not in _ATOMIC_TYPES or name in types:
            raise RecbenchError(
                f"{path}, line 1: the header has '{field}', expected tab-separated name:type with each name once and "
                f"the types {', '.join(_ATOMIC_TYPES)}"
            )
        types[name] = kind
    return types


def _check_fields(path: Path, body: bytes, width: int) -> None:
    """Every line has ``width`` fields; the parser alone would fill short lines silently."""
    characters = np.frombuffer(body, dtype=np.uint8)
    ends = np.flatnonzero(characters == _NEWLINE)
    if body and characters[-1] != _NEWLINE:
        ends = np.append(ends, characters.size)
    tabs = np.searchsorted(np.flatnonzero(characters == _TAB), ends)
    fields = np.diff(tabs, prepend=0) + 1
    wrong = np.flatnonzero(fields != width)
    if wrong.size:
        first = int(wrong[0])
        raise RecbenchError(f"{path}, line {first + 2}: {fields[first]} tab-separated fields, expected {width}")


def _check_numbers(path: Path, name: str, text: pl.Series, values: pl.Series) -> None:
    """Every number is one, and finite."""
    if values.dtype == pl.Float64:
        wrong = ~values.is_finite().fill_null(False)
    elif values.dtype == pl.List(pl.Float64):
        wrong = ~values.list.eval(pl.element().is_finite().fill_null(False)).list.all()
    else:
        return
    first = wrong.arg_max()
    if first is not None and wrong[first]:
        raise RecbenchError(f"{path}, line {first + 2}: {name} is '{text[first]}', expected a finite number")


def _read_matrix(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Read a matrix of ratings, one line a user, one column an item, 0 for no rating: one row for each rating."""
    matrix = _load_matrix(path)
    users, items = np.nonzero(matrix)
    return _cells(path, users, items, {"rating": matrix[users, items]}, columns)


def _read_dense_matrix(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Read a matrix of numbers, one line a user, one column an item: one row for each cell."""
    matrix = _load_matrix(path)
    users, items = np.indices(matrix.shape).reshape(2, -1)
    return _cells(path, users, items, {"value": matrix.ravel()}, columns)


def _cells(
    path: Path, users: NDArray[np.intp], items: NDArray[np.intp], values: dict[str, Matrix], columns: Sequence[str]
) -> pl.DataFrame:
    """Return cells as rows, with 0-based positions as identifiers."""
    frame = pl.DataFrame({"user": users, "item": items, **values})
    _require(path, columns, frame.columns)
    return frame.with_columns(pl.col("user", "item").cast(pl.String)).select(columns)


def _load_matrix(path: Path) -> Matrix:
    """Parse a whitespace-separated matrix, shape (lines, numbers in a line)."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines:
        raise RecbenchError(f"{path}, line 1: the file is empty, expected a matrix of numbers")
    try:
        matrix = np.loadtxt(lines, comments=None, ndmin=2)
    except ValueError as error:
        raise RecbenchError(_matrix_fault(path, lines) or f"{path}: {error}") from error
    # loadtxt passes over empty lines, which would move every later user up by one.
    if len(matrix) != len(lines) or not np.isfinite(matrix).all():
        raise RecbenchError(_matrix_fault(path, lines))
    return matrix


def _matrix_fault(path: Path, lines: Sequence[str]) -> str:
    """Find the line that made parsing fail; only run then."""
    width = len(lines[0].split())
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if len(fields) != width or not fields:
            return f"{path}, line {number}: {len(fields)} numbers, expected {width or 'at least one'} as in line 1"
        for field in fields:
            try:
                finite = np.isfinite(float(field))
            except ValueError:
                finite = False
            if not finite:
                return f"{path}, line {number}: '{field}', expected a finite number"
    return ""


def _require(path: Path, wanted: Sequence[str], found: Mapping[str, str] | Sequence[str]) -> None:
    for name in wanted:
        if name not in found:
            raise RecbenchError(f"{path}: there is no column '{name}'; found: {', '.join(found)}")


_READERS: dict[ReaderName, Callable[[Path, Sequence[str]], pl.DataFrame]] = {
    "recbole-atomic": _read_atomic,
    "matrix": _read_matrix,
    "matrix-dense": _read_dense_matrix,
}
