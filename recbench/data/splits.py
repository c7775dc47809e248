"""Random splits, vectorised and seeded: every row is assigned to train, valid or test."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TRAIN, VALID, TEST = 0, 1, 2

Int = NDArray[np.integer]
Parts = NDArray[np.int8]


def random_rows(n_rows: int, valid: float, test: float, seed: int) -> Parts:
    """Assign ``floor(n_rows * share)`` random rows to valid and to test and the rest to train; shape (n_rows,)."""
    order = np.random.default_rng(seed).permutation(n_rows)
    return _by_rank(order, np.full(n_rows, n_rows), valid, test)


def random_by_user(users: Int, valid: float, test: float, seed: int) -> Parts:
    """Assign ``floor(n_u * share)`` random rows of every user u to valid and to test, the rest to train.

    ``users`` has shape (n_rows,) and ids from 0; a user of fewer than ``1 / share`` rows has none in that part.
    """
    users = np.asarray(users, dtype=np.int64)
    order = np.lexsort((np.random.default_rng(seed).random(len(users)), users))
    counts = np.bincount(users)
    starts = np.cumsum(counts) - counts
    rank = np.empty(len(users), dtype=np.int64)
    rank[order] = np.arange(len(users)) - starts[users[order]]
    return _by_rank(rank, counts[users], valid, test)


def _by_rank(rank: Int, group_size: Int, valid: float, test: float) -> Parts:
    """Give the first ranks of each group to test, the next to valid, the others to train."""
    # The small constant keeps floor(0.1 * 30) at 3 although 0.1 * 30 may be a hair below it.
    n_valid = np.floor(group_size * valid + 1e-9)
    n_test = np.floor(group_size * test + 1e-9)
    parts = np.full(len(rank), TRAIN, dtype=np.int8)
    parts[rank < n_test + n_valid] = VALID
    parts[rank < n_test] = TEST
    return parts
