"""IPNN: a multi-layer perceptron over the embeddings and the inner products of all pairs of them.

Source      Qu, Cai, Ren, Zhang, Yu, Wen, Wang: Product-based Neural Networks. ICDM 2016, arXiv:1611.00144, section 3.
Logit       MLP([e_1; ...; e_F; <e_i, e_j> for i < j])
Loss        binary cross-entropy + embedding_l2 / 2 * ||E||^2
Departures  as BARS, each product has its own weights to the first hidden layer, where the paper factorises them to rank
            one; batch normalisation in the MLP as an option
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbench.models.base import Reference
from recbench.models.layers.embedding import DeepConfig, EmbeddingModel, FieldEmbedding
from recbench.models.layers.interaction import inner_products
from recbench.models.layers.mlp import MLP
from recbench.tasks.ctr import CTRBatch, FieldSpace


class IPNN(EmbeddingModel):
    """Product-based neural network with inner products."""

    class Config(DeepConfig):
        """Hyper-parameters."""

    reference = Reference("BARS, PNN_frappe_x1", "ctr/frappe", "auc", 0.9841, 0.004)

    def __init__(self, config: Config, fields: FieldSpace) -> None:
        super().__init__(config, fields)
        self.embedding = FieldEmbedding(fields, config.embedding_dim)
        n_fields = len(fields)
        inputs = n_fields * config.embedding_dim + n_fields * (n_fields - 1) // 2
        self.mlp = MLP(inputs, config.hidden, 1, dropout=config.dropout, batch_norm=config.batch_norm)

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        embeddings: Tensor = self.embedding(batch)  # (B, F, D)
        logits: Tensor = self.mlp(torch.cat([embeddings.flatten(1), inner_products(embeddings)], 1))
        return logits.squeeze(1)
