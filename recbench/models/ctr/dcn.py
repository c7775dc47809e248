"""DCN: a cross network beside a multi-layer perceptron; the cross network alone where that has no layers.

Source      Wang, Fu, Fu, Wang: Deep & Cross Network for Ad Click Predictions. ADKDD 2017, arXiv:1708.05123, section 2.
Layers      x_{l+1} = x_0 (w_l^T x_l) + b_l + x_l with x_0 = [e_1; ...; e_F]
Logit       w^T [x_L; h] + b, with h the last hidden layer of an MLP of x_0
Loss        binary cross-entropy + embedding_l2 / 2 * ||E||^2
Departures  a bias in the output layer and dropout in the MLP, as in BARS; batch normalisation there as an option
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbench.models.base import Positive, Reference, tunable
from recbench.models.layers.cross import CrossNet
from recbench.models.layers.embedding import DeepConfig, EmbeddingModel, FieldEmbedding
from recbench.models.layers.mlp import MLP, linear
from recbench.tasks.ctr import CTRBatch, FieldSpace


class DCN(EmbeddingModel):
    """Deep & Cross Network."""

    class Config(DeepConfig):
        """Hyper-parameters."""

        num_layers: Positive = tunable(3, low=1, high=8)
        """Of the cross network."""

    reference = Reference("BARS, DCN_frappe_x1, mean of 5 seeds", "ctr/frappe", "auc", 0.9834, 0.0025)

    def __init__(self, config: Config, fields: FieldSpace) -> None:
        super().__init__(config, fields)
        self.embedding = FieldEmbedding(fields, config.embedding_dim)
        inputs = len(fields) * config.embedding_dim
        self.cross = CrossNet(inputs, config.num_layers)
        perceptron = MLP(inputs, config.hidden, None, dropout=config.dropout, batch_norm=config.batch_norm)
        self.mlp = perceptron if config.hidden else None
        self.output = linear(inputs + (config.hidden[-1] if config.hidden else 0), 1)

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        x0: Tensor = self.embedding(batch).flatten(1)
        last = self.cross(x0)
        if self.mlp is not None:
            last = torch.cat([last, self.mlp(x0)], 1)
        logits: Tensor = self.output(last)
        return logits.squeeze(1)
