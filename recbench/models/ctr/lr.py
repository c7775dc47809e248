"""LR: logistic regression on one-hot fields.

Source      Richardson, Dominowska, Ragno: Predicting Clicks. WWW 2007.
Logit       b + sum over fields of w[id]; a multi-valued field adds the mean of its values' weights
Loss        binary cross-entropy + embedding_l2 / 2 * ||w||^2
Departures  none
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbench.models.base import PositiveFloat, Reference, tunable
from recbench.models.layers.embedding import EmbeddingModel, FieldEmbedding
from recbench.tasks.ctr import CTRBatch, FieldSpace


class LR(EmbeddingModel):
    """Logistic regression: one weight per value of a field."""

    class Config(EmbeddingModel.Config):
        """Hyper-parameters."""

        learning_rate: PositiveFloat = tunable(1e-2, low=1e-4, high=1e-1, log=True)

    reference = Reference("BARS, LR_frappe_x1", "ctr/frappe", "auc", 0.9356, 0.004)

    def __init__(self, config: Config, fields: FieldSpace) -> None:
        super().__init__(config, fields)
        self.linear = FieldEmbedding(fields, 1)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        weights: Tensor = self.linear(batch)  # (B, F, 1)
        return weights.sum((1, 2)) + self.bias
