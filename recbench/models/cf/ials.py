"""iALS: matrix factorisation of implicit feedback by alternating least squares.

Source      Hu, Koren, Volinsky, ICDM 2008; regularisation and settings of Rendle, Krichene, Zhang, Koren, "Revisiting
            the Performance of iALS on Item Recommendation Benchmarks", RecSys 2022, arXiv:2110.14037, equations 3 to 5
Score       s(u, i) = <w_u, h_i>
Objective   sum over interactions (s(u, i) - 1)^2 + alpha0 * sum over all pairs s(u, i)^2
            + l2 * [sum_u (|I_u| + alpha0 |I|)^nu |w_u|^2 + sum_i (|U_i| + alpha0 |U|)^nu |h_i|^2]
Sweep       with W fixed every h_i, then with H fixed every w_u, is the exact solution of its own linear system, e.g.
            (sum_{i in I_u} h_i h_i' + alpha0 H'H + l2 (|I_u| + alpha0 |I|)^nu Id) w_u = sum_{i in I_u} h_i
Cost        O(n D^2 + (U + I) D^3) a sweep for n interactions: H'H is common to all users
Departures  exact solutions in all D coordinates at once, where the paper's large runs solve blocks of coordinates;
            items before users, so that the users' factors, which rank, are optimal for the items'
"""

# Shapes: U users, I items, D embedding_dim, B rows solved at once, L length of the longest of them.

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from recbench.models.base import ModelConfig, NonNegativeFloat, Positive, PositiveFloat, Recommender, Reference, tunable
from recbench.models.procedure import Stage, Sweep
from recbench.tasks.batches import Ragged
from recbench.tasks.interactions import TopNData, UserBatch

NUMBERS_AT_ONCE = 2**22  # of gathered factors: 16 MiB of float32


class IALS(Recommender):
    """Implicit alternating least squares with frequency-scaled regularisation (Rendle et al., RecSys 2022)."""

    class Config(ModelConfig):
        """Hyper-parameters."""

        embedding_dim: Positive = tunable(64, low=16, high=256, log=True)
        """D. Published: 2048 on ML-20M, 8192 on MSD."""
        alpha0: PositiveFloat = tunable(0.5, low=0.01, high=1.0, log=True)
        """Weight of a pair that was not observed. Published: 0.1 on ML-20M, 0.02 on MSD."""
        l2: PositiveFloat = tunable(0.01, low=1e-4, high=1.0, log=True)
        """Lambda. Published: 0.003 on ML-20M, 0.002 on MSD."""
        nu: NonNegativeFloat = tunable(1.0, low=0.0, high=1.0)
        """Exponent of the frequency by which the penalty grows. Published: 1."""
        epochs: Positive = 30
        """Sweeps at most. Published: 16."""
        patience: Positive = 3
        """Sweeps without a better validation value before training stops."""

    reference = Reference("Rendle et al., RecSys 2022", "topn/ml-20m-strong", "ndcg@100", 0.425, 0.005)
    user_factors: Tensor
    item_factors: Tensor

    def __init__(self, config: Config, data: TopNData) -> None:
        super().__init__(config, data)
        std = 0.1 / config.embedding_dim**0.5
        self.register_buffer("user_factors", std * torch.randn(data.n_users, config.embedding_dim))
        self.register_buffer("item_factors", std * torch.randn(data.n_items, config.embedding_dim))

    def procedure(self, data: TopNData) -> Iterator[Stage]:
        """One stage of sweeps over the items and the users."""
        items_of_users = data.history
        order = torch.argsort(data.items, stable=True)
        counts = torch.bincount(data.items, minlength=data.n_items)
        users_of_items = Ragged(data.users[order], torch.cat([counts.new_zeros(1), counts.cumsum(0)]))

        def sweep() -> None:
            self.item_factors.copy_(self.solve(users_of_items, self.user_factors))
            self.user_factors.copy_(self.solve(items_of_users, self.item_factors))

        yield Stage("train", [Sweep("sweep", sweep)], self.config.epochs, self.config.patience)

    def solve(self, rows: Ragged, other: Tensor) -> Tensor:
        """Return the factors of all rows that minimise the objective while ``other`` (n, D) is fixed, (len(rows), D).

        ``rows`` holds, for each row, the numbers of the ``other`` factors it was observed with.
        """
        config, dim = self.config, other.shape[1]
        common = config.alpha0 * other.T @ other
        ridge = config.l2 * (rows.lengths.to(other.dtype) + config.alpha0 * len(other)) ** config.nu
        identity = torch.eye(dim, dtype=other.dtype, device=other.device)
        # A last row of zeros is what padding refers to: it adds nothing to any sum.
        padded_other = torch.cat([other, other.new_zeros(1, dim)])
        factors = other.new_empty(len(rows), dim)
        # Rows of similar length are solved together, so that little of a block is padding.
        lengths, order = rows.lengths.sort(descending=True)
        for block in _blocks(order, lengths, dim):
            gathered = padded_other[_padded(rows.take(block), len(other))]  # (B, L, D)
            systems = gathered.mT @ gathered + common + ridge[block, None, None] * identity
            targets = gathered.sum(1).unsqueeze(2)
            factors[block] = torch.cholesky_solve(targets, torch.linalg.cholesky(systems)).squeeze(2)
        return factors

    def score(self, batch: UserBatch) -> Tensor:
        """Return inner products, shape (B, I)."""
        return self.user_factors[batch.users] @ self.item_factors.T


def _blocks(order: Tensor, lengths: Tensor, dim: int) -> Iterator[Tensor]:
    """Yield consecutive parts of ``order``, whose ``lengths`` fall, each within the limit of memory."""
    descending = lengths.tolist()
    start = 0
    while start < len(order):
        size = max(1, NUMBERS_AT_ONCE // (dim * max(dim, descending[start])))
        yield order[start : start + size]
        start += size


def _padded(rows: Ragged, padding: int) -> Tensor:
    """Return the rows as a rectangle filled up with ``padding``, shape (B, L)."""
    numbers = rows.rows()
    places = torch.arange(len(rows.values), device=rows.values.device) - rows.offsets[numbers]
    rectangle = rows.values.new_full((len(rows), int(rows.lengths.max())), padding)
    rectangle[numbers, places] = rows.values
    return rectangle
