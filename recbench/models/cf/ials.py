"""iALS: matrix factorisation of implicit feedback by alternating least squares.

Source      Hu, Koren, Volinsky, ICDM 2008; regularisation and settings of Rendle, Krichene, Zhang, Koren, "Revisiting
            the Performance of iALS on Item Recommendation Benchmarks", RecSys 2022, arXiv:2110.14037, equations 3 to 5
Score       s(u, i) = <w_u, h_i>, where w_u is the solution for the history that is shown: for users of the training
            data the one with which training has ended, and the same for users never seen
Objective   sum over interactions (s(u, i) - 1)^2 + alpha0 * sum over all pairs s(u, i)^2
            + l2 * [sum_u (|I_u| + alpha0 |I|)^nu |w_u|^2 + sum_i (|U_i| + alpha0 |U|)^nu |h_i|^2]
Sweep       with W fixed every h_i, then with H fixed every w_u, is the exact solution of its own linear system, e.g.
            (H_u'H_u + alpha0 H'H + r_u Id) w_u = H_u'1, r_u = l2 (|I_u| + alpha0 |I|)^nu, H_u the rows h_i, i in I_u
Solution    H'H = Q diag(s) Q' is common to all users, so in the coordinates of Q all but H_u'H_u is a diagonal matrix,
            S_u = diag(alpha0 s + r_u). A user of L < D items needs a system of L equations only:
            (H_u'H_u + S_u)^-1 H_u' = S_u^-1 H_u' (H_u S_u^-1 H_u' + Id)^-1
Cost        a sweep: O(D^3 + (U + I) D^2), and O(L D min(L, D)) for every row of L interactions
Departures  exact solutions in all D coordinates at once, where the paper's large runs solve blocks of coordinates;
            items before users, so that the users' factors, which rank, are optimal for the items'; |U| counts all users
            of the data set, so also those who are not in training
"""

# Shapes: U users, I items, D embedding_dim, B rows solved at once, L length of the longest of them.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from recbench.models.base import ModelConfig, NonNegativeFloat, Positive, PositiveFloat, Recommender, Reference, tunable
from recbench.models.layers.wide import wide_linear
from recbench.models.procedure import Stage, Sweep
from recbench.tasks.batches import Ragged
from recbench.tasks.interactions import TopNData, UserBatch

NUMBERS_AT_ONCE = 2**22  # of gathered factors: 16 MiB of float32


@dataclass(frozen=True)
class Rotated:
    """Factors in the coordinates in which the sum of their outer products is a diagonal matrix."""

    factors: Tensor
    """(n + 1, D). The last row is of zeros: what padding refers to, as it adds nothing to any sum."""
    squares: Tensor
    """The diagonal, (D,)."""
    directions: Tensor
    """(D, D): ``factors`` are the given ones times this, and this times its transpose is one."""

    @classmethod
    def of(cls, factors: Tensor) -> Rotated:
        """Rotate factors (n, D)."""
        squares, directions = torch.linalg.eigh(factors.T @ factors)
        rotated = torch.cat([factors @ directions, factors.new_zeros(1, factors.shape[1])])
        return cls(rotated, squares.clamp(min=0), directions)  # below 0 by rounding only


class IALS(Recommender):
    """Implicit alternating least squares with frequency-scaled regularisation (Rendle et al., RecSys 2022)."""

    class Config(ModelConfig):
        """Hyper-parameters."""

        embedding_dim: Positive = tunable(64, low=16, high=512, log=True)
        """D. Published: 2048 on ML-20M, 8192 on MSD."""
        alpha0: PositiveFloat = tunable(0.1, low=0.01, high=1.0, log=True)
        """Weight of a pair that was not observed. Published: 0.1 on ML-20M, 0.02 on MSD."""
        l2: PositiveFloat = tunable(0.003, low=1e-4, high=1.0, log=True)
        """Lambda. Published: 0.003 on ML-20M, 0.002 on MSD."""
        nu: NonNegativeFloat = tunable(1.0, low=0.0, high=1.0)
        """Exponent of the frequency by which the penalty grows. Published: 1."""
        epochs: Positive = 30
        """Sweeps at most. Published: 16."""
        patience: Positive = 3
        """Sweeps without a better validation value before training stops."""

    folds_in = True
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
            users = Rotated.of(self.user_factors)
            self.item_factors.copy_(self.solve(users_of_items, users) @ users.directions.T)
            items = Rotated.of(self.item_factors)
            self.user_factors.copy_(self.solve(items_of_users, items) @ items.directions.T)

        yield Stage("train", [Sweep("sweep", sweep)], self.config.epochs, self.config.patience)

    def solve(self, rows: Ragged, other: Rotated) -> Tensor:
        """Return the factors of all rows that minimise the objective while ``other`` is fixed, (len(rows), D).

        They are in the coordinates of ``other``. ``rows`` holds, for each row, the numbers of the ``other`` factors it
        was observed with.
        """
        config, n_other, dim = self.config, len(other.factors) - 1, other.factors.shape[1]
        ridge = config.l2 * (rows.lengths.to(other.factors) + config.alpha0 * n_other) ** config.nu
        solutions = other.factors.new_empty(len(rows), dim)
        # Rows of similar length are solved together, so that little of a block is padding.
        lengths, order = rows.lengths.sort(descending=True)
        for block in _blocks(order, lengths, dim):
            gathered = other.factors[_padded(rows.take(block), n_other)]
            solutions[block] = _solve(gathered, config.alpha0 * other.squares + ridge[block, None])
        return solutions

    def prepare_scoring(self) -> None:
        """Rotate the items' factors."""
        self._items = Rotated.of(self.item_factors)

    def score(self, batch: UserBatch) -> Tensor:
        """Return inner products with the factors that are optimal for the histories, shape (B, I)."""
        return wide_linear(self.solve(batch.history, self._items), self._items.factors[:-1])


def _solve(gathered: Tensor, diagonal: Tensor) -> Tensor:
    """Return the solutions w of (G'G + diag(d)) w = G'1, (B, D), for G = ``gathered`` (B, L, D) and d (B, D)."""
    if gathered.shape[1] >= gathered.shape[2]:
        targets = gathered.sum(1).unsqueeze(2)
        return _solve_with(diagonal, gathered.mT @ gathered, targets).squeeze(2)
    scaled = gathered / diagonal[:, None]
    ones = gathered.new_ones(*gathered.shape[:2], 1)
    return (scaled.mT @ _solve_with(ones.squeeze(2), scaled @ gathered.mT, ones)).squeeze(2)


def _solve_with(diagonal: Tensor, systems: Tensor, targets: Tensor) -> Tensor:
    """Return the solutions for (B, n, n) positive definite systems to whose diagonals (B, n) are added, (B, n, 1)."""
    systems.diagonal(dim1=1, dim2=2).add_(diagonal)
    return torch.cholesky_solve(targets, torch.linalg.cholesky(systems))


def _blocks(order: Tensor, lengths: Tensor, dim: int) -> Iterator[Tensor]:
    """Yield consecutive parts of ``order``, whose ``lengths`` fall, each within the limit of memory."""
    descending = lengths.tolist()
    start = 0
    while start < len(order):
        size = max(1, NUMBERS_AT_ONCE // (dim * max(1, descending[start])))
        yield order[start : start + size]
        start += size


def _padded(rows: Ragged, padding: int) -> Tensor:
    """Return the rows as a rectangle filled up with ``padding``, shape (B, L)."""
    numbers = rows.rows()
    places = torch.arange(len(rows.values), device=rows.values.device) - rows.offsets[numbers]
    rectangle = rows.values.new_full((len(rows), int(rows.lengths.max())), padding)
    rectangle[numbers, places] = rows.values
    return rectangle
