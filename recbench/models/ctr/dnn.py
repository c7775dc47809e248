"""DNN: a multi-layer perceptron over field embeddings.

Source      the baseline DNN of BARS (Zhu et al., SIGIR 2022, arXiv:2205.09626), after Covington, Adams, Sargin: Deep
            Neural Networks for YouTube Recommendations. RecSys 2016.
Logit       MLP([e_1; ...; e_F])
Loss        binary cross-entropy + embedding_l2 / 2 * ||E||^2
Departures  none
"""

from __future__ import annotations

from torch import Tensor

from recbench.models.base import Reference
from recbench.models.layers.embedding import DeepConfig, EmbeddingModel, FieldEmbedding
from recbench.models.layers.mlp import MLP
from recbench.tasks.ctr import CTRBatch, FieldSpace


class DNN(EmbeddingModel):
    """Multi-layer perceptron over the concatenated embeddings."""

    class Config(DeepConfig):
        """Hyper-parameters."""

    reference = Reference("BARS, DNN_frappe_x1, mean of 5 seeds", "ctr/frappe", "auc", 0.9840, 0.0025)

    def __init__(self, config: Config, fields: FieldSpace) -> None:
        super().__init__(config, fields)
        self.embedding = FieldEmbedding(fields, config.embedding_dim)
        inputs = len(fields) * config.embedding_dim
        self.mlp = MLP(inputs, config.hidden, 1, dropout=config.dropout, batch_norm=config.batch_norm)

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        logits: Tensor = self.mlp(self.embedding(batch).flatten(1))
        return logits.squeeze(1)
