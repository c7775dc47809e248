"""Completion of a rating matrix: the complete world behind semi-synthetic benchmarks."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def complete(
    users: NDArray[np.int32],
    items: NDArray[np.int32],
    ratings: NDArray[np.float64],
    shape: tuple[int, int],
    rank: int,
    ridge: float,
    seed: int,
    sweeps: int = 15,
) -> Matrix:
    """Return the predicted ratings of all pairs, shape (U, I), by regularised alternating least squares.

    Minimises ``sum (r_ui - mean - p_u . q_i)^2 + ridge (|P|^2 + |Q|^2)`` over the observed ratings, where the first
    two coordinates of the factors carry the users' and items' biases.
    """
    rng = np.random.default_rng(seed)
    mean = ratings.mean()
    observed = sp.csr_matrix((ratings - mean, (users, items)), shape=shape)
    transposed = observed.T.tocsr()
    p = rng.normal(scale=0.1, size=(shape[0], rank + 2))
    q = rng.normal(scale=0.1, size=(shape[1], rank + 2))
    p[:, 0], q[:, 1] = 1.0, 1.0
    for _ in range(sweeps):
        p = _solve(observed, q, ridge, fixed=0)
        q = _solve(transposed, p, ridge, fixed=1)
    predicted: Matrix = mean + p @ q.T
    return predicted


def _solve(rows: sp.csr_matrix, other: Matrix, ridge: float, fixed: int) -> Matrix:
    """Solve every row's ridge regression on ``other``; the coefficient ``fixed`` is held at 1."""
    free = [column for column in range(other.shape[1]) if column != fixed]
    features, offset = other[:, free], other[:, fixed]
    ones = sp.csr_matrix((np.ones_like(rows.data), rows.indices, rows.indptr), shape=rows.shape)
    products = (features[:, :, None] * features[:, None, :]).reshape(len(features), -1)
    gram = (ones @ products).reshape(rows.shape[0], len(free), len(free)) + ridge * np.eye(len(free))
    target = rows @ features - ones @ (features * offset[:, None])
    solved = np.ones((rows.shape[0], other.shape[1]))
    solved[:, free] = np.linalg.solve(gram, target[:, :, None])[:, :, 0]
    return solved
