"""Text in blocks of whole lines, in bounded memory; compressed files are read through."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recbench.errors import RecbenchError

BLOCK_BYTES = 24 << 20
"""Size of a block, and of the longest line that is accepted."""
NEWLINE, QUOTE = ord("\n"), ord('"')
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DECOMPRESSORS: dict[str, Callable[[Path], BufferedIOBase]] = {
    ".gz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
_UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError)
# Bytes are counted in pieces that stay in the processor's cache: twice as fast.
_PIECE = 1 << 18


class TextBlock(NamedTuple):
    """Whole lines of a file, in UTF-8, each ended by a line feed."""

    data: bytes
    first_line: int
    """Number of the first of them in the file, from 1."""
    lines: int
    """How many they are."""


def text_blocks(
    path: Path, *, encoding: str = "utf-8", skip_lines: int = 0, quoted: bool = False
) -> Iterator[TextBlock]:
    """Give the lines of a file in blocks; none, if the file is empty.

    A file whose name ends in ``.gz``, ``.bz2`` or ``.xz`` is decompressed. A byte order mark, and the carriage returns
    before line feeds, are dropped. Lines may be empty.

    Args:
        path: the file.
        encoding: ``utf-8`` or ``latin-1``.
        skip_lines: how many lines to leave out at the start; they are counted, but not looked at.
        quoted: a block does not end at a line feed between double quotes.

    Raises:
        RecbenchError: the file cannot be read or decompressed; it has fewer lines than are to be left out, a line that
            is longer than a block, a NUL byte, or bytes that are not of the encoding.
    """
    try:
        with _DECOMPRESSORS.get(path.suffix, _plain)(path) as file:
            _skip(path, file, skip_lines)
            yield from _blocks(path, file, encoding, skip_lines + 1, quoted)
    except _UNREADABLE as error:
        raise RecbenchError(f"{path}: cannot be read ({error}); is it complete?") from error


def count_byte(data: bytes, byte: int) -> int:
    """Return how often a byte occurs."""
    characters = np.frombuffer(data, dtype=np.uint8)
    pieces = range(0, characters.size, _PIECE)
    return sum(int(np.count_nonzero(characters[start : start + _PIECE] == byte)) for start in pieces)


def _line_of(block: TextBlock, offset: int) -> int:
    """Return the number of the line that a position in the block's data is on."""
    return block.first_line + block.data.count(b"\n", 0, offset)


def _plain(path: Path) -> BufferedIOBase:
    return path.open("rb")


def _skip(path: Path, file: BufferedIOBase, lines: int) -> None:
    for number in range(1, lines + 1):
        if not file.readline(BLOCK_BYTES).endswith(b"\n"):
            raise RecbenchError(f"{path}, line {number}: the file ends here, expected {lines} lines before the data")


def _blocks(path: Path, file: BufferedIOBase, encoding: str, line: int, quoted: bool) -> Iterator[TextBlock]:
    while chunk := file.read(BLOCK_BYTES):
        parts = [chunk, *_rest(path, file, chunk, line, quoted)]
        block = _checked(path, b"".join(parts), line, encoding)
        yield block
        line += block.lines


def _rest(path: Path, file: BufferedIOBase, chunk: bytes, line: int, quoted: bool) -> Iterator[bytes]:
    """Read on until a line ends outside quotes; the last line of the file is ended where it is not."""
    left = BLOCK_BYTES
    ended = chunk.endswith(b"\n")
    open_quote = quoted and count_byte(chunk, QUOTE) % 2 == 1
    while not ended or open_quote:
        piece = file.readline(left)
        if not piece:
            yield b"" if ended else b"\n"
            return
        yield piece
        left -= len(piece)
        if not left:
            number = line + count_byte(chunk, NEWLINE)
            raise RecbenchError(f"{path}, line {number}: no end within {BLOCK_BYTES} bytes, expected lines of text")
        ended = piece.endswith(b"\n")
        open_quote ^= quoted and piece.count(b'"') % 2 == 1


def _checked(path: Path, raw: bytes, line: int, encoding: str) -> TextBlock:
    """Return lines as UTF-8 without carriage returns at their ends."""
    if line == 1:
        raw = raw.removeprefix(_BYTE_ORDER_MARK)
    lines = count_byte(raw, NEWLINE)
    block = TextBlock(raw, line, lines)
    if b"\0" in raw:
        raise RecbenchError(f"{path}, line {_line_of(block, raw.index(0))}: a NUL byte, expected text in {encoding}")
    if encoding == "latin-1":
        raw = raw.decode("latin-1").encode()
    elif not raw.isascii():
        try:
            raw.decode()
        except UnicodeDecodeError as error:
            raise RecbenchError(
                f"{path}, line {_line_of(block, error.start)}: the byte 0x{raw[error.start]:02x}, expected text in "
                "UTF-8; where it is in Latin-1, the card says `encoding: latin-1`"
            ) from error
    if b"\r" in raw:
        raw = raw.replace(b"\r\n", b"\n")
    return TextBlock(raw, line, lines)
