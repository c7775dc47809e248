"""UltraGCN: matrix factorisation under the constraint that infinitely many graph convolutions would converge to.

Source      Mao et al., "UltraGCN: Ultra Simplification of Graph Convolutional Networks for Recommendation", CIKM 2021,
            arXiv:2110.15114, equations 5 to 15; where paper and the authors' code differ, as the code
Score       s(u, i) = <e_u, e_i>
Weights     beta_ui = sqrt(d_u + 1) / (d_u sqrt(d_i + 1)), d the numbers of interactions
Items       G = X'X, g_i = sum_j G_ij, omega_ij = G_ij sqrt(g_i + 1) / (g_i sqrt(g_j + 1)); S(i) are the K items with
            the largest omega_ij, i itself among them
Loss        sum over a batch of interactions of
              -(w1 + w2 beta_ui) log sigmoid(s(u, i))
              - negative_weight * mean over sampled j of (w3 + w4 beta_uj) log sigmoid(-s(u, j))
              - neighbour_weight * sum over j in S(i) of omega_ij log sigmoid(s(u, j))
            + weight_decay / 2 times the squared norm of all parameters, in every step (Adam adds its gradient)
            a sum, not a mean: the gradients of a mean would be below Adam's epsilon at the published initial weights
Departures  negatives are drawn from the user's unseen items (code: from all, with this as an option); sampler=all takes
            the expectation of the published sampling; with sampler=shared a batch's rows share their negatives, and
            scores are one matrix product, many times faster a step, but the few items drawn get all the gradient at
            once, and on MovieLens-100K 24 epochs reach far less. S(i) is computed in blocks of items; never all pairs
            of items at once
"""

# Shapes: U users, I items, B batch, N negatives of each row, K neighbours, D embedding_dim.

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from recbench.models.base import (
    NonNegativeFloat,
    Owners,
    PerRow,
    Positive,
    PositiveFloat,
    Recommender,
    Reference,
    TrainedConfig,
    tunable,
)
from recbench.models.layers.wide import wide_linear
from recbench.tasks.batches import BatchSource
from recbench.tasks.interactions import PairBatch, TopNData, UserBatch
from recbench.tasks.samplers import make_sampler

BLOCK = 512  # items whose co-occurrences with all items are held at once


class UltraGCN(Recommender):
    """Matrix factorisation weighted as the limit of graph convolutions (Mao et al., CIKM 2021)."""

    class Config(TrainedConfig):
        """Hyper-parameters."""

        owners: ClassVar[Owners] = {"num_negatives": ("sampler", ("uniform", "shared"))}

        embedding_dim: Positive = tunable(64, low=16, high=256, log=True)
        """D. Published: 64; 128 on ML-1M."""
        initial_std: PositiveFloat = 1e-4
        """Of the embeddings. Published: 1e-4 on Gowalla, 1e-3 on ML-1M."""
        learning_rate: PositiveFloat = tunable(1e-4, low=1e-4, high=1e-2, log=True)
        """Published: 1e-4 on Gowalla, 1e-3 on ML-1M."""
        weight_decay: NonNegativeFloat = tunable(1e-4, low=1e-6, high=1e-1, log=True)
        """Gamma. Published: 1e-4."""
        sampler: Literal["shared", "uniform", "all"] = "uniform"
        """Whence negatives are drawn: each user's unseen items; all items, for a batch at once (shared); or all."""
        num_negatives: PerRow = 1500
        """N; the sampler all has no choice of it. Published: 1500 on Gowalla, 200 on ML-1M."""
        negative_weight: PositiveFloat = tunable(300.0, low=1.0, high=1000.0, log=True)
        """Of the negatives' mean. Published: 300 on Gowalla, 200 on ML-1M."""
        w1: NonNegativeFloat = 1e-6
        """Weight that all positives have. Published: 1e-6 on Gowalla, 1e-7 on ML-1M."""
        w2: NonNegativeFloat = 1.0
        """Of beta in the weights of positives. Published: 1."""
        w3: NonNegativeFloat = 1e-6
        """Weight that all negatives have. Published: 1e-6 on Gowalla, 1e-7 on ML-1M."""
        w4: NonNegativeFloat = 1.0
        """Of beta in the weights of negatives. Published: 1."""
        neighbours: Positive = 10
        """K. Published: 10."""
        neighbour_weight: NonNegativeFloat = tunable(5e-4, low=1e-5, high=10.0, log=True)
        """Lambda. Published: 5e-4 on Gowalla, 1e-3 on ML-1M, 2.75 on Amazon-Books."""
        batch_size: Positive = 512
        """Published: 512 on Gowalla, 1024 on ML-1M."""
        epochs: Positive = 2000
        patience: Positive = 150
        """Epochs without a better validation value before training stops. Published: 150; 50 on ML-1M."""

    reference = Reference("BARS", "topn/gowalla", "recall@20", 0.1862, 0.0037)
    user_beta: Tensor
    item_beta: Tensor
    neighbours: Tensor
    omega: Tensor

    def __init__(self, config: Config, data: TopNData) -> None:
        super().__init__(config, data)
        self.user = nn.Embedding(data.n_users, config.embedding_dim)
        self.item = nn.Embedding(data.n_items, config.embedding_dim)
        for embedding in (self.user, self.item):
            nn.init.normal_(embedding.weight, std=config.initial_std)
        of_users = data.history.lengths.float()
        of_items = torch.bincount(data.items, minlength=data.n_items).float()
        neighbours, omega = nearest_items(data, config.neighbours)
        constants = {
            "user_beta": (of_users + 1).sqrt() / of_users.clamp(min=1),
            "item_beta": (of_items + 1).rsqrt(),
            "neighbours": neighbours,
            "omega": omega,
        }
        # They follow from the data.
        for name, tensor in constants.items():
            self.register_buffer(name, tensor, persistent=False)

    def batches(self, data: TopNData) -> BatchSource[PairBatch]:
        """Every interaction with negatives."""
        config = self.config
        return data.pairs(config.batch_size, make_sampler(config.sampler, data, config.num_negatives))

    def loss(self, batch: PairBatch) -> Tensor:
        """Sum of the batch's losses; the squared norm is left to the optimiser."""
        config = self.config
        near = self.neighbours[batch.positives]
        # One look-up, and so one gradient of the size of the table.
        wanted = (batch.positives, batch.negatives, near)
        vectors = functional.embedding(torch.cat([items.flatten() for items in wanted]), self.item.weight)
        positive, negative, others = vectors.split([items.numel() for items in wanted])
        user, beta = self.user(batch.users), self.user_beta[batch.users]

        weights = config.w1 + config.w2 * beta * self.item_beta[batch.positives]
        loss = (weights * functional.softplus(-(user * positive).sum(1))).sum()

        if batch.negatives.dim() == 1:
            scores = user @ negative.T
        else:
            scores = torch.einsum("bd,bnd->bn", user, negative.unflatten(0, batch.negatives.shape))
        weights = config.w3 + config.w4 * beta[:, None] * self.item_beta[batch.negatives]
        loss = loss + config.negative_weight / scores.shape[1] * (weights * functional.softplus(scores)).sum()

        scores = torch.einsum("bd,bkd->bk", user, others.unflatten(0, near.shape))
        near_loss = (self.omega[batch.positives] * functional.softplus(-scores)).sum()
        total: Tensor = loss + config.neighbour_weight * near_loss
        return total

    def score(self, batch: UserBatch) -> Tensor:
        """Return inner products, shape (B, I)."""
        return wide_linear(self.user(batch.users), self.item.weight)


def nearest_items(data: TopNData, number: int) -> tuple[Tensor, Tensor]:
    """Return the K items of the largest omega of every item, and these omegas, both (I, K), K at most I."""
    rows = data.matrix().T.tocsr()
    columns = rows.T.tocsr()
    totals = np.asarray(rows @ columns.sum(axis=1)).ravel()
    number = min(number, data.n_items)
    # An item without interactions has a total of 0, and co-occurs with none.
    of_rows = np.sqrt(totals + 1) / np.maximum(totals, 1)
    of_columns = torch.from_numpy((1 / np.sqrt(totals + 1)).astype(np.float32))
    omega, items = torch.empty(data.n_items, number), torch.empty(data.n_items, number, dtype=torch.int64)
    for start in range(0, data.n_items, BLOCK):
        block = slice(start, start + BLOCK)
        products = torch.from_numpy((rows[block] @ columns).toarray()).mul_(of_columns)
        omega[block], items[block] = products.topk(number)
    omega *= torch.from_numpy(of_rows.astype(np.float32))[:, None]
    return items.to(data.device), omega.to(data.device)
