"""GRU4Rec: a recurrent network over a user's items in their order.

Source      Hidasi, Karatzoglou, Baltrunas, Tikk, "Session-based Recommendations with Recurrent Neural Networks", ICLR
            2016, arXiv:1511.06939; losses and sampling of Hidasi, Karatzoglou, "Recurrent Neural Networks with Top-k
            Gains", CIKM 2018, arXiv:1706.03847; details from the authors' code
State       h_t = dropout(GRU(dropout(E[i_t]), h_{t-1})), h_0 = 0, one layer or several
Score       <h_t, E[i]> + b_i, one table E for input and output ("constrained embedding")
Loss        cross-entropy of the next item among N items drawn by popularity for the whole batch, each score less the
            logarithm of how often its item is expected there; or bpr-max by configuration, with num_negatives,
            popularity_exponent and negative_penalty as published: 2048, 0.3 and 0.9 on Diginetica
Departures  a batch is whole sequences and the gradient goes back through all of their max_length steps, where the
            authors step through parallel sessions and stop it at every step; the sample alone is negative, not the
            other sequences' next items as well; Adam in place of Adagrad with momentum; the default width, chosen for
            MovieLens-1M; the logarithms are of expected counts, not of shares, and are not taken of the positive, which
            is in the sample anyway
"""

# Shapes: B sequences, P positions of all of them together, I items, D embedding_dim.

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbench.models.base import PerRow, Positive, Reference, Share, tunable
from recbench.models.layers.dropout import Dropout
from recbench.models.layers.losses import LossName
from recbench.models.layers.pairwise import Exponent
from recbench.models.layers.sequence import SequentialConfig, SequentialRecommender
from recbench.tasks.interactions import TopNData
from recbench.tasks.samplers import SamplerName
from recbench.tasks.sequential import Sequences

SEQUENCES_AT_ONCE = {"cpu": 32, "cuda": 4096}
"""Rows of a rectangle: on a CPU few of about the same length, so that little of it is padding."""


class GRU4Rec(SequentialRecommender):
    """Gated recurrent units over sequences, with sampled losses (Hidasi & Karatzoglou, CIKM 2018)."""

    class Config(SequentialConfig):
        """Hyper-parameters."""

        loss: LossName = "softmax"
        sampler: SamplerName = "shared-popularity"
        num_negatives: PerRow = 2048
        """Published: 2048."""
        popularity_exponent: Exponent = 0.3
        """Published: 0.2 on Yoochoose, 0.3 on Diginetica."""
        embedding_dim: Positive = tunable(128, low=32, high=512, log=True)
        """D, the width of the layers, too. Published: 480 on Yoochoose, 512 on Diginetica."""
        layers: Positive = 1
        embedding_dropout: Share = tunable(0.2, low=0.0, high=0.6)
        """Published: 0 on Yoochoose, 0.5 on Diginetica."""
        dropout: Share = tunable(0.2, low=0.0, high=0.6)
        """Of the states. Published: 0.2 on Yoochoose, 0.3 on Diginetica."""
        max_length: PerRow = 200
        batch_size: Positive = 128
        """Users in a batch. Published: 48 and 128 parallel sessions."""
        epochs: Positive = 200
        patience: Positive = 10

    reference = Reference("the authors' code, their split", "sequential/diginetica-hidasi", "recall@20", 0.4995, 0.01)

    def __init__(self, config: Config, data: TopNData) -> None:
        super().__init__(config, data)
        dim = config.embedding_dim
        self.item = nn.Embedding(data.n_items, dim)
        self.bias = nn.Parameter(torch.zeros(data.n_items))
        self.layers = nn.ModuleList(nn.GRU(dim, dim, batch_first=True) for _ in range(config.layers))
        self.embedding_dropout = Dropout(config.embedding_dropout)
        self.dropout = Dropout(config.dropout)
        nn.init.xavier_uniform_(self.item.weight)
        for name, parameter in self.layers.named_parameters():
            if "bias" in name:
                nn.init.zeros_(parameter)
            else:
                for gate in parameter.data.chunk(3):
                    nn.init.xavier_uniform_(gate)

    def states(self, sequences: Sequences) -> Tensor:
        """Return the states of the last layer, and a 1 that the items' biases are multiplied by, shape (P, D + 1)."""
        rectangles = sequences.rectangles(SEQUENCES_AT_ONCE[sequences.items.device.type])
        sizes = [rectangle.size for rectangle in rectangles]
        x = self.embedding_dropout(self.item(sequences.items))
        for layer in self.layers:
            parts = zip(rectangles, x.split(sizes), strict=True)
            x = self.dropout(torch.cat([rectangle.flat(layer(rectangle.pad(part))[0]) for rectangle, part in parts]))
        return torch.cat([x, x.new_ones(len(x), 1)], dim=1)

    def item_vectors(self) -> Tensor:
        """Return embeddings and biases, shape (I, D + 1)."""
        return torch.cat([self.item.weight, self.bias[:, None]], dim=1)
