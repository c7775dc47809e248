"""Random: the floor of every ranking.

Score       a fixed pseudo-random number for every (user, item), drawn anew with every seed
Expected    Recall@k = k / (number of unseen items), whatever the data
Departures  none
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from recbench.models.base import ModelConfig, Recommender
from recbench.models.procedure import Stage
from recbench.tasks.interactions import TopNData, UserBatch

VALUES = 2**24  # every integer below is exact in float32


class Random(Recommender):
    """Ranks items in a random order of its own for every user."""

    folds_in = True
    seed: Tensor

    def __init__(self, config: ModelConfig, data: TopNData) -> None:
        super().__init__(config, data)
        self.register_buffer("seed", torch.randint(2**31, ()))

    def procedure(self, data: TopNData) -> Iterator[Stage]:
        """No stages: there is nothing to learn."""
        return iter(())

    def score(self, batch: UserBatch) -> Tensor:
        """Return scores in [0, 1), shape (B, I); those of a pair depend on nothing but the pair and the seed."""
        items = torch.arange(self.n_items, device=self.seed.device)
        pairs = batch.users[:, None] * self.n_items + items
        values: Tensor = _mix(_mix(self.seed) + pairs) % VALUES
        return values.float() / VALUES


def _mix(number: Tensor) -> Tensor:
    """Scramble int64 numbers: three rounds of multiply and xor-shift (the 32-bit "lowbias32" of C. Wellons, 2018)."""
    number = number & 0xFFFFFFFF
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        number = (number ^ (number >> shift)) * factor & 0xFFFFFFFF
    return number ^ (number >> 16)
