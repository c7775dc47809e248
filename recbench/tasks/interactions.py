"""Interactions of users with items, on the device: what ranking models train on, and its batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recbench.tasks.batches import Ragged, blocks
from recbench.tasks.samplers import Sampler

if TYPE_CHECKING:
    import scipy.sparse as sp

DRAWN_AT_ONCE = 2**18
"""Negatives, of several batches: one large draw is faster than many small ones."""


@dataclass(frozen=True)
class UserBatch:
    """A block of users: ids (B,) and their training items, one ragged row each.

    Models that know users by id use ``users``; row-based ones use ``history`` and so can score users never seen.
    """

    users: Tensor
    history: Ragged
    n_items: int

    def __len__(self) -> int:
        return len(self.users)

    def dense(self) -> Tensor:
        """Return the 0/1 rows, shape (B, I), float32."""
        rows = torch.zeros(len(self), self.n_items, device=self.users.device)
        rows[self.history.rows(), self.history.values] = 1.0
        return rows

    def times(self, weight: Tensor, values: Tensor | None = None) -> Tensor:
        """Return rows times ``weight`` (I, D) as a sparse product, shape (B, D).

        ``values`` (n_values,) are the non-zero entries; ones if not given. Differentiable in both.
        """
        return torch.nn.functional.embedding_bag(
            self.history.values, weight, self.history.offsets[:-1], mode="sum", per_sample_weights=values
        )


@dataclass(frozen=True)
class PairBatch:
    """Interactions with sampled negatives: users (B,), positives (B,), negatives (B, N), or (N,) shared by all rows.

    ``log_counts`` and ``mask`` are as in ``Negatives``. A sampler whose ``refine`` is to choose the positives may hand
    out (B, K) of them.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor
    log_counts: Tensor | None = None
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.users)

    def split(self, size: int) -> Iterator[PairBatch]:
        """Yield consecutive blocks of ``size`` rows (the last may be smaller), of which each has its own negatives."""
        columns = self.users, self.positives, self.negatives, self.log_counts, self.mask
        cut = [itertools.repeat(None) if column is None else blocks(column, size) for column in columns]
        yield from itertools.starmap(PairBatch, zip(*cut, strict=False))


class TopNData:
    """What a top-N model trains on: the training interactions, on the device.

    ``users``, ``items``: (n,) sorted by user and item; ``history``: the same as one ragged row a user. ``fold_in``
    says that validation and test are of users who are not in training, known by the history shown with them.
    """

    def __init__(self, n_users: int, n_items: int, users: Tensor, items: Tensor, *, fold_in: bool = False) -> None:
        self.n_users = n_users
        self.n_items = n_items
        self.fold_in = fold_in
        self.users = users
        self.items = items
        counts = torch.bincount(users, minlength=n_users)
        self.history = Ragged(items, torch.cat([counts.new_zeros(1), counts.cumsum(0)]))
        within = torch.arange(len(items), device=items.device) - self.history.offsets[users]
        # Number of unseen items below the j-th item of a user, made one sorted key over all users.
        self._unseen_below = users * (n_items + 1) + items - within
        self._pairs = users * n_items + items

    @property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self.users.device

    def sample_unseen(self, users: Tensor, number: int, generator: torch.Generator) -> Tensor:
        """Draw items uniformly from those each user has not interacted with, shape (len(users), number).

        Exact and without rejection: the r-th unseen item of a user is r plus the number of his items before it, which
        one binary search over all users' histories finds.
        """
        unseen = self.n_items - self.history.lengths[users]
        uniform = torch.rand(len(users), number, generator=generator, device=self.device, dtype=torch.float64)
        rank = (uniform * unseen[:, None]).long()
        key = users[:, None] * (self.n_items + 1) + rank
        seen_before = torch.searchsorted(self._unseen_below, key, right=True) - self.history.offsets[users, None]
        # A user who has seen everything has nothing to draw from; any item does no harm to the others.
        return (rank + seen_before).clamp_(max=self.n_items - 1)

    def seen(self, users: Tensor, items: Tensor) -> Tensor:
        """Return whether each user (B,) has interacted with each of its items (B, N), shape (B, N)."""
        keys = users[:, None] * self.n_items + items
        return self._pairs[torch.searchsorted(self._pairs, keys).clamp_(max=len(self._pairs) - 1)] == keys

    def pairs(self, batch_size: int, sampler: Sampler | None = None) -> Pairs:
        """Supply every training interaction once an epoch, in random order, with fresh negatives.

        Without a sampler, one for each interaction, uniform over the user's unseen items.
        """
        return Pairs(self, batch_size, sampler or Sampler(self, 1))

    def user_rows(self, batch_size: int) -> UserRows:
        """Supply every user with training items once an epoch, in random order."""
        return UserRows(self, batch_size)

    def user_batch(self, users: Tensor) -> UserBatch:
        """Return the batch of the given users."""
        return UserBatch(users, self.history.take(users), self.n_items)

    def matrix(self, dtype: Any = np.float32) -> sp.csr_matrix:
        """Return the training interactions as a SciPy matrix of ones, shape (U, I), on the CPU."""
        import scipy.sparse as sp

        offsets, items = self.history.offsets.cpu().numpy(), self.items.cpu().numpy()
        shape = (self.n_users, self.n_items)
        return sp.csr_matrix((np.ones(len(items), dtype=dtype), items, offsets), shape=shape)


class Pairs:
    """Source of ``PairBatch``."""

    def __init__(self, data: TopNData, batch_size: int, sampler: Sampler) -> None:
        self._data = data
        self._batch_size = batch_size
        self._sampler = sampler

    @property
    def n_samples(self) -> int:
        """Number of training interactions."""
        return len(self._data.users)

    def epoch(self, generator: torch.Generator) -> Iterator[PairBatch]:
        """Yield the batches of one epoch."""
        data = self._data
        order = torch.randperm(len(data.users), generator=generator, device=data.device)
        size = self._batch_size
        at_once = size
        if self._sampler.by_row:
            at_once *= max(1, DRAWN_AT_ONCE // (size * self._sampler.number))
        for users, positives in zip(
            blocks(data.users[order], at_once), blocks(data.items[order], at_once), strict=True
        ):
            drawn = self._sampler.draw(users, positives, generator)
            batch = PairBatch(users, positives, drawn.items, drawn.log_counts, drawn.mask)
            if len(batch) > size:
                yield from batch.split(size)
            else:
                yield batch


class UserRows:
    """Source of ``UserBatch``."""

    def __init__(self, data: TopNData, batch_size: int) -> None:
        self._data = data
        self._batch_size = batch_size
        self._users = torch.nonzero(data.history.lengths).squeeze(1)

    @property
    def n_samples(self) -> int:
        """Number of users with training items."""
        return len(self._users)

    def epoch(self, generator: torch.Generator) -> Iterator[UserBatch]:
        """Yield the batches of one epoch."""
        data = self._data
        order = self._users[torch.randperm(len(self._users), generator=generator, device=data.device)]
        histories = data.history.take(order).split(self._batch_size)
        for users, history in zip(blocks(order, self._batch_size), histories, strict=True):
            yield UserBatch(users, history, data.n_items)
