"""NFM: a multi-layer perceptron over the pooled products of all pairs of embeddings.

Source      He, Chua: Neural Factorization Machines. SIGIR 2017, arXiv:1708.05027, section 3.
Logit       sum_i w_i + MLP(sum_{i<j} e_i * e_j), elementwise products; the MLP's last bias is the only global one
Loss        binary cross-entropy + embedding_l2 / 2 * (||w||^2 + ||E||^2)
Departures  as BARS, no batch normalisation and no dropout of the pooled vector itself; in the MLP both are options
"""

from __future__ import annotations

from torch import Tensor

from recbench.models.base import NonNegativeFloat, Positive, Reference, Share, tunable
from recbench.models.layers.embedding import EmbeddingModel, FieldEmbedding
from recbench.models.layers.interaction import pair_pooling
from recbench.models.layers.mlp import MLP
from recbench.tasks.ctr import CTRBatch, FieldSpace


class NFM(EmbeddingModel):
    """Neural factorisation machine: a perceptron on top of bi-interaction pooling."""

    class Config(EmbeddingModel.Config):
        """Hyper-parameters."""

        embedding_l2: NonNegativeFloat = tunable(1e-4, low=1e-7, high=1e-1, log=True)
        embedding_dim: Positive = tunable(10, choices=(4, 8, 10, 16, 32))
        hidden: tuple[Positive, ...] = (64, 64)
        """Widths of the perceptron; none: a factorisation machine with a weight for each dimension."""
        dropout: Share = tunable(0.2, low=0.0, high=0.6)
        """Of the hidden units."""
        batch_norm: bool = False

    reference = Reference("BARS, NFM_frappe_x1", "ctr/frappe", "auc", 0.9804, 0.004)

    def __init__(self, config: Config, fields: FieldSpace) -> None:
        super().__init__(config, fields)
        self.embedding = FieldEmbedding(fields, config.embedding_dim)
        self.linear = FieldEmbedding(fields, 1)
        self.mlp = MLP(config.embedding_dim, config.hidden, 1, dropout=config.dropout, batch_norm=config.batch_norm)

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        first_order: Tensor = self.linear(batch).sum((1, 2))
        deep: Tensor = self.mlp(pair_pooling(self.embedding(batch))).squeeze(1)
        return first_order + deep
