"""DeepFM: a factorisation machine and a multi-layer perceptron over the same embeddings.

Source      Guo, Tang, Ye, Li, He: DeepFM. IJCAI 2017, arXiv:1703.04247, equations 1-4.
Logit       sum_i w_i + sum_{i<j} <e_i, e_j> + MLP([e_1; ...; e_F]); the MLP's last bias is the only global one
Loss        binary cross-entropy + embedding_l2 / 2 * (||w||^2 + ||E||^2)
Departures  batch normalisation in the MLP as an option, which BARS uses for its Frappe and MovieLens rows
"""

from __future__ import annotations

from torch import Tensor

from recbench.models.base import Reference
from recbench.models.layers.embedding import DeepConfig, EmbeddingModel, FieldEmbedding
from recbench.models.layers.interaction import pair_pooling
from recbench.models.layers.mlp import MLP
from recbench.tasks.ctr import CTRBatch, FieldSpace


class DeepFM(EmbeddingModel):
    """Factorisation machine plus multi-layer perceptron over shared embeddings."""

    class Config(DeepConfig):
        """Hyper-parameters."""

    reference = Reference("BARS, DeepFM_frappe_x1, mean of 5 seeds", "ctr/frappe", "auc", 0.9839, 0.0025)

    def __init__(self, config: Config, fields: FieldSpace) -> None:
        super().__init__(config, fields)
        self.embedding = FieldEmbedding(fields, config.embedding_dim)
        self.linear = FieldEmbedding(fields, 1)
        inputs = len(fields) * config.embedding_dim
        self.mlp = MLP(inputs, config.hidden, 1, dropout=config.dropout, batch_norm=config.batch_norm)

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        embeddings: Tensor = self.embedding(batch)  # (B, F, D)
        first_order: Tensor = self.linear(batch).sum((1, 2))
        second_order = pair_pooling(embeddings).sum(1)
        deep: Tensor = self.mlp(embeddings.flatten(1)).squeeze(1)
        return first_order + second_order + deep
