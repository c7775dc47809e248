"""Wide & Deep: first-order weights and a multi-layer perceptron, trained together.

Source      Cheng et al.: Wide & Deep Learning for Recommender Systems. DLRS 2016, arXiv:1606.07792, section 3.
Logit       sum_i w_i + MLP([e_1; ...; e_F]); the MLP's last bias is the only global one
Loss        binary cross-entropy + embedding_l2 / 2 * (||w||^2 + ||E||^2)
Departures  those of BARS: no cross-product features by hand in the wide part; one optimiser for both parts, where the
            paper has FTRL for the wide and AdaGrad for the deep one; batch normalisation in the MLP as an option
"""

from __future__ import annotations

from torch import Tensor

from recbench.models.base import Reference
from recbench.models.layers.embedding import DeepConfig, EmbeddingModel, FieldEmbedding
from recbench.models.layers.mlp import MLP
from recbench.tasks.ctr import CTRBatch, FieldSpace


class WideDeep(EmbeddingModel):
    """Linear model plus multi-layer perceptron."""

    class Config(DeepConfig):
        """Hyper-parameters."""

    reference = Reference("BARS, WideDeep_frappe_x1, mean of 5 seeds", "ctr/frappe", "auc", 0.9831, 0.0025)

    def __init__(self, config: Config, fields: FieldSpace) -> None:
        super().__init__(config, fields)
        self.embedding = FieldEmbedding(fields, config.embedding_dim)
        self.linear = FieldEmbedding(fields, 1)
        inputs = len(fields) * config.embedding_dim
        self.mlp = MLP(inputs, config.hidden, 1, dropout=config.dropout, batch_norm=config.batch_norm)

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        wide: Tensor = self.linear(batch).sum((1, 2))
        deep: Tensor = self.mlp(self.embedding(batch).flatten(1)).squeeze(1)
        return wide + deep
