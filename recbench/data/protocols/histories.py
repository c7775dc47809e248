"""Histories: what a user did before each row of a log, made from the log itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recbench.data.protocols import encoding
from recbench.data.protocols.encoding import Ints, Lists


class Past(NamedTuple):
    """The earlier rows of the same user that each of n rows shows: row r shows ``events[low[r]:high[r]]``."""

    events: NDArray[np.int64]
    """Numbers of rows, by user, then by time, rows of equal time in the order of the log."""
    low: NDArray[np.int64]
    high: NDArray[np.int64]


def past(users: NDArray[np.integer], times: NDArray[np.float64], shown: NDArray[np.bool_] | None, length: int) -> Past:
    """Find what every row shows: of its user's rows of a strictly earlier time those that may be shown, the last ones.

    Args:
        users: (n,).
        times: (n,) finite.
        shown: (n,) which rows may be shown; all if None.
        length: the most rows that one row shows.
    """
    order = np.lexsort((times, users))
    users, times = users[order], times[order]
    new_user = np.append(True, users[1:] != users[:-1])
    new_time = np.append(True, times[1:] != times[:-1]) | new_user
    may = np.ones(len(order), dtype=np.bool_) if shown is None else shown[order]
    before = np.cumsum(may) - may
    # A row's own time and what is before its user's first row are not its past.
    high = before[_latest(new_time)]
    low = np.maximum(before[_latest(new_user)], high - length)
    found = Past(order[may], np.empty_like(low), np.empty_like(high))
    found.low[order], found.high[order] = low, high
    return found


def _latest(starts: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the last place up to each one that is a start; the first place is one."""
    places: NDArray[np.int64] = np.maximum.accumulate(np.where(starts, np.arange(len(starts)), 0))
    return places


class History(Lists):
    """The values of another field in the same user's earlier rows.

    They are counted where they are values of that field, and here only shown.
    """

    def read(self, values: pl.Series) -> None:
        """Take nothing: the rows have no column of it."""

    def learn(self, train: NDArray[np.bool_]) -> None:
        """Learn nothing: that is for the field whose history it is."""

    def show(self, found: Past, codes: Ints) -> None:
        """Take the history of every row in: the rows that it shows, and the number of every row's value."""
        codes = codes[found.events]
        for start in range(0, len(found.low), encoding.ROWS_AT_ONCE):
            low, high = (side[start : start + encoding.ROWS_AT_ONCE] for side in (found.low, found.high))
            lengths = high - low
            ends = np.cumsum(lengths)
            places = np.arange(ends[-1]) + np.repeat(low - ends + lengths, lengths)
            self.lengths.append(lengths)
            self.column.append(codes[places])
        self.lengths.rewind()
        self.column.rewind()
