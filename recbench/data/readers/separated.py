"""Lines of separated fields: CSV, TSV and others."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recbench.data.cards import CsvTable
from recbench.data.readers.block import Block, require
from recbench.data.readers.convert import all_finite
from recbench.data.readers.text import NEWLINE, QUOTE, TextBlock, count_byte, text_blocks
from recbench.errors import RecbenchError

# Control characters, of which one stands for a separator of more than one byte; no line feed, no carriage return.
_STAND_INS = bytes(byte for byte in range(1, 32) if byte not in b"\t\n\r")


def read(paths: Sequence[Path], spec: CsvTable) -> Iterator[Block]:
    """Read files of separated fields; columns are text, or numbers where the card says so and all are.

    Where quotes are on, a field may stand between double quotes, in which a separator and a line feed are part of the
    field and a quote is doubled (RFC 4180); a quote elsewhere is an error. Carriage returns at the ends of fields are
    dropped.

    Raises:
        RecbenchError: as ``text_blocks``; a line that has not as many fields as the header, a misplaced quote, an empty
            line, or a header without one of the columns.
    """
    quoted = spec.quote is not None
    numbers = {raw for raw, column in spec.types.items() if column.type in {"number", "number?"}}
    for path in paths:
        names = spec.header
        for block in text_blocks(path, encoding=spec.encoding, skip_lines=spec.skip_lines, quoted=quoted):
            body = block
            if names is None:
                names, body = header(path, block, spec.separator, quoted)
                _require_once(f"{path}, line {block.first_line}", spec.columns, names)
            if body.lines:
                yield rows(path, body, names, spec.columns, spec.separator, quoted, numbers)
        if names is None:
            raise RecbenchError(f"{path}, line {spec.skip_lines + 1}: the file ends here, expected a header")


def header(path: Path, block: TextBlock, separator: str, quoted: bool = False) -> tuple[tuple[str, ...], TextBlock]:
    """Return the fields of the block's first line, and the lines after it.

    Raises:
        RecbenchError: the line is empty, or a quote in it is misplaced.
    """
    first, _, rest = block.data.partition(b"\n")
    line = TextBlock(first + b"\n", block.first_line, 1)
    data, byte = _single_byte(path, line, separator)
    characters = np.frombuffer(data, dtype=np.uint8)
    between_quotes = _between_quotes(characters) if quoted else np.zeros(len(data), dtype=np.bool_)
    width = np.count_nonzero((characters == byte) & ~between_quotes) + 1
    numbered = [str(position) for position in range(width)]
    names = rows(path, line, numbered, numbered, separator, quoted).frame.fill_null("").row(0)
    return names, TextBlock(rest, block.first_line + 1, block.lines - 1)


def _require_once(place: str, wanted: Collection[str], names: Sequence[str]) -> None:
    require(place, wanted, names)
    for name in wanted:
        if names.count(name) > 1:
            raise RecbenchError(f"{place}: the header has the column '{name}' more than once")


def rows(
    path: Path,
    block: TextBlock,
    names: Sequence[str],
    wanted: Collection[str],
    separator: str,
    quoted: bool = False,
    numbers: Collection[str] = (),
) -> Block:
    """Return the wanted columns of some lines.

    Args:
        path: the file.
        block: at least one line.
        names: of the fields of a line.
        wanted: columns that are among the names.
        separator: between the fields.
        quoted: fields may stand between double quotes.
        numbers: columns that are parsed as numbers at once; where one of them is none, all columns stay text.

    Raises:
        RecbenchError: a line that has not as many fields as there are names, a misplaced quote, or an empty line.
    """
    data, byte = _single_byte(path, block, separator)
    quoted = quoted and b'"' in data
    width = len(names)
    # The parser fills short lines silently, takes long ones where it leaves columns out, and empty ones where there is
    # but one column. Short lines show in the number of separators; the exact check costs more.
    short = count_byte(data, byte) != block.lines * (width - 1)
    exact = quoted or short or width == 1 or len(wanted) < width
    lines = _check_lines(path, data, block.first_line, byte, width, quoted) if exact else None
    positions = {names.index(name): name for name in wanted}
    # The parser decompresses what begins as zlib's streams do, and text may: "x^2". A row before it prevents that. The
    # marks of gzip and zstandard are not UTF-8, which the text is.
    guarded = data.startswith(b"x")
    guard = b"0" + bytes([byte]) * (width - 1) + b"\n"
    try:
        frame = pl.read_csv(
            guard + data if guarded else data,
            has_header=False,
            schema={str(n): pl.Float64 if positions.get(n) in numbers else pl.String for n in range(width)},
            columns=sorted(positions),
            separator=chr(byte),
            quote_char='"' if quoted else None,
        )
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        if numbers:
            # Something may be no number as it stands; as text it is looked at more closely, and its line can be named.
            return rows(path, block, names, wanted, separator, quoted)
        _check_lines(path, data, block.first_line, byte, width, quoted)
        raise RecbenchError(f"{path}, line {block.first_line} or later: cannot be parsed ({error})") from error
    frame = frame.slice(1) if guarded else frame
    if numbers and not all(all_finite(values) for values in frame if values.dtype == pl.Float64):
        return rows(path, block, names, wanted, separator, quoted)
    expected = block.lines if lines is None else lines.size
    if frame.height != expected:
        raise RecbenchError(f"{path}, line {block.first_line} or later: {frame.height} rows, expected {expected}")
    frame = frame.rename({str(position): name for position, name in positions.items()})
    if quoted and len(separator.encode()) > 1:
        frame = frame.with_columns(pl.col(pl.String).str.replace_all(chr(byte), separator, literal=True))
    return Block(frame, block.first_line, path, lines)


def _single_byte(path: Path, block: TextBlock, separator: str) -> tuple[bytes, int]:
    """Return the lines with a separator of one byte, and that byte."""
    encoded = separator.encode()
    if len(encoded) == 1:
        return block.data, encoded[0]
    stand_in = next((byte for byte in _STAND_INS if byte not in block.data), None)
    if stand_in is None:
        raise RecbenchError(f"{path}, line {block.first_line} or later: every control character occurs, expected text")
    return block.data.replace(encoded, bytes([stand_in])), stand_in


def _between_quotes(characters: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Say of each byte whether it stands between quotes; of a quote, whether it opens."""
    return np.logical_xor.accumulate(characters == QUOTE)


def _check_lines(
    path: Path, data: bytes, first_line: int, separator: int, width: int, quoted: bool
) -> NDArray[np.int64] | None:
    """Check that every row has ``width`` fields; return the rows' lines if some rows span several lines."""
    characters = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(characters == NEWLINE)
    separators = np.flatnonzero(characters == separator)
    if quoted:
        inside = _between_quotes(characters)
        _check_quotes(path, characters, inside, first_line, separator)
        all_ends, ends, separators = ends, ends[~inside[ends]], separators[~inside[separators]]
    starts = np.concatenate([[0], ends[:-1] + 1])
    lines = first_line + (np.searchsorted(all_ends, starts) if quoted else np.arange(starts.size))
    fields = np.diff(np.searchsorted(separators, ends), prepend=0) + 1
    wrong = np.flatnonzero((fields != width) | (starts == ends))
    if wrong.size:
        first = wrong[0]
        found = "an empty line" if starts[first] == ends[first] else f"{fields[first]} fields"
        raise RecbenchError(f"{path}, line {lines[first]}: {found}, expected {width} separated fields")
    return lines if quoted and all_ends.size > ends.size else None


def _check_quotes(
    path: Path, characters: NDArray[np.uint8], inside: NDArray[np.bool_], first_line: int, separator: int
) -> None:
    """Check that quotes open and close at the ends of fields only, or are doubled between quotes, and are closed."""
    quotes = np.flatnonzero(characters == QUOTE)
    opening = inside[quotes]
    # The byte that stands on the outer side of each quote; before the block and after it there is a line feed.
    padded = np.pad(characters, 1, constant_values=NEWLINE)
    outer = padded[np.where(opening, quotes, quotes + 2)]
    wrong = quotes[~np.isin(outer, [separator, NEWLINE, QUOTE])]
    if not wrong.size and inside[-1]:
        wrong = quotes[-1:]
    if wrong.size:
        line = first_line + np.count_nonzero(characters[: wrong[0]] == NEWLINE)
        raise RecbenchError(
            f"{path}, line {line}: a quote that neither begins nor ends a field; between quotes it is doubled, and "
            "where quotes mean nothing, the card names none"
        )
