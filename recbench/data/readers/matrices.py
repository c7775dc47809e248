"""Matrices as text, one line a row."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recbench.data.cards import MatrixTable
from recbench.data.readers.block import Block, require
from recbench.data.readers.lists import split_lines
from recbench.data.readers.text import TextBlock, text_blocks
from recbench.errors import RecbenchError


def read_matrix(paths: Sequence[Path], spec: MatrixTable) -> Iterator[Block]:
    """Read whitespace-separated matrices: columns ``row``, ``column`` (both from 0) and ``value``, row by row.

    The reader ``matrix`` leaves zeros out, as where 0 stands for no rating; ``matrix-dense`` gives every cell.

    Raises:
        RecbenchError: as ``text_blocks``; an empty file, a line that has not as many numbers as the first one, or a
            value that is not a finite number.
    """
    for path in paths:
        require(path, spec.columns, ("row", "column", "value"))
        width = 0
        for block in text_blocks(path):
            matrix = _parsed(path, block, width)
            width = matrix.shape[1]
            wanted = np.ones_like(matrix, dtype=np.bool_) if spec.reader == "matrix-dense" else matrix != 0
            rows, columns = np.nonzero(wanted)
            lines = block.first_line + rows
            frame = pl.DataFrame({"row": lines - 1, "column": columns, "value": matrix[rows, columns]})
            yield Block(frame.select(*spec.columns), None, path, lines)
        if not width:
            raise RecbenchError(f"{path}, line 1: the file is empty, expected a matrix of numbers")


def _parsed(path: Path, block: TextBlock, width: int) -> NDArray[np.float64]:
    """Return the numbers of some lines, shape (lines, numbers in a line); ``width`` is 0 for the first lines."""
    fields = split_lines(block).str.extract_all(r"\S+")
    counts = fields.list.len().to_numpy()
    width = width or int(counts[0])
    wrong = np.flatnonzero((counts != width) | (counts == 0))
    if wrong.size:
        found, line = counts[wrong[0]], block.first_line + wrong[0]
        raise RecbenchError(f"{path}, line {line}: {found} numbers, expected {width or 'at least one'} as in line 1")
    text = fields.explode()
    values = text.cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size:
        line = block.first_line + wrong[0] // width
        raise RecbenchError(f"{path}, line {line}: '{text[int(wrong[0])]}', expected a finite number")
    return values.reshape(-1, width)
