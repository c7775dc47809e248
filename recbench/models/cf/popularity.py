"""Popularity: the ranking that every personalised model has to beat.

Score       s(u, i) = number of training interactions of i
Departures  none
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbench.models.base import ClosedFormRecommender, ModelConfig
from recbench.tasks.interactions import TopNData, UserBatch


class Popularity(ClosedFormRecommender):
    """Ranks items by their number of training interactions, alike for every user."""

    folds_in = True
    counts: Tensor

    def __init__(self, config: ModelConfig, data: TopNData) -> None:
        super().__init__(config, data)
        self.register_buffer("counts", torch.zeros(data.n_items))

    def fit(self, data: TopNData) -> None:
        """Count."""
        self.counts.copy_(torch.bincount(data.items, minlength=self.n_items))

    def score(self, batch: UserBatch) -> Tensor:
        """Return the counts, shape (B, I)."""
        return self.counts.expand(len(batch), -1)
