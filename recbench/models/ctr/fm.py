"""FM: factorisation machine of second order.

Source      Rendle: Factorization Machines. ICDM 2010.
Logit       b + sum_i w_i + sum_{i<j} <e_i, e_j>, with w_i and e_i the weight and the vector of field i's value
Loss        binary cross-entropy + embedding_l2 / 2 * (||w||^2 + ||E||^2)
Departures  a multi-valued field enters as one field, the mean of its values, so its own values do not interact
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbench.models.base import NonNegativeFloat, Positive, PositiveFloat, Reference, tunable
from recbench.models.layers.embedding import EmbeddingModel, FieldEmbedding
from recbench.models.layers.interaction import pair_pooling
from recbench.tasks.ctr import CTRBatch, FieldSpace


class FM(EmbeddingModel):
    """Factorisation machine: first-order weights and inner products of all pairs of fields."""

    class Config(EmbeddingModel.Config):
        """Hyper-parameters."""

        learning_rate: PositiveFloat = tunable(5e-3, low=1e-4, high=1e-2, log=True)
        embedding_l2: NonNegativeFloat = tunable(1e-4, low=1e-7, high=1e-1, log=True)
        embedding_dim: Positive = tunable(10, choices=(4, 8, 10, 16, 32))

    reference = Reference("BARS, FM_frappe_x1", "ctr/frappe", "auc", 0.9671, 0.004)

    def __init__(self, config: Config, fields: FieldSpace) -> None:
        super().__init__(config, fields)
        self.embedding = FieldEmbedding(fields, config.embedding_dim)
        self.linear = FieldEmbedding(fields, 1)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        first_order: Tensor = self.linear(batch).sum((1, 2)) + self.bias
        return first_order + pair_pooling(self.embedding(batch)).sum(1)
