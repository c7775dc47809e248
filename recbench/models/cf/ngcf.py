"""NGCF: graph convolution with products of a node and its neighbours.

Source      Wang et al., "Neural Graph Collaborative Filtering", SIGIR 2019, arXiv:1905.08108; details from the
            authors' code
Layers      N = L E_(k-1) with L = D^-1/2 A D^-1/2;
            E_k = dropout(LeakyReLU((E_(k-1) + N) W1 + b1) + LeakyReLU((E_(k-1) * N) W2 + b2)), slope 0.2
Score       inner product of [E_0 | unit(E_1) | ... | unit(E_K)] of user and item
Loss        -log sigmoid(s(u, i) - s(u, j)) + l2 / 2 (|e_u|^2 + |e_i|^2 + |e_j|^2) of the outputs, j uniform from the
            items u has not seen; others, and other samplers, by configuration
Departures  the paper's L (the code normalises rows, those of A + I, and takes the product for both terms); every
            interaction once an epoch (code: users drawn uniformly, then one item of each); the last layer is computed
            for the batch alone, where a node that occurs twice has its own dropout each time; no node dropout, which
            the code leaves off; biases start at zero
"""

# Shapes: U users, I items, B batch, P and Q users and items looked up, D = embedding_dim + sum of hidden.

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbench.models.base import NonNegativeFloat, Positive, PositiveFloat, Reference, Share, tunable
from recbench.models.layers.bi_interaction import BiInteraction
from recbench.models.layers.graph import InteractionGraph, Symmetric, apart, items_of, propagate
from recbench.models.layers.pairwise import DotRecommender, PairwiseConfig, Scored, batch_penalty
from recbench.tasks.interactions import PairBatch, TopNData


class NGCF(DotRecommender):
    """Neural graph collaborative filtering (Wang et al., SIGIR 2019)."""

    class Config(PairwiseConfig):
        """Hyper-parameters; the published values are for Gowalla."""

        embedding_dim: Positive = tunable(64, low=16, high=128, log=True)
        """Of layer 0. Published: 64."""
        hidden: tuple[Positive, ...] = (64, 64, 64)
        """Widths of the layers. Published: (64, 64, 64)."""
        dropout: Share = tunable(0.1, low=0.0, high=0.6)
        """Of the numbers that a layer gives. Published: 0.1."""
        learning_rate: PositiveFloat = tunable(1e-4, low=5e-5, high=5e-3, log=True)
        """Published: 1e-4."""
        l2: NonNegativeFloat = tunable(1e-5, low=1e-6, high=1e-1, log=True)
        """Penalty on the squared norms of the outputs of a pair. Published: 1e-5."""
        batch_size: Positive = 1024
        """Published: 1024."""
        epochs: Positive = 400
        """Published: 400."""
        patience: Positive = 20

    reference = Reference("BARS", "topn/gowalla", "recall@20", 0.1570, 0.0031)

    def __init__(self, config: Config, data: TopNData) -> None:
        super().__init__(config, data)
        self.user = nn.Embedding(data.n_users, config.embedding_dim)
        self.item = nn.Embedding(data.n_items, config.embedding_dim)
        for embedding in (self.user, self.item):
            nn.init.xavier_uniform_(embedding.weight)
        widths = (config.embedding_dim, *config.hidden)
        self.layers = nn.ModuleList(BiInteraction(*sizes, config.dropout) for sizes in pairwise(widths))
        self.graph = InteractionGraph(data.users, data.items, data.n_users, data.n_items)

    def outputs(self) -> tuple[Tensor, Tensor]:
        """Return [E_0 | unit(E_1) | ... | unit(E_K)] of all users and all items."""
        nodes = self.user.weight, self.item.weight
        layers = [nodes]
        for layer in self.layers:
            nodes = _convolved(layer, self.graph, nodes, nodes)
            layers.append(nodes)
        return _joined(layers)

    def looked_up(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same of ``users`` (P,) and ``items`` (Q,) alone, (P, D) and (Q, D)."""
        nodes = self.user.weight, self.item.weight
        at = [(functional.embedding(users, nodes[0]), functional.embedding(items, nodes[1]))]
        for number, layer in enumerate(self.layers, start=1):
            if number < len(self.layers):
                nodes = _convolved(layer, self.graph, nodes, nodes)
                at.append((functional.embedding(users, nodes[0]), functional.embedding(items, nodes[1])))
            else:
                at.append(_convolved(layer, self.graph.at(users, items), nodes, at[-1]))
        return _joined(at)

    def scored(self, batch: PairBatch) -> Scored:
        """Inner products of the outputs, which are penalised; the last layer is computed for the batch alone."""
        users, items = self.looked_up(batch.users, items_of(batch))
        return self.compared(users, *apart(items, batch), self.config.l2 * batch_penalty(users, items))


def _convolved(
    layer: nn.Module, part: Symmetric, nodes: tuple[Tensor, Tensor], receivers: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the layer's output at the ``receivers`` of a part of the graph, of what all ``nodes`` send them."""
    sent = propagate(part, *nodes)
    return layer(receivers[0], sent[0]), layer(receivers[1], sent[1])


def _joined(layers: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    users, items = (
        torch.cat([of_kind[0], *map(functional.normalize, of_kind[1:])], 1) for of_kind in zip(*layers, strict=True)
    )
    return users, items
