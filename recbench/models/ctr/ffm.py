"""FFM: field-aware factorisation machine, with one vector per value for each other field.

Source      Juan, Zhuang, Chin, Lin: Field-aware Factorization Machines for CTR Prediction. RecSys 2016, section 3.
Logit       b + sum_i w_i + sum_{i<j} <e_i^(j), e_j^(i)>, with e_i^(j) the vector of field i's value for field j
Loss        binary cross-entropy + embedding_l2 / 2 * (||w||^2 + ||E||^2)
Departures  as BARS, rows are not scaled to unit length and Adam takes the place of AdaGrad; a multi-valued field enters
            as one field, the mean of its values, so its own values do not interact
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbench.models.base import NonNegativeFloat, Positive, PositiveFloat, Reference, tunable
from recbench.models.layers.embedding import EmbeddingModel, FieldEmbedding
from recbench.tasks.ctr import CTRBatch, FieldSpace


class FFM(EmbeddingModel):
    """Field-aware factorisation machine."""

    class Config(EmbeddingModel.Config):
        """Hyper-parameters."""

        learning_rate: PositiveFloat = tunable(5e-3, low=1e-4, high=1e-2, log=True)
        embedding_l2: NonNegativeFloat = tunable(1e-5, low=1e-7, high=1e-1, log=True)
        embedding_dim: Positive = tunable(10, choices=(2, 4, 8, 10, 16))
        """Of each of a value's F - 1 vectors."""

    reference = Reference("BARS, FFM_frappe_x1", "ctr/frappe", "auc", 0.9786, 0.004)

    order: Tensor

    def __init__(self, config: Config, fields: FieldSpace) -> None:
        super().__init__(config, fields)
        n_fields = len(fields)
        self.embedding = FieldEmbedding(fields, (n_fields - 1) * config.embedding_dim)
        self.linear = FieldEmbedding(fields, 1)
        self.bias = nn.Parameter(torch.zeros(()))
        # A field's vectors are those for the other fields, in their order. Of all F (F - 1), this takes e_i^(j) of all
        # pairs i < j, then e_j^(i).
        first, second = torch.triu_indices(n_fields, n_fields, 1)
        order = torch.cat([first * (n_fields - 1) + second - 1, second * (n_fields - 1) + first])
        self.register_buffer("order", order, persistent=False)

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        first_order: Tensor = self.linear(batch).sum((1, 2)) + self.bias
        vectors = self.embedding(batch).view(len(batch), len(self.order), self.config.embedding_dim)
        left, right = vectors.index_select(1, self.order).chunk(2, 1)  # (B, P, D) each
        return first_order + (left * right).sum((1, 2))
