"""EASE: a linear autoencoder whose weights have a closed form.

Source      Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, arXiv:1905.03375, equations 5 to 8
Objective   |X - X B|^2 + l2 |B|^2 with diag(B) = 0; X (U, I) the 0/1 interactions, B (I, I)
Solution    P = (X'X + l2 Id)^-1,  B_ij = -P_ij / P_jj for i != j
Score       s(u, .) = x_u B
Cost        I^3 multiplications, on a CPU in the memory of B itself: 4 I^2 bytes, and 8 I^2 more where it is solved for
            in float64
Departures  none
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbench.errors import RecbenchError
from recbench.models.base import ClosedFormRecommender, ModelConfig, PositiveFloat, Reference, tunable
from recbench.tasks.interactions import TopNData, UserBatch

DOUBLE_NUMBERS = 2**29
"""Largest matrix solved in float64: 4 GiB, some 23,000 items. Larger ones are solved in float32, in place of B."""

BLOCK = 1024  # rows that are computed or copied at once


class EASE(ClosedFormRecommender):
    """Linear item-to-item autoencoder in closed form (Steck, WWW 2019)."""

    class Config(ModelConfig):
        """Hyper-parameters."""

        l2: PositiveFloat = tunable(300.0, low=10.0, high=5000.0, log=True)
        """Lambda. Published: 500 on ML-20M, 1000 on Netflix, 200 on MSD; of the BARS tables 80 on Gowalla."""

    folds_in = True
    reference = Reference("BARS", "topn/gowalla", "recall@20", 0.17649, 0.0003)
    weight: Tensor

    def __init__(self, config: Config, data: TopNData) -> None:
        super().__init__(config, data)
        self.register_buffer("weight", torch.zeros(data.n_items, data.n_items))

    def fit(self, data: TopNData) -> None:
        """Solve for B; ``RecbenchError`` if rounding leaves X'X + l2 Id without an inverse."""
        matrix = self.weight.double() if self.weight.numel() <= DOUBLE_NUMBERS else self.weight
        _fill_gram(matrix, data)
        matrix.diagonal().add_(self.config.l2)
        if not _invert(matrix):
            raise RecbenchError(f"l2: {self.config.l2} is too small to solve for the weights of ease; raise it")
        matrix.div_(-matrix.diagonal().clone()).fill_diagonal_(0.0)
        if matrix is not self.weight:
            self.weight.copy_(matrix)

    def score(self, batch: UserBatch) -> Tensor:
        """Return x_u B, shape (B, I)."""
        return batch.times(self.weight)


def _fill_gram(matrix: Tensor, data: TopNData) -> None:
    """Write X'X into ``matrix`` (I, I)."""
    # Co-occurrence counts are integers far below 2**24, so the sparse products are exact in float32.
    interactions = data.matrix()
    columns = interactions.T.tocsr()
    for start in range(0, len(matrix), BLOCK):
        block = slice(start, start + BLOCK)
        matrix[block] = torch.from_numpy((columns[block] @ interactions).toarray())


def _invert(matrix: Tensor) -> bool:
    """Replace a symmetric positive definite matrix (n, n) by its inverse; return whether that was possible."""
    if matrix.is_cuda:
        factor, failed = torch.linalg.cholesky_ex(matrix)
        torch.cholesky_inverse(factor, out=matrix)
        return not failed.item()
    # LAPACK through SciPy works in the memory it is given, where torch would make two copies.
    from scipy.linalg import lapack

    routines = {torch.float32: (lapack.spotrf, lapack.spotri), torch.float64: (lapack.dpotrf, lapack.dpotri)}
    factorise, invert = routines[matrix.dtype]
    by_columns = matrix.numpy().T
    _, failed = factorise(by_columns, lower=True, clean=False, overwrite_a=True)
    if failed:
        return False
    invert(by_columns, lower=True, overwrite_c=True)
    # What is the lower triangle by columns is the upper one by rows, and the only one that was written.
    for start in range(0, len(matrix), BLOCK):
        end = start + BLOCK
        square = matrix[start:end, start:end]
        square.copy_(square.triu() + square.triu(1).T)
        matrix[end:, start:end] = matrix[start:end, end:].T
    return True
