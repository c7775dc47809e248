"""What every reader gives: rows of a file, with where they stand in it."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recbench.errors import RecbenchError


class Block(NamedTuple):
    """Some successive rows of one file, its columns called as the file calls them and not yet of the card's types.

    A column is text, numbers, truth values, or lists of these; a missing value is null, in text also the empty string.
    """

    frame: pl.DataFrame
    first_line: int | None
    """Line of the first row where each row is one line, counted from 1; None where rows are not lines."""
    path: Path
    lines: NDArray[np.int64] | None = None
    """Line on which each row begins, shape (rows,), where some rows span several lines."""

    def place(self, row: int) -> str:
        """Say where the row ``row`` of the frame stands: ``file, line 3``, or the file alone."""
        if self.lines is not None:
            return f"{self.path}, line {self.lines[row]}"
        return f"{self.path}" if self.first_line is None else f"{self.path}, line {self.first_line + row}"


def require(place: Path | str, wanted: Iterable[str], found: Iterable[str]) -> None:
    """Check that the wanted columns are among those found in a file, or on a line of it.

    Raises:
        RecbenchError: one is not; the message names those found.
    """
    names = list(found)
    for name in wanted:
        if name not in names:
            raise RecbenchError(f"{place}: there is no column '{name}'; found: {', '.join(names) or 'none'}")
