"""NeuMF: a generalised matrix factorisation and a multi-layer perceptron, added up in one logit.

Source      He et al., "Neural Collaborative Filtering", WWW 2017, arXiv:1708.05031, equations 8 to 13; initial weights
            and the number of epochs from the authors' code
GMF         g(u, i) = <h_G, p_u * q_i>, the product by elements
MLP         m(u, i) = <h_M, z>, z = ReLU(W_n ... ReLU(W_1 [p'_u | q'_i] + b_1) ... + b_n), with vectors of its own
Score       s(u, i) = g(u, i) + m(u, i) + bias, a logit
Loss        binary cross-entropy of interactions against sampled unseen items; others, and other samplers, by
            configuration
Pretraining GMF alone and MLP alone by Adam; then h = [alpha h_G | (1 - alpha) h_M], biases alike, and all by plain
            stochastic gradient descent
Cost        W_1 [p'_u | q'_i] = A p'_u + B q'_i: the first layer is computed once a user and once an item, and only
            what follows it once a pair. Scores are computed for blocks of users, so that their hidden layers stay in
            the caches
Departures  the bias is kept as two, one of each part; Glorot's normal rule for the hidden layers (code: the uniform
            one); dropout after hidden layers as an option; negatives are in the batch of the positive they were drawn
            for
"""

# Shapes: U users, I items, B batch, N items of each row, D embedding_dim, M mlp_dim, H width of the first hidden layer.

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recbench.models.base import Owners, PerRow, Positive, PositiveFloat, Reference, Share, tunable
from recbench.models.layers.dropout import Dropout
from recbench.models.layers.losses import LossName
from recbench.models.layers.mlp import MLP, linear
from recbench.models.layers.pairwise import PairwiseConfig, PairwiseRecommender, Scored, inner_products
from recbench.models.procedure import Optimizer, Phase, Stage
from recbench.tasks.batches import blocks
from recbench.tasks.interactions import PairBatch, TopNData, UserBatch

INITIAL_STD = 0.01
HIDDEN_AT_ONCE = 2**19  # numbers of a first hidden layer in scoring: 2 MiB of float32


class NeuMF(PairwiseRecommender):
    """Neural matrix factorisation: the sum of GMF and an MLP (He et al., WWW 2017)."""

    class Config(PairwiseConfig):
        """Hyper-parameters."""

        owners: ClassVar[Owners] = {
            **PairwiseConfig.owners,
            "alpha": ("pretraining", (True,)),
            "sgd_learning_rate": ("pretraining", (True,)),
        }

        loss: LossName = "bce"
        num_negatives: PerRow = tunable(4, low=1, high=10)
        """Published: 4."""
        embedding_dim: Positive = tunable(8, low=8, high=64, log=True)
        """D of GMF. Published: 8, 16, 32 and 64."""
        mlp_dim: Positive = tunable(32, low=16, high=256, log=True)
        """M, of each of the two vectors that enter the MLP. Published: 4 D."""
        hidden: Annotated[tuple[Positive, ...], Field(min_length=1)] = (32, 16, 8)
        """Widths of the MLP's hidden layers. Published: 4 D, 2 D, D."""
        dropout: Share = tunable(0.0, low=0.0, high=0.5)
        """After each hidden layer. Published: 0."""
        batch_size: Positive = 256
        """Interactions, with their negatives. Published: 256 of positives and negatives mixed."""
        pretraining: bool = False
        """Whether GMF and MLP are trained alone first."""
        alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
        """Of pretraining: share of GMF when the two are joined. Published: 0.5."""
        sgd_learning_rate: PositiveFloat = 1e-3
        """Of pretraining: of the gradient descent that follows it."""

    reference = Reference("RecBole-GNN, its table of ML-1M", "topn/ml-1m-recbole-gnn", "ndcg@10", 0.2271, 0.005)

    def __init__(self, config: Config, data: TopNData) -> None:
        super().__init__(config, data)
        self.gmf = GMF(data.n_users, data.n_items, config.embedding_dim)
        self.mlp = Perceptron(data.n_users, data.n_items, config.mlp_dim, config.hidden, config.dropout)
        joined = self.gmf.output.in_features + self.mlp.output.in_features
        for part in (self.gmf, self.mlp):
            inputs = part.output.in_features if config.pretraining else joined
            # LeCun's uniform rule.
            limit = (3 / inputs) ** 0.5
            nn.init.uniform_(part.output.weight, -limit, limit)
            nn.init.zeros_(part.output.bias)
        self._parts: tuple[GMF | Perceptron, ...] = (self.gmf, self.mlp)

    def procedure(self, data: TopNData) -> Iterator[Stage]:
        """One stage; with pretraining one of each part before it, and gradient descent in the last."""
        if not self.config.pretraining:
            yield from super().procedure(data)
            return
        for name, part in (("gmf", self.gmf), ("mlp", self.mlp)):
            self._parts = (part,)
            yield self._stage(name, data, "adam", self.config.learning_rate)
        self._parts = (self.gmf, self.mlp)
        with torch.no_grad():
            for share, part in ((self.config.alpha, self.gmf), (1 - self.config.alpha, self.mlp)):
                part.output.weight.mul_(share)
                part.output.bias.mul_(share)
        yield self._stage("train", data, "sgd", self.config.sgd_learning_rate)

    def _stage(self, name: str, data: TopNData, optimizer: Optimizer, learning_rate: float) -> Stage:
        config = self.config
        parameters = [parameter for part in self._parts for parameter in part.parameters()]
        decay = config.weight_decay
        phase = Phase(name, self.batches(data), self.loss, parameters, learning_rate, decay, optimizer=optimizer)
        return Stage(name, [phase], config.epochs, config.patience)

    def scored(self, batch: PairBatch) -> Scored:
        """Return the logits."""
        items = torch.cat([batch.positives, batch.negatives.flatten()])
        positive, negative = [], []
        for part in self._parts:
            users = part.of_users(batch.users)
            chosen, others = part.of_items(items).split([len(batch), batch.negatives.numel()])
            positive.append(part(users, chosen[:, None]).squeeze(1))
            negative.append(part(users, others.unflatten(0, batch.negatives.shape)))
        return Scored(torch.stack(positive).sum(0), torch.stack(negative).sum(0))

    def prepare_scoring(self) -> None:
        """Compute the items' side once."""
        items = torch.arange(self.n_items, device=self.gmf.output.weight.device)
        self._items = [part.of_items(items).detach() for part in self._parts]

    def score(self, batch: UserBatch) -> Tensor:
        """Return the logits, shape (B, I)."""
        users_at_once = max(1, HIDDEN_AT_ONCE // (self.n_items * self.config.hidden[0]))
        return torch.cat([self._score(users) for users in blocks(batch.users, users_at_once)])

    def _score(self, users: Tensor) -> Tensor:
        scores = [part(part.of_users(users), items) for part, items in zip(self._parts, self._items, strict=True)]
        return torch.stack(scores).sum(0)


class GMF(nn.Module):
    """Generalised matrix factorisation: ``<h, p_u * q_i>`` and a bias."""

    def __init__(self, n_users: int, n_items: int, dim: int) -> None:
        super().__init__()
        self.user, self.item = _embedding(n_users, dim), _embedding(n_items, dim)
        self.output = nn.Linear(dim, 1)

    def of_users(self, users: Tensor) -> Tensor:
        """Return what is computed once a user, (B, D)."""
        vectors: Tensor = self.user(users) * self.output.weight
        return vectors

    def of_items(self, items: Tensor) -> Tensor:
        """Return what is computed once an item, of the shape of ``items`` and D."""
        vectors: Tensor = self.item(items)
        return vectors

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the logits of ``of_users`` (B, D) with ``of_items`` (B, N, D), or (N, D) for all rows; (B, N)."""
        return inner_products(users, items) + self.output.bias


class Perceptron(nn.Module):
    """MLP on a user's and an item's vector side by side."""

    def __init__(self, n_users: int, n_items: int, dim: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.user, self.item = _embedding(n_users, dim), _embedding(n_items, dim)
        self.first = linear(2 * dim, hidden[0])
        self.activation = nn.Sequential(nn.ReLU(inplace=True), Dropout(dropout))
        self.rest = MLP(hidden[0], hidden[1:], None, dropout=dropout, activation=lambda width: nn.ReLU(inplace=True))
        self.output = nn.Linear(hidden[-1], 1)

    def of_users(self, users: Tensor) -> Tensor:
        """Return the users' share of the first layer and its bias, (B, H)."""
        weight = self.first.weight[:, : self.user.embedding_dim]
        return _transformed(users, self.user.weight, weight) + self.first.bias

    def of_items(self, items: Tensor) -> Tensor:
        """Return the items' share of the first layer, of the shape of ``items`` and H."""
        return _transformed(items, self.item.weight, self.first.weight[:, self.user.embedding_dim :])

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the logits of ``of_users`` (B, H) with ``of_items`` (B, N, H), or (N, H) for all rows; (B, N)."""
        logits: Tensor = self.output(self.rest(self.activation(users[:, None] + items)))
        return logits.squeeze(-1)


def _embedding(number: int, dim: int) -> nn.Embedding:
    embedding = nn.Embedding(number, dim)
    nn.init.normal_(embedding.weight, std=INITIAL_STD)
    return embedding


def _transformed(ids: Tensor, table: Tensor, weight: Tensor) -> Tensor:
    """Return ``weight`` (H, M) times the rows of ``table`` looked up; the whole table first where it has fewer rows."""
    if len(table) < ids.numel():
        return functional.embedding(ids, functional.linear(table, weight))
    return functional.linear(functional.embedding(ids, table), weight)
