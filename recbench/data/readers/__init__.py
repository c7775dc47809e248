"""Readers: raw files to polars tables, strict about every row, in bounded memory, without a Python loop over rows."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from recbench import errors
from recbench.data.cards import AtomicTable, BorrowedTable, Card, Column, CsvTable, FileTable
from recbench.data.readers.block import Block, require
from recbench.data.readers.convert import TYPES, converted
from recbench.errors import RecbenchError

# Reader of the card -> module and function. Imported when used: some of them need further libraries.
_READERS = {
    "csv": ("separated", "read"),
    "parquet": ("columnar", "read_parquet"),
    "json-lines": ("columnar", "read_json_lines"),
    "recbole-atomic": ("atomic", "read"),
    "libsvm": ("lists", "read_libsvm"),
    "adjacency": ("lists", "read_adjacency"),
    "json": ("lists", "read_json"),
    "simplices": ("lists", "read_simplices"),
    "matrix": ("matrices", "read_matrix"),
    "matrix-dense": ("matrices", "read_matrix"),
    "npz": ("binary", "read_npz"),
    "pickle": ("binary", "read_pickle"),
    "hdf5": ("binary", "read_hdf5"),
}


def read_table(card: Card, table: str, files: Mapping[str, Path]) -> pl.DataFrame:
    """Return one table of a data set: the columns as the card names them, the rows in the order of the files.

    Args:
        card: the data set.
        table: the table's name on the card.
        files: where each of the card's files is (from ``fetch``).

    Raises:
        UsageError: the card has no such table.
        RecbenchError: as ``read_batches``; or the number of rows is not the one that the card has counted.
    """
    source = _found(card, table, files)
    frame = pl.concat(_batches(source, None))
    expected = source.card.statistics.get(source.table, frame.height)
    if source.card.verified == "counted" and frame.height != expected:
        raise RecbenchError(
            f"{source.paths[0]}: the table {table} has {frame.height} rows, expected {expected} by the card"
        )
    return frame


def read_batches(
    card: Card, table: str, files: Mapping[str, Path], columns: Collection[str] | None = None
) -> Iterator[pl.DataFrame]:
    """Give one table in batches of rows, at least one batch, in memory that does not grow with the files.

    The types: ``token`` String, where a missing one is ``""``; ``number`` Float64 and finite; ``number?`` the same or
    null; ``tokens`` List(String) and ``numbers`` List(Float64), without missing entries. The column that the table's
    ``order`` names is the row's number, from 0, over all files.

    Args:
        card: the data set.
        table: the table's name on the card.
        files: where each of the card's files is (from ``fetch``).
        columns: the wanted columns of the table; default all.

    Raises:
        UsageError: the card has no such table, or the table no such column.
        RecbenchError: a file that cannot be read, a missing column, or a row or value (named by file and line) that is
            not as the card says.
    """
    return _batches(_found(card, table, files), columns)


class _Source(NamedTuple):
    """A table and where its files are."""

    card: Card
    table: str
    spec: FileTable
    paths: list[Path]


def _found(card: Card, table: str, files: Mapping[str, Path]) -> _Source:
    if table not in card.tables:
        raise errors.unknown(f"table of the dataset {card.name}", table, card.tables)
    spec = card.tables[table]
    if isinstance(spec, BorrowedTable):
        raise RecbenchError(f"the table {table} of the dataset {card.name} is read from the card it is borrowed from")
    return _Source(card, table, spec, [files[name] for name in spec.file])


def _batches(source: _Source, columns: Collection[str] | None) -> Iterator[pl.DataFrame]:
    spec, paths = source.spec, source.paths
    types = _types(paths, spec)
    known = [column.name for column in types.values()] + ([spec.order] if spec.order else [])
    wanted = known if columns is None else [name for name in known if name in columns]
    for name in columns or ():
        if name not in known:
            raise errors.unknown(f"column of the table {source.table}", name, known)
    # One column is read in any case, for the number of rows.
    read = {raw: column for raw, column in types.items() if column.name in wanted} or dict([next(iter(types.items()))])
    separator = spec.list_separator if isinstance(spec, CsvTable) else " "
    rows = 0
    narrowed = spec.model_copy(update={"columns": {raw: spec.columns[raw] for raw in read}})
    for block in _reader(spec)(paths, narrowed):
        require(block.path, read, block.frame.columns)
        frame = converted(block, read, separator)
        if spec.order:
            number = pl.int_range(rows, rows + frame.height, dtype=pl.Int64, eager=True).cast(pl.Float64)
            frame = frame.with_columns(number.alias(spec.order))
        rows += frame.height
        yield frame.select(wanted)
    if not rows:
        schema = {column.name: TYPES[column.type] for column in types.values()}
        yield pl.DataFrame(schema={name: schema.get(name, pl.Float64) for name in wanted})


def _types(paths: Sequence[Path], spec: FileTable) -> dict[str, Column]:
    """Return the name and type of each column of the file that is read."""
    if isinstance(spec, AtomicTable):
        from recbench.data.readers.atomic import types

        return types(paths, spec)
    return spec.types


def _reader(spec: FileTable) -> Callable[[Sequence[Path], Any], Iterator[Block]]:
    module, function = _READERS[spec.reader]
    return getattr(import_module(f"{__name__}.{module}"), function)
