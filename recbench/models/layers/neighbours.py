"""Nearest neighbours among sparse vectors, and scores by a sparse matrix of weights between items.

Source      weighting, similarities and shrinkage as in Ferrari Dacrema et al., "A Troubling Analysis of Reproducibility
            and Progress in Recommender Systems Research", TOIS 2021, arXiv:1911.07698, section 4.1
Weighting   entry t of the 0/1 vector of document d becomes c_d idf_t. tf-idf: idf_t = log(N / (1 + n_t)) for N
            documents of which n_t have t, c_d = 1; BM25 besides: c_d = (K1 + 1) / (1 + K1 (1 - B + B |d| / mean |d|))
Similarity  cosine x.y / (|x| |y| + shrink), Jaccard x.y / (|x|^2 + |y|^2 - x.y + shrink)
Cost        sparse products of blocks of rows, so that memory is that of the K nearest of every row and one block
"""

# Shapes: N rows, M columns, F features, E entries of a product, I items, B batch, K neighbours.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recbench.models.base import ModelConfig, NonNegativeFloat, Positive, tunable
from recbench.tasks.batches import Ragged

Array = NDArray[Any]
Transform = Callable[[Array, Array, Array], Array]
"""Similarities (E,) of products, rows and columns (E,)."""

K1, B = 1.2, 0.75
ENTRIES_AT_ONCE = 2**22  # of a block of similarities: about 100 MiB while the largest are selected


class KNNConfig(ModelConfig):
    """Of models that look for the nearest neighbours of users or items."""

    neighbours: Positive = tunable(200, low=5, high=1000, log=True)
    """K."""
    similarity: Literal["cosine", "jaccard"] = tunable("cosine", choices=("cosine", "jaccard"))
    """Jaccard's coefficient of weighted vectors is Tanimoto's."""
    shrink: NonNegativeFloat = tunable(0.0, low=0.0, high=1000.0)
    """Added to the denominator of the similarity: trusts it less where it rests on little."""


@dataclass(frozen=True)
class Vectors:
    """Weighted 0/1 vectors: ``factors`` (N,) multiply the whole vectors, ``squares`` (N,) are their squared norms."""

    factors: Array
    squares: Array

    @classmethod
    def of(cls, pattern: sp.csr_matrix, factors: Array, features: Array) -> Vectors:
        """Of the rows of ``pattern`` (N, F), 0 or 1, times their ``factors`` and those of the ``features`` (F,)."""
        return cls(factors, factors**2 * (pattern @ features**2))


def idf(n_documents: int, counts: Array) -> Array:
    """Return the inverse document frequencies of features that so many documents have, (F,)."""
    return np.log(n_documents / (1 + counts)).astype(np.float32)


def bm25(lengths: Array, mean_length: float) -> Array:
    """Return BM25's factors of documents of so many features, (N,)."""
    factors: Array = ((K1 + 1) / (1 + K1 * (1 - B + B * lengths / mean_length))).astype(np.float32)
    return factors


def similarity(config: KNNConfig, left: Vectors, right: Vectors) -> Transform:
    """Return what makes similarities of products ``sum of features^2`` over the features two vectors share."""

    def transform(products: Array, rows: Array, columns: Array) -> Array:
        products = products * left.factors[rows] * right.factors[columns]
        if config.similarity == "cosine":
            denominators = np.sqrt(left.squares[rows] * right.squares[columns])
        else:
            denominators = left.squares[rows] + right.squares[columns] - products
        denominators += config.shrink
        # Vectors of features that all weigh nothing are like no other.
        return np.divide(products, denominators, out=np.zeros_like(products), where=denominators > 0)

    return transform


def nearest(left: sp.csr_matrix, right: sp.csr_matrix, k: int, transform: Transform, own: Array) -> sp.csr_matrix:
    """Return the k largest positive entries of every row of ``transform(left @ right)``, shape (N, M).

    ``left`` is (N, F), ``right`` (F, M); ``own`` (N,) is the column that is the row itself, and left out. Of equal
    entries the one with the higher column is kept, as by the published code.
    """
    # Of each row: the multiplications, and at most so many entries.
    products = np.concatenate([[0], np.diff(right.indptr)[left.indices].cumsum()])
    bounds = np.minimum(np.diff(products[left.indptr]), right.shape[1])

    def select(block: Array) -> sp.csr_matrix:
        entries = left[block] @ right
        rows = np.repeat(block, np.diff(entries.indptr))
        entries.data = transform(entries.data, rows, entries.indices)
        entries.data[entries.indices == own[rows]] = 0.0
        return _largest(entries, k)

    return _by_blocks(select, bounds)


def largest(matrix: sp.csr_matrix, k: int) -> sp.csr_matrix:
    """Return the k largest positive entries of every row, shape (N, M)."""
    return _by_blocks(lambda block: _largest(matrix[block], k), np.diff(matrix.indptr))


def rows_to_one(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """Return the matrix with its rows, whose entries are positive, divided by their sums, shape (N, M)."""
    sums = np.asarray(matrix.sum(axis=1)).ravel()
    data = matrix.data / np.repeat(sums, np.diff(matrix.indptr))
    return sp.csr_matrix((data, matrix.indices, matrix.indptr), shape=matrix.shape)


class ItemWeights(nn.Module):
    """A sparse matrix W (I, I) of weights between items, with at most K in a column: scores are x_u W."""

    offsets: Tensor
    columns: Tensor
    values: Tensor

    def __init__(self, n_items: int, k: int) -> None:
        super().__init__()
        n_entries = n_items * min(k, n_items)
        self.register_buffer("offsets", torch.zeros(n_items + 1, dtype=torch.int32))
        self.register_buffer("columns", torch.zeros(n_entries, dtype=torch.int32))
        self.register_buffer("values", torch.zeros(n_entries))

    def set(self, matrix: sp.csr_matrix) -> None:
        """Replace W; where it has fewer entries than there is space for, the rest is not used."""
        self.offsets.copy_(torch.from_numpy(matrix.indptr))
        self.columns[: matrix.nnz] = torch.from_numpy(matrix.indices).to(self.columns)
        self.values[: matrix.nnz] = torch.from_numpy(matrix.data).to(self.values)

    def matrix(self) -> sp.csr_matrix:
        """Return W on the CPU; there it shares the memory of this module."""
        offsets = self.offsets.cpu().numpy()
        columns, values = (entries.cpu().numpy()[: offsets[-1]] for entries in (self.columns, self.values))
        return sp.csr_matrix((values, columns, offsets), shape=(len(offsets) - 1, len(offsets) - 1))

    def forward(self, history: Ragged) -> Tensor:
        """Return x_u W for 0/1 rows x_u, shape (B, I)."""
        weights = self.matrix()
        return dense(pattern(history, weights.shape[0], weights.dtype) @ weights, self.values.device)


def pattern(rows: Ragged, n_columns: int, dtype: Any = np.float32) -> sp.csr_matrix:
    """Return ragged rows as a SciPy matrix of ones, shape (B, n_columns), on the CPU."""
    offsets, columns = rows.offsets.cpu().numpy(), rows.values.cpu().numpy()
    return sp.csr_matrix((np.ones(len(columns), dtype), columns, offsets), shape=(len(rows), n_columns))


def dense(matrix: sp.csr_matrix, device: torch.device) -> Tensor:
    """Return a SciPy matrix as a tensor of all its entries, on the device."""
    return torch.from_numpy(matrix.toarray()).to(device)


def _by_blocks(select: Callable[[Array], sp.csr_matrix], lengths: Array) -> sp.csr_matrix:
    """Return the matrix whose rows ``select`` gives block by block; before, they have at most ``lengths`` entries."""
    # Rows of similar length are selected from together, so that little of a block is padding.
    order = np.argsort(-lengths, kind="stable")
    descending = lengths[order].tolist()
    parts, start = [], 0
    while start < len(order):
        size = max(1, ENTRIES_AT_ONCE // max(1, descending[start]))
        parts.append(select(order[start : start + size]))
        start += size
    return sp.vstack(parts, format="csr")[order.argsort()]


def _largest(matrix: sp.csr_matrix, k: int) -> sp.csr_matrix:
    """Return the k largest positive entries of every row, shape (N, M), of rows padded to the longest."""
    lengths = np.diff(matrix.indptr)
    keys = np.zeros((len(lengths), max(1, int(lengths.max()))), dtype=np.int64)
    # A key has the bits of the value, which for positive floats are in their order, before those of the column: no two
    # are equal, and so what is kept does not depend on the rows it is chosen with.
    values = matrix.data.astype(np.float32).view(np.int32).astype(np.int64)
    keys[np.arange(keys.shape[1]) < lengths[:, None]] = (values << 32) | matrix.indices
    if keys.shape[1] > k:
        # A third of the time of numpy's partition.
        keys = torch.from_numpy(keys).topk(k, sorted=False).values.numpy()
    there = keys >= 2**32  # the value is above 0
    offsets = np.concatenate([[0], there.sum(axis=1).cumsum()])
    kept = keys[there]
    values, columns = (kept >> 32).astype(np.int32).view(np.float32), (kept & (2**32 - 1)).astype(np.int32)
    return sp.csr_matrix((values, columns, offsets), shape=matrix.shape)
