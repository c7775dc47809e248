"""LightGCN: embeddings smoothed over the graph of interactions, without weights or nonlinearities.

Source      He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation", SIGIR 2020,
            arXiv:2002.02126, equations 3 to 5; details from the authors' PyTorch code
Layers      E_k = D^-1/2 A D^-1/2 E_(k-1);  E = (E_0 + ... + E_K) / (K + 1)
Score       s(u, i) = <e_u, e_i>
Loss        -log sigmoid(s(u, i) - s(u, j)) + l2 / 2 (|e_u|^2 + |e_i|^2 + |e_j|^2) of layer 0, j uniform from the items
            u has not seen; others, and other samplers, by configuration
Departures  every interaction once an epoch (the code draws as many users uniformly, then one item of each)
"""

# Shapes: U users, I items, D embedding_dim, K n_layers.

from __future__ import annotations

from torch import Tensor, nn

from recbench.models.base import NonNegative, NonNegativeFloat, Positive, PositiveFloat, Reference, tunable
from recbench.models.layers.graph import InteractionGraph, LayerMean, apart, items_of
from recbench.models.layers.pairwise import DotRecommender, PairwiseConfig, Scored, batch_penalty
from recbench.tasks.interactions import PairBatch, TopNData

INITIAL_STD = 0.1


class LightGCN(DotRecommender):
    """Light graph convolution (He et al., SIGIR 2020)."""

    class Config(PairwiseConfig):
        """Hyper-parameters."""

        embedding_dim: Positive = tunable(64, low=16, high=256, log=True)
        """D. Published: 64."""
        n_layers: NonNegative = tunable(3, choices=(1, 2, 3, 4))
        """K; 0 is matrix factorisation. Published: 3."""
        learning_rate: PositiveFloat = tunable(1e-3, low=1e-4, high=1e-2, log=True)
        """Published: 1e-3."""
        l2: NonNegativeFloat = tunable(1e-4, low=1e-6, high=1e-1, log=True)
        """Penalty on the squared norms of the embeddings of a pair, before propagation. Published: 1e-4."""
        epochs: Positive = 1000
        """Published: 1000."""
        patience: Positive = 20

    reference = Reference("the authors' PyTorch code, its README", "topn/gowalla", "recall@20", 0.1824, 0.0036)

    def __init__(self, config: Config, data: TopNData) -> None:
        super().__init__(config, data)
        self.user = nn.Embedding(data.n_users, config.embedding_dim)
        self.item = nn.Embedding(data.n_items, config.embedding_dim)
        for embedding in (self.user, self.item):
            nn.init.normal_(embedding.weight, std=INITIAL_STD)
        graph = InteractionGraph(data.users, data.items, data.n_users, data.n_items)
        self.mean = self.layer_mean(graph)

    def layer_mean(self, graph: InteractionGraph) -> LayerMean:
        """Return what a graph makes of the embeddings."""
        return LayerMean(graph, self.config.n_layers)

    def outputs(self) -> tuple[Tensor, Tensor]:
        """Return the means over layers."""
        return self.mean.everywhere(self.user.weight, self.item.weight)

    def scored(self, batch: PairBatch) -> Scored:
        """Inner products of the means over layers, which are computed for the batch alone."""
        tables = self.user.weight, self.item.weight
        first_users, first_items, users, items, *views = self.mean.at(tables, batch.users, items_of(batch))
        penalty = self.config.l2 * batch_penalty(first_users, first_items) + self.contrast(batch, views)
        return self.compared(users, *apart(items, batch), penalty)

    def contrast(self, batch: PairBatch, views: list[Tensor]) -> Tensor | float:
        """Return what a model adds to the loss for the mean's further ``views``, as ``LayerMean.at`` gives them."""
        return 0.0
