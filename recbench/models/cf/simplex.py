"""SimpleX: cosine similarities of a user, who is also the mean of his items, under the cosine contrastive loss.

Source      Mao et al., "SimpleX: A Simple and Strong Baseline for Collaborative Filtering", CIKM 2021,
            arXiv:2109.12613, equations 1 to 7; settings and details from the authors' code
User        h_u = gamma p_u + (1 - gamma) V a_u, a_u pooled from vectors v_k of the items k of his history:
            mean            a_u = mean of v_k
            user-attention  a_u = sum_k softmax_k(<p_u, tanh(W v_k + b)>) v_k
            self-attention  a_u = sum_k softmax_k(<q, tanh(W v_k + b)>) v_k
Score       s(u, i) = cos(h_u, q_i); v and q are two tables
Loss        1 - s(u, i) + negative_weight * mean over sampled j of max(0, s(u, j) - margin); others, and other
            samplers, by configuration; weight_decay / 2 times the squared norm of the embeddings in every step
            Dropout falls on the unit vector of h_u. The history of a user in training holds the positive, too
Schedule    when validation stops improving, training goes on from the best weights with a tenth of the learning rate
Departures  a batch's rows share their negatives, so that scores are one matrix product (code: drawn for every row from
            all items, which differs in that these are independent; sampler=uniform draws for every row, unseen items);
            a row's own positive does not count as a negative; max_history items, evenly spaced, stand for a longer
            history (code: all); the softmax is over the history alone (code: also over its padding); Adam starts anew
            with every learning rate; no biases, an option of the code that is off on Gowalla and on for ML-1M
"""

# Shapes: U users, I items, B batch, N negatives of each row, K max_history, D embedding_dim.

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recbench.models.base import (
    NonNegative,
    NonNegativeFloat,
    PerRow,
    Positive,
    PositiveFloat,
    Reference,
    Share,
    tunable,
)
from recbench.models.layers.losses import LossName
from recbench.models.layers.mlp import linear
from recbench.models.layers.pairwise import DotRecommender, PairwiseConfig, Scored, inner_products
from recbench.models.procedure import Phase, Stage
from recbench.tasks.batches import blocks
from recbench.tasks.interactions import PairBatch, TopNData
from recbench.tasks.samplers import SamplerName

INITIAL_STD = 1e-4
USERS_AT_ONCE = 1024  # whose histories are looked up at once in scoring


class SimpleX(DotRecommender):
    """Cosine contrastive learning with users pooled from their items (Mao et al., CIKM 2021)."""

    class Config(PairwiseConfig):
        """Hyper-parameters."""

        loss: LossName = "ccl"
        sampler: SamplerName = "shared"
        num_negatives: PerRow = tunable(2000, low=100, high=2000, log=True)
        """N. Published: 2000 on Gowalla, 1500 on ML-1M."""
        margin: Annotated[float, Field(ge=0, le=1)] = tunable(0.9, low=0.0, high=1.0)
        """Published: 0.9."""
        negative_weight: NonNegativeFloat = tunable(250.0, low=1.0, high=500.0, log=True)
        """Published: 250 on Gowalla, 10 on ML-1M."""
        embedding_dim: Positive = tunable(64, low=16, high=256, log=True)
        """D. Published: 64; 128 on ML-1M."""
        aggregator: Literal["mean", "user-attention", "self-attention"] = tunable(
            "user-attention", choices=("mean", "user-attention", "self-attention")
        )
        """How a history is pooled. Published: user-attention on Gowalla, mean on ML-1M."""
        gamma: Annotated[float, Field(ge=0, le=1)] = tunable(0.8, low=0.0, high=1.0)
        """Share of the user's own vector. Published: 0.8."""
        max_history: Positive = 100
        """K: as many items at most stand for a history."""
        dropout: Share = tunable(0.1, low=0.0, high=0.5)
        """Of the user's vector. Published: 0.1 on Gowalla, 0.4 on ML-1M."""
        learning_rate: PositiveFloat = tunable(1e-4, low=1e-4, high=1e-2, log=True)
        """Published: 1e-4 on Gowalla, 1e-3 on ML-1M."""
        weight_decay: NonNegativeFloat = tunable(1e-7, low=1e-9, high=1e-4, log=True)
        """Of the embeddings. Published: 1e-7 on Gowalla, 1e-5 on ML-1M."""
        batch_size: Positive = 256
        """Published: 256 on Gowalla, 1024 on ML-1M."""
        patience: Positive = 3
        """Epochs without a better validation value before the learning rate falls or training stops. Published: 1
        and 3."""
        lr_drops: NonNegative = 1
        """How often the learning rate falls to a tenth."""

    reference = Reference("BARS, the authors' log of Gowalla", "topn/gowalla", "recall@20", 0.1872, 0.0037)

    def __init__(self, config: Config, data: TopNData) -> None:
        super().__init__(config, data)
        dim = config.embedding_dim
        self.user = nn.Embedding(data.n_users, dim)
        self.item = nn.Embedding(data.n_items, dim)
        self.history_item = nn.Embedding(data.n_items, dim)
        for embedding in (self.user, self.item, self.history_item):
            nn.init.normal_(embedding.weight, std=INITIAL_STD)
        self.pooled = _matrix(dim, dim)
        if config.aggregator != "mean":
            self.key = nn.Sequential(linear(dim, dim), nn.Tanh())
        if config.aggregator == "self-attention":
            self.query = _matrix(dim, 1)
        self._history = data.history

    def procedure(self, data: TopNData) -> Iterator[Stage]:
        """One stage for each learning rate."""
        config = self.config
        embeddings = [self.user.weight, self.item.weight, self.history_item.weight]
        known = set(embeddings)
        others = [parameter for parameter in self.parameters() if parameter not in known]
        groups = [
            {"params": embeddings, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        for drop in range(config.lr_drops + 1):
            name = f"drop {drop}" if drop else "train"
            phase = Phase(name, self.batches(data), self.loss, groups, config.learning_rate / 10**drop)
            yield Stage(name, [phase], config.epochs, config.patience)

    def scored(self, batch: PairBatch) -> Scored:
        """Cosines."""
        user = functional.dropout(self.of_users(batch.users), self.config.dropout, self.training)
        positive = functional.normalize(self.item(batch.positives), dim=-1)
        negative = functional.normalize(self.item(batch.negatives), dim=-1)
        return Scored((user * positive).sum(1), inner_products(user, negative))

    def outputs(self) -> tuple[Tensor, Tensor]:
        """Return the unit vectors of all users and items."""
        users = torch.arange(self.n_users, device=self.user.weight.device)
        vectors = torch.cat([self.of_users(block) for block in blocks(users, USERS_AT_ONCE)])
        return vectors, functional.normalize(self.item.weight, dim=-1)

    def of_users(self, users: Tensor) -> Tensor:
        """Return the unit vectors of ``users`` (B,), shape (B, D)."""
        own = self.user(users)
        gamma = self.config.gamma
        return functional.normalize(gamma * own + (1 - gamma) * self.pooled(self._pool(users, own)), dim=-1)

    def _pool(self, users: Tensor, own: Tensor) -> Tensor:
        items, there = self.histories(users)
        if self.config.aggregator == "mean":
            shares = there / there.sum(1, keepdim=True).clamp(min=1)
            return functional.embedding_bag(
                items, self.history_item.weight, mode="sum", per_sample_weights=shares.to(own.dtype)
            )
        vectors = self.history_item(items)
        keys = self.key(vectors)
        by_user = self.config.aggregator == "user-attention"
        logits = torch.einsum("bkd,bd->bk", keys, own) if by_user else self.query(keys).squeeze(-1)
        # A finite number in place of -inf: a history may be empty.
        shares = logits.masked_fill(~there, torch.finfo(logits.dtype).min).softmax(1) * there
        return torch.einsum("bk,bkd->bd", shares, vectors)

    def histories(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Return at most K evenly spaced items of each user's history, and which of them are there; both (B, K)."""
        longest = min(self.config.max_history, self.n_items)
        lengths = self._history.lengths[users][:, None]
        places = torch.arange(longest, device=users.device) * lengths.clamp(min=longest) // longest
        there = places < lengths
        values = self._history.values
        return values[(self._history.offsets[users][:, None] + places).clamp(max=len(values) - 1)], there


def _matrix(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.xavier_normal_(layer.weight)
    return layer
