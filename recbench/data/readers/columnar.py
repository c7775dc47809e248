"""Tables of named columns: Parquet and JSON lines."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from recbench.data.cards import JsonLinesTable, ParquetTable
from recbench.data.readers.block import Block, require
from recbench.data.readers.text import NEWLINE, TextBlock, count_byte, text_blocks
from recbench.errors import RecbenchError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_CELLS = 1 << 21
"""About how many cells of a Parquet file are read at once."""


def read_parquet(paths: Sequence[Path], spec: ParquetTable) -> Iterator[Block]:
    """Read Parquet files, some millions of cells at once; columns have the types of the file.

    Raises:
        RecbenchError: a file that is not Parquet or is damaged, or a missing column.
    """
    rows = max(_CELLS // len(spec.columns), 1)
    for path in paths:
        with _parquet_file(path) as file:
            require(path, spec.columns, file.schema_arrow.names)
            for batch in file.iter_batches(rows, columns=list(spec.columns)):
                batch.validate(full=True)
                yield Block(pl.DataFrame(batch), None, path)


def read_columns(path: Path, columns: Collection[str]) -> pl.DataFrame:
    """Read those of the columns that a Parquet file has, in the order of the file.

    Raises:
        RecbenchError: a file that is not Parquet or is damaged.
    """
    with _parquet_file(path) as file:
        table = file.read(columns=[name for name in file.schema_arrow.names if name in columns])
        table.validate(full=True)
        return pl.DataFrame(table)


@contextlib.contextmanager
def _parquet_file(path: Path) -> Iterator[ParquetFile]:
    """Open a Parquet file; what goes wrong while it is read becomes one sentence."""
    # Arrow's parser, for the one of polars ends the process at some damaged files.
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            yield file
    except (OSError, ValueError, pa.ArrowException, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = str(error).partition("\n")[0]
        raise RecbenchError(f"{path}: cannot be read as Parquet ({reason}); is it complete?") from error


def read_json_lines(paths: Sequence[Path], spec: JsonLinesTable) -> Iterator[Block]:
    """Read files of one JSON object a line; what is not text already is given as its JSON text.

    Raises:
        RecbenchError: as ``text_blocks``; a line that is not one JSON object, or that has no list where the table has
            one; or a column that does not occur in the first block of a file.
    """
    schema: dict[str, pl.DataType] = {
        raw: pl.List(pl.String()) if column.type in {"tokens", "numbers"} else pl.String()
        for raw, column in spec.types.items()
    }
    for path in paths:
        for number, block in enumerate(text_blocks(path)):
            frame = _objects(block.data, schema)
            if not isinstance(frame, pl.DataFrame):
                raise _broken_line(path, block, schema)
            if number == 0:
                _require_keys(path, block, frame)
            yield Block(frame, block.first_line, path)


def _objects(data: bytes, schema: dict[str, pl.DataType]) -> pl.DataFrame | str:
    """Return one row for each line, or what is wrong with some line."""
    try:
        frame = pl.read_ndjson(io.BytesIO(data), schema=schema)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        return str(error).partition("\n")[0]
    # The parser passes over empty lines.
    return frame if frame.height == count_byte(data, NEWLINE) else "an empty line"


def _broken_line(path: Path, block: TextBlock, schema: dict[str, pl.DataType]) -> RecbenchError:
    """Find the first broken line by halves."""
    lines = block.data.splitlines(keepends=True)
    first = block.first_line
    while len(lines) > 1:
        half = len(lines) // 2
        if isinstance(_objects(b"".join(lines[:half]), schema), pl.DataFrame):
            lines = lines[half:]
            first += half
        else:
            lines = lines[:half]
    return RecbenchError(f"{path}, line {first}: {_objects(lines[0], schema)}; expected one JSON object")


def _require_keys(path: Path, block: TextBlock, frame: pl.DataFrame) -> None:
    """Check that every key occurs somewhere: it may be missing in some lines, but not in all."""
    absent = [raw for raw in frame.columns if json.dumps(raw, ensure_ascii=False).encode() not in block.data]
    if absent:
        try:
            found = json.loads(block.data.partition(b"\n")[0])
        except (ValueError, RecursionError):
            found = {}
        require(f"{path}, line {block.first_line}", absent, found)
