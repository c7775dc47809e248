"""Recommenders trained on positives against sampled negatives: one loop for all losses and samplers.

A model says what it scores (``scored``), or only the vectors whose inner products are its scores (``outputs``); which
loss and which sampler it is trained with are keys of its configuration.
"""

# Shapes: U users, I items, B batch, N negatives, D dims.

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from recbench.models.base import (
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Recommender,
    TrainedConfig,
)
from recbench.models.layers.losses import LossName, make_loss
from recbench.tasks.batches import BatchSource
from recbench.tasks.interactions import PairBatch, TopNData, UserBatch
from recbench.tasks.samplers import SamplerName, make_sampler

OWNERS = {
    "temperature": ("loss", "softmax"),
    "margin": ("loss", "ccl"),
    "negative_weight": ("loss", "ccl"),
    "calibration": ("loss", "gbce"),
    "popularity_exponent": ("sampler", "popularity"),
    "candidates": ("sampler", "hard"),
}
"""Keys that only one loss or sampler has."""


class PairwiseConfig(TrainedConfig):
    """Hyper-parameters of every model trained on positives against sampled negatives."""

    loss: LossName = "bpr"
    sampler: SamplerName = "uniform"
    """Whence negatives are drawn: each user's unseen items; all items, for a batch at once (shared); unseen ones by
    popularity; the other rows of the batch; the hardest of some candidates; or all items."""
    num_negatives: Positive = 1
    """N, drawn for every interaction anew in every epoch; of no matter to the samplers in-batch and all."""
    temperature: PositiveFloat = 1.0
    """Of the softmax: scores are divided by it."""
    margin: float = 0.5
    """Of ccl: negatives of a smaller cosine count for nothing."""
    negative_weight: NonNegativeFloat = 1.0
    """Of ccl: weight of the negatives' mean beside the positive."""
    calibration: Annotated[float, Field(ge=0, le=1)] = 0.75
    """Of gbce: 0 is bce, 1 undoes what sampling does to probabilities."""
    popularity_exponent: NonNegativeFloat = 1.0
    """Of the sampler popularity: an item is drawn in proportion to its count to this power."""
    candidates: Positive = 8
    """Of the sampler hard: unseen items of which the highest-scored is the negative."""

    @model_validator(mode="after")
    def _keys_have_an_owner(self) -> Self:
        for key, (part, owner) in OWNERS.items():
            default = type(self).model_fields[key].default
            if getattr(self, part) != owner and getattr(self, key) != default:
                raise ValueError(f"{key} is of {part}={owner}, and {part} is {getattr(self, part)}")
        return self


@dataclass(frozen=True)
class Scored:
    """Scores of a batch: ``positive`` (B,), ``negative`` (B, N), and the penalty, a scalar."""

    positive: Tensor
    negative: Tensor
    penalty: Tensor | float = 0.0


class PairwiseRecommender(Recommender):
    """Trained to score what a user has chosen above what was sampled; ``config`` names the loss and the sampler."""

    def __init__(self, config: Any, data: TopNData) -> None:
        super().__init__(config, data)
        self.sampler = make_sampler(
            config.sampler,
            data,
            config.num_negatives,
            exponent=config.popularity_exponent,
            candidates=config.candidates,
        )
        self.criterion = make_loss(
            config.loss,
            temperature=config.temperature,
            margin=config.margin,
            negative_weight=config.negative_weight,
            calibration=config.calibration,
            number=self.sampler.number,
            n_items=data.n_items,
        )

    @abstractmethod
    def scored(self, batch: PairBatch) -> Scored:
        """Return the scores of a batch and the penalty on what they were made of.

        ``batch.negatives`` is (B, N), or (N,) where all rows share them.
        """

    def batches(self, data: TopNData) -> BatchSource[PairBatch]:
        """Every interaction with what the sampler draws for it."""
        return data.pairs(self.config.batch_size, self.sampler)

    def loss(self, batch: PairBatch) -> Tensor:
        """Loss of the batch and the penalty."""
        batch = self.sampler.refine(batch, self._scores)
        scored = self.scored(batch)
        loss: Tensor = self.criterion(scored.positive, scored.negative, batch)
        return loss + scored.penalty

    def _scores(self, users: Tensor, items: Tensor) -> Tensor:
        return self.scored(PairBatch(users, items[..., 0], items)).negative


class DotRecommender(PairwiseRecommender):
    """Scores by inner products of the vectors that ``outputs`` gives for all users and items."""

    @abstractmethod
    def outputs(self) -> tuple[Tensor, Tensor]:
        """Return the final vectors of all users (U, D) and all items (I, D)."""

    def scored(self, batch: PairBatch) -> Scored:
        """Inner products; ``config.l2`` penalises the vectors looked up."""
        users, items = self.outputs()
        user = functional.embedding(batch.users, users)
        positive = functional.embedding(batch.positives, items)
        negative = functional.embedding(batch.negatives, items)
        penalty = self.config.l2 * batch_penalty(*self.penalised(batch, (user, positive, negative)))
        return Scored((user * positive).sum(1), inner_products(user, negative), penalty)

    def penalised(self, batch: PairBatch, looked_up: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the vectors whose squared norm is penalised: by default those that are multiplied."""
        return looked_up

    def prepare_scoring(self) -> None:
        """Compute the vectors once."""
        self._users, self._items = (vectors.detach() for vectors in self.outputs())

    def score(self, batch: UserBatch) -> Tensor:
        """Return inner products, shape (B, I)."""
        scores: Tensor = self._users[batch.users] @ self._items.T
        return scores


def inner_products(vectors: Tensor, others: Tensor) -> Tensor:
    """Return the inner products of ``vectors`` (B, D) with ``others``: (B, N, D), or (N, D) shared by all; (B, N)."""
    if others.dim() == 2:
        return vectors @ others.T
    return torch.einsum("bd,bnd->bn", vectors, others)


def batch_penalty(*vectors: Tensor) -> Tensor:
    """Return half the squared norm of the vectors a batch uses, a mean over its B rows; the first has B of them."""
    return 0.5 * torch.stack([vector.square().sum() for vector in vectors]).sum() / len(vectors[0])
