"""CKE: collaborative knowledge base embedding, its structural part.

Source      Zhang, Yuan, Lian, Xie, Ma, "Collaborative Knowledge Base Embedding for Recommender Systems", KDD 2016; as
            in the comparison of Wang et al. (KGAT), KDD 2019, arXiv 1905.07854, and their released code
Score       s(u, i) = <p_u, q_i + e_i>, e_i the vector of the item as an entity
Losses      -log sigmoid(s(u, i) - s(u, j)), j uniform from the items u has not seen;
            TransR on the facts against a corrupted tail: || unit(e_h W_r) + unit(r) - unit(e_t W_r) ||^2; l2 of both
Training    each step lowers the sum of both losses on a batch of interactions and a batch of facts
Departures  text and image parts are left out, as in that comparison; each W_r is drawn with the Xavier bound of one
            matrix (code: of all matrices together)
"""

# Shapes: B interactions, I items, D embedding_dim.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count

import torch
from torch import Tensor, nn

from recbench.models.base import (
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Recommender,
    Reference,
    TrainedConfig,
    tunable,
)
from recbench.models.layers.losses import bpr_loss
from recbench.models.layers.pairwise import batch_penalty
from recbench.models.layers.transr import ByRelation, RelationBatch, TransR, facts_per_batch
from recbench.models.layers.wide import wide_linear
from recbench.tasks.batches import BatchSource
from recbench.tasks.interactions import PairBatch, UserBatch
from recbench.tasks.kg import KGData


@dataclass(frozen=True)
class JointBatch:
    """Interactions and facts of one step."""

    pairs: PairBatch
    facts: RelationBatch

    def __len__(self) -> int:
        return len(self.pairs)


class Joint:
    """Source of ``JointBatch``: an epoch ends with the interactions; facts start again where they end earlier."""

    def __init__(self, pairs: BatchSource[PairBatch], facts: BatchSource[RelationBatch]) -> None:
        self._pairs = pairs
        self._facts = facts

    @property
    def n_samples(self) -> int:
        """Number of interactions."""
        return self._pairs.n_samples

    def epoch(self, generator: torch.Generator) -> Iterator[JointBatch]:
        """Yield the batches of one epoch."""
        endless = chain.from_iterable(self._facts.epoch(generator) for _ in count())
        for pairs, facts in zip(self._pairs.epoch(generator), endless, strict=False):
            yield JointBatch(pairs, facts)


class CKE(Recommender):
    """Matrix factorisation whose item vectors are also entities of TransR (Zhang et al., KDD 2016)."""

    tasks = ("kg",)
    reference = Reference("README of KGAT-pytorch, its CKE", "kg/amazon-book-kgat", "recall@20", 0.1394, 0.008)

    class Config(TrainedConfig):
        """Hyper-parameters."""

        learning_rate: PositiveFloat = tunable(2e-3, low=1e-4, high=1e-2, log=True)
        embedding_dim: Positive = tunable(64, low=16, high=256, log=True)
        """D, of users, items, entities and relations."""
        l2: NonNegativeFloat = tunable(1e-4, low=1e-6, high=1e-1, log=True)
        """Penalty on the squared norms of the vectors a batch of interactions uses."""
        graph_l2: NonNegativeFloat = tunable(1e-5, low=1e-6, high=1e-1, log=True)
        """Penalty on the squared norms of the vectors a batch of facts uses."""

    def __init__(self, config: Config, data: KGData) -> None:
        super().__init__(config, data)
        dim = config.embedding_dim
        self.user = nn.Embedding(data.n_users, dim)
        self.item = nn.Embedding(data.n_items, dim)
        self.entity = nn.Embedding(data.n_entities, dim)
        for embedding in (self.user, self.item, self.entity):
            nn.init.xavier_uniform_(embedding.weight)
        self.transr = TransR(data.n_relations, dim, dim)

    def batches(self, data: KGData) -> Joint:
        """Every interaction once an epoch, and as many batches of facts."""
        size = self.config.batch_size
        facts = data.triples(data.graph, data.n_entities, facts_per_batch(len(data.graph), len(data.users), size))
        return Joint(data.pairs(size), ByRelation(facts, data.n_relations))

    def items(self) -> Tensor:
        """Return the vectors of all items, shape (I, D)."""
        return self.item.weight + self.entity.weight[: self.n_items]

    def loss(self, batch: JointBatch) -> Tensor:
        """BPR plus TransR plus their penalties."""
        pairs, items = batch.pairs, self.items()
        user, seen = self.user(pairs.users), items[pairs.positives]
        unseen = items[pairs.negatives.squeeze(1)]
        ranking = bpr_loss((user * seen).sum(1), (user * unseen).sum(1))
        plausibility, graph_penalty = self.transr.loss(self.entity.weight, batch.facts, unit=True)
        penalty = self.config.l2 * batch_penalty(user, seen, unseen) + self.config.graph_l2 * graph_penalty
        total: Tensor = ranking + plausibility + penalty
        return total

    def score(self, batch: UserBatch) -> Tensor:
        """Return inner products, shape (B, I)."""
        return wide_linear(self.user(batch.users), self.items())
