"""Recommenders trained on positives against sampled negatives: one loop for all losses and samplers.

A model says what it scores (``scored``), or only the vectors whose inner products are its scores (``outputs``); which
loss and which sampler it is trained with are keys of its configuration.
"""

# Shapes: U users, I items, B batch, N negatives, D dims.

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from recbench.errors import UsageError
from recbench.models.base import NonNegativeFloat, Owners, PerRow, PositiveFloat, Recommender, TrainedConfig
from recbench.models.layers.losses import LossName, make_loss
from recbench.models.layers.wide import wide_linear
from recbench.tasks.batches import BatchSource
from recbench.tasks.interactions import PairBatch, TopNData, UserBatch
from recbench.tasks.samplers import SamplerName, make_sampler

Exponent = Annotated[float, Field(ge=0, le=4)]
"""Of counts: above all that is used, and their power is far from the largest float64."""

FEW = 16
"""Up to as many negatives of a row products and sums are faster than a product of small matrices."""


class PairwiseConfig(TrainedConfig):
    """Hyper-parameters of every model trained on positives against sampled negatives."""

    owners: ClassVar[Owners] = {
        "temperature": ("loss", ("softmax",)),
        "margin": ("loss", ("ccl",)),
        "negative_weight": ("loss", ("ccl",)),
        "calibration": ("loss", ("gbce",)),
        "negative_penalty": ("loss", ("bpr-max",)),
        "num_negatives": ("sampler", ("uniform", "shared", "popularity", "shared-popularity", "hard")),
        "popularity_exponent": ("sampler", ("popularity", "shared-popularity")),
        "candidates": ("sampler", ("hard",)),
    }

    loss: LossName = "bpr"
    sampler: SamplerName = "uniform"
    """Whence negatives are drawn: each user's unseen items; all items, for a batch at once (shared); unseen ones by
    popularity, or all items by it for a batch at once (shared-popularity); the other rows of the batch; the hardest of
    some candidates; or all items."""
    num_negatives: PerRow = 1
    """N, drawn for every interaction anew in every epoch; the samplers in-batch and all have no choice of it."""
    temperature: PositiveFloat = 1.0
    """Of the softmax: scores are divided by it."""
    margin: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Of ccl: negatives of a smaller cosine count for nothing."""
    negative_weight: NonNegativeFloat = 1.0
    """Of ccl: weight of the negatives' mean beside the positive."""
    calibration: Annotated[float, Field(ge=0, le=1)] = 0.75
    """Of gbce: 0 is bce, 1 undoes what sampling does to probabilities."""
    negative_penalty: NonNegativeFloat = 1.0
    """Of bpr-max: weight of the squares of the negatives' scores."""
    popularity_exponent: Exponent = 1.0
    """Of the samplers by popularity: an item is drawn in proportion to its count to this power."""
    candidates: PerRow = 8
    """Of the sampler hard: unseen items of which the highest-scored is the negative."""


@dataclass(frozen=True)
class Scored:
    """Scores of a batch: ``positive`` (B,), ``negative`` (B, N), and the penalty, a scalar."""

    positive: Tensor
    negative: Tensor
    penalty: Tensor | float = 0.0


class PairwiseRecommender(Recommender):
    """Trained to score what a user has chosen above what was sampled; ``config`` names the loss and the sampler."""

    cosines: ClassVar[bool] = False
    """Whether its scores are cosine similarities if the loss is ccl."""

    def __init__(self, config: Any, data: TopNData) -> None:
        super().__init__(config, data)
        if config.loss == "ccl" and not self.cosines:
            raise UsageError(f"loss: ccl is of cosine similarities, which the scores of {self.model_name()} are not")
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
            negative_penalty=config.negative_penalty,
            n_items=data.n_items,
        )

    @abstractmethod
    def scored(self, batch: PairBatch) -> Scored:
        """Return the scores of a batch and the penalty on what they were made of.

        ``batch.negatives`` is (B, N), or (N,) where all rows share them.
        """

    def batches(self, data: TopNData) -> BatchSource[PairBatch]:
        """Batches of the sampler: every interaction with what it draws for it."""
        return self.sampler.batches(self.config.batch_size)

    def loss(self, batch: PairBatch) -> Tensor:
        """Loss of the batch and the penalty."""
        with torch.no_grad():
            batch = self.sampler.refine(batch, self._scores)
        scored = self.scored(batch)
        loss: Tensor = self.criterion(scored.positive, scored.negative, batch)
        return loss + scored.penalty

    def _scores(self, users: Tensor, items: Tensor) -> Tensor:
        return self.scored(PairBatch(users, items[..., 0].expand(len(users)), items)).negative


class DotRecommender(PairwiseRecommender):
    """Scores by inner products of the vectors that ``outputs`` gives for all users and items.

    With the loss ccl, which is of cosine similarities, the vectors are scaled to unit length.
    """

    cosines = True

    @abstractmethod
    def outputs(self) -> tuple[Tensor, Tensor]:
        """Return the final vectors of all users (U, D) and all items (I, D)."""

    def scored(self, batch: PairBatch) -> Scored:
        """Inner products; ``config.l2`` penalises the vectors looked up."""
        users, items = self.outputs()
        user = functional.embedding(batch.users, users)
        positive, negative = look_up(items, batch.positives, batch.negatives)
        penalty: Tensor | float = 0.0
        if self.config.l2:
            penalty = self.config.l2 * batch_penalty(user, positive, negative)
        return self.compared(user, positive, negative, penalty)

    def compared(self, user: Tensor, positive: Tensor, negative: Tensor, penalty: Tensor | float = 0.0) -> Scored:
        """Return the scores of vectors (B, D), (B, D), and (B, N, D) or (N, D)."""
        user, positive, negative = map(self._scaled, (user, positive, negative))
        return Scored((user * positive).sum(1), inner_products(user, negative), penalty)

    def prepare_scoring(self) -> None:
        """Compute the vectors once."""
        self._users, self._items = (self._scaled(vectors.detach()) for vectors in self.outputs())

    def score(self, batch: UserBatch) -> Tensor:
        """Return inner products, shape (B, I)."""
        return wide_linear(self._users[batch.users], self._items)

    def _scaled(self, vectors: Tensor) -> Tensor:
        return functional.normalize(vectors, dim=-1) if self.config.loss == "ccl" else vectors


def look_up(table: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows (B, D) of ``positives`` (B,) and those of ``negatives``, of their shape and D."""
    number = negatives.numel()
    if len(table) < len(positives) + number:
        return functional.embedding(positives, table), functional.embedding(negatives, table)
    # The gradient of each look-up is as large as the table: here one is cheaper than two.
    rows = functional.embedding(torch.cat([positives, negatives.flatten()]), table)
    positive, negative = rows.split([len(positives), number])
    return positive, negative.view(*negatives.shape, -1)


def inner_products(vectors: Tensor, others: Tensor) -> Tensor:
    """Return the inner products of ``vectors`` (B, D) with ``others``: (B, N, D), or (N, D) shared by all; (B, N)."""
    if others.dim() == 2:
        return vectors @ others.T
    if others.shape[1] <= FEW:
        return (vectors[:, None] * others).sum(2)
    return (others @ vectors[:, :, None]).squeeze(2)


def batch_penalty(*vectors: Tensor) -> Tensor:
    """Return half the squared norm of the vectors a batch uses, a mean over its B rows; the first has B of them."""
    return 0.5 * torch.stack([vector.square().sum() for vector in vectors]).sum() / len(vectors[0])
