"""FwFM: a factorisation machine with one weight for each pair of fields.

Source      Pan, Xu, Ruiz, Zhao, Pan, Sun, Lu: Field-weighted Factorization Machines. WWW 2018, arXiv:1806.03514,
            sections 3-4.
Logit       b + linear term + sum_{i<j} r_ij <e_i, e_j>; the linear term is sum_i w_i (LW), sum_i <e_i, v_i> with a
            second vector v_i for each value (FeLV), or the same with one vector for each field (FiLV)
Loss        binary cross-entropy + embedding_l2 / 2 * (||w||^2 or ||V||^2 of values + ||E||^2)
Departures  r starts from Xavier's normal distribution, as in BARS; a multi-valued field enters as one field, the mean
            of its values, so its own values do not interact
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from recbench.models.base import NonNegativeFloat, Positive, PositiveFloat, Reference, tunable
from recbench.models.layers.embedding import EmbeddingModel, FieldEmbedding
from recbench.models.layers.interaction import inner_products
from recbench.models.layers.mlp import linear
from recbench.tasks.ctr import CTRBatch, FieldSpace


class FwFM(EmbeddingModel):
    """Field-weighted factorisation machine."""

    class Config(EmbeddingModel.Config):
        """Hyper-parameters."""

        learning_rate: PositiveFloat = tunable(5e-3, low=1e-4, high=1e-2, log=True)
        embedding_l2: NonNegativeFloat = tunable(1e-5, low=1e-7, high=1e-1, log=True)
        embedding_dim: Positive = tunable(10, choices=(4, 8, 10, 16, 32))
        linear_term: Literal["LW", "FeLV", "FiLV"] = tunable("FiLV", choices=("LW", "FeLV", "FiLV"))
        """A weight for each value, a vector for each value, or a vector for each field."""

    reference = Reference("BARS, FwFM_frappe_x1", "ctr/frappe", "auc", 0.9776, 0.004)

    def __init__(self, config: Config, fields: FieldSpace) -> None:
        super().__init__(config, fields)
        self.embedding = FieldEmbedding(fields, config.embedding_dim)
        self.linear: nn.Module
        if config.linear_term == "FiLV":
            self.linear = nn.Linear(len(fields) * config.embedding_dim, 1, bias=False)
            nn.init.xavier_normal_(self.linear.weight)
        else:
            self.linear = FieldEmbedding(fields, 1 if config.linear_term == "LW" else config.embedding_dim)
        self.strength = linear(len(fields) * (len(fields) - 1) // 2, 1)  # r and b

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        embeddings: Tensor = self.embedding(batch)  # (B, F, D)
        second_order: Tensor = self.strength(inner_products(embeddings)).squeeze(1)
        return self._first_order(batch, embeddings) + second_order

    def _first_order(self, batch: CTRBatch, embeddings: Tensor) -> Tensor:
        if self.config.linear_term == "FiLV":
            return self.linear(embeddings.flatten(1)).squeeze(1)
        weights: Tensor = self.linear(batch)
        return (weights if self.config.linear_term == "LW" else weights * embeddings).sum((1, 2))
