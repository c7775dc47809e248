"""Recommenders of the next item: states after each position of a sequence, scored against one table of items.

A model says how it reads sequences (``states``) and what items are scored by (``item_vectors``); which loss and which
sampler it is trained with are keys of its configuration, as those of pairwise models are.
"""

# Shapes: B sequences, P positions of all of them together, I items, N negatives, D dims.

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from recbench.models.base import PerRow
from recbench.models.layers.pairwise import PairwiseConfig, PairwiseRecommender, Scored, inner_products
from recbench.models.layers.wide import wide_linear
from recbench.tasks.batches import BatchSource
from recbench.tasks.interactions import PairBatch, TopNData, UserBatch
from recbench.tasks.sequential import SequenceBatch, SequenceData, Sequences, SequenceUserBatch

SCORES_AT_ONCE = {"cpu": 2**20, "cuda": 2**27}
"""Scores of positions held at once in training, whatever the batch and the number of items."""

LOOKUP_COST = 16
"""A negative looked up costs about as much as so many in a product with the whole table, on a CPU and on a GPU."""


class SequentialConfig(PairwiseConfig):
    """Hyper-parameters of every sequential model."""

    max_length: PerRow = 50
    """Last items of a sequence that the model reads."""


class SequentialRecommender(PairwiseRecommender):
    """Scores items by the state at the end of a user's sequence; trained at every position to predict the next."""

    tasks = ("sequential",)
    folds_in = True

    @abstractmethod
    def states(self, sequences: Sequences) -> Tensor:
        """Return the state after each position, from it and those before it alone, shape (P, D)."""

    @abstractmethod
    def item_vectors(self) -> Tensor:
        """Return the vectors whose inner products with states are the scores, shape (I, D)."""

    def batches(self, data: TopNData) -> BatchSource[SequenceBatch]:
        """Every user's sequence, with what the sampler draws for each of its positions."""
        assert isinstance(data, SequenceData)
        return data.next_items(self.config.batch_size, self.config.max_length, self.sampler)

    def loss(self, batch: PairBatch) -> Tensor:
        """Mean over positions.

        Where all their scores are many, it is the mean over blocks of positions, which are computed again for the
        gradient. Means over negatives that do not all count are then means of each block.
        """
        assert isinstance(batch, SequenceBatch)
        states, table = self.states(batch.sequences), self.item_vectors()
        with torch.no_grad():
            batch = self.sampler.refine(batch, lambda _, items: table_scores(states, table, items))
        size = max(1, SCORES_AT_ONCE[states.device.type] // _width(batch.negatives, len(table)))
        if size >= len(batch):
            return self._of_block(states, table, batch)
        total = states.new_zeros(())
        for number, own in enumerate(states.split(size)):
            block = _rows(batch, number * size, number * size + len(own))
            loss = checkpoint(self._of_block, own, table, block, use_reentrant=False, preserve_rng_state=False)
            total = total + loss * (len(own) / len(batch))
        return total

    def scored(self, batch: PairBatch) -> Scored:
        """Inner products of states and items."""
        assert isinstance(batch, SequenceBatch)
        return _scored(self.states(batch.sequences), self.item_vectors(), batch)

    def _of_block(self, states: Tensor, table: Tensor, batch: PairBatch) -> Tensor:
        if self.config.sampler == "all" and self.config.loss == "softmax":  # torch has it in one piece
            return functional.cross_entropy(states @ table.T / self.config.temperature, batch.positives)
        scored = _scored(states, table, batch)
        loss: Tensor = self.criterion(scored.positive, scored.negative, batch)
        return loss

    def score(self, batch: UserBatch) -> Tensor:
        """Return inner products, shape (B, I); 0 for a user of whom nothing is known."""
        assert isinstance(batch, SequenceUserBatch)
        table = self.item_vectors()
        ends = table.new_zeros(len(batch), table.shape[1])
        sequences, places = batch.recent(self.config.max_length)
        if len(places):
            ends[places] = self.states(sequences)[sequences.last()]
        return wide_linear(ends, table)


def table_scores(states: Tensor, table: Tensor, items: Tensor) -> Tensor:
    """Return the scores (P, N) of ``states`` (P, D) with ``items`` (P, N), or (N,) shared, of ``table`` (I, D).

    Items of many rows of their own are taken from the product with the whole table, which costs less than looking up
    the vectors of all.
    """
    if items.dim() == 2 and len(table) <= LOOKUP_COST * items.shape[1]:
        return (states @ table.T).gather(1, items)
    return inner_products(states, functional.embedding(items, table))


def _scored(states: Tensor, table: Tensor, batch: PairBatch) -> Scored:
    positive = (states * functional.embedding(batch.positives, table)).sum(1)
    return Scored(positive, table_scores(states, table, batch.negatives))


def _width(negatives: Tensor, n_items: int) -> int:
    """Return how many numbers a position's scores need at once."""
    return len(negatives) if negatives.dim() == 1 else min(n_items, LOOKUP_COST * negatives.shape[1])


def _rows(batch: PairBatch, first: int, end: int) -> PairBatch:
    """Return some of the rows of a batch."""

    def cut(values: Tensor | None) -> Tensor | None:
        return values if values is None or values.dim() == 1 else values[first:end]

    negatives = batch.negatives if batch.negatives.dim() == 1 else batch.negatives[first:end]
    return PairBatch(
        batch.users[first:end], batch.positives[first:end], negatives, cut(batch.log_counts), cut(batch.mask)
    )
