"""DLRM: embeddings and one vector made of all numbers, their inner products, and a multi-layer perceptron on top.

Source      Naumov et al.: Deep Learning Recommendation Model for Personalization and Recommendation Systems. 2019,
            arXiv:1906.00091, section 2.
Logit       MLP([v; <x_i, x_j> for i < j]) (dot) or MLP([x_1; ...; x_F; v]) (cat), with x the embeddings of the fields
            that are not dense, and v too; v = ReLU(bottom MLP(dense fields)), nothing where there are none
Loss        binary cross-entropy + embedding_l2 / 2 * ||E||^2
Departures  as BARS, dropout in both MLPs; batch normalisation there as an option
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from recbench.errors import UsageError
from recbench.models.base import NonNegativeFloat, Positive, Reference, Share, tunable
from recbench.models.layers.embedding import EmbeddingModel, FieldEmbedding
from recbench.models.layers.interaction import inner_products
from recbench.models.layers.mlp import MLP
from recbench.tasks.ctr import CTRBatch, FieldSpace


class DLRM(EmbeddingModel):
    """Deep learning recommendation model: perceptrons below the dense fields and on top of all products."""

    class Config(EmbeddingModel.Config):
        """Hyper-parameters."""

        embedding_l2: NonNegativeFloat = tunable(1e-2, low=1e-7, high=1e-1, log=True)
        embedding_dim: Positive = tunable(10, choices=(4, 8, 10, 16, 32))
        interaction: Literal["dot", "cat"] = tunable("dot", choices=("dot", "cat"))
        """Inner products of all pairs, or the vectors themselves."""
        hidden: tuple[Positive, ...] = (64, 64)
        """Widths of the MLP on top."""
        bottom_hidden: tuple[Positive, ...] = (64, 64)
        """Widths of the MLP of the dense fields, before its last layer, which has embedding_dim units."""
        dropout: Share = tunable(0.2, low=0.0, high=0.6)
        """Of the hidden units of both MLPs."""
        batch_norm: bool = False
        """In both MLPs."""

    reference = Reference("BARS, DLRM_frappe_x1", "ctr/frappe", "auc", 0.9840, 0.004)

    def __init__(self, config: Config, fields: FieldSpace) -> None:
        super().__init__(config, fields)
        looked_up = FieldSpace(field for field in fields if not field.dense)
        if not looked_up:
            raise UsageError("dlrm: expected at least one field that is not dense, found none")
        dim = config.embedding_dim
        self.embedding = FieldEmbedding(looked_up, dim)
        self.bottom = None
        if fields.dense:
            inputs = len(fields.dense)
            bottom = MLP(inputs, config.bottom_hidden, dim, dropout=config.dropout, batch_norm=config.batch_norm)
            self.bottom = nn.Sequential(bottom, nn.ReLU())
        of_numbers = dim if fields.dense else 0
        inputs = len(looked_up) * dim + of_numbers
        if config.interaction == "dot":
            n_vectors = len(looked_up) + bool(fields.dense)
            inputs = of_numbers + n_vectors * (n_vectors - 1) // 2
        self.mlp = MLP(inputs, config.hidden, 1, dropout=config.dropout, batch_norm=config.batch_norm)

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        vectors: Tensor = self.embedding(batch)  # (B, F, D)
        n_looked_up = vectors.shape[1]
        if self.bottom is not None:
            vectors = torch.cat([vectors, self.bottom(batch.dense)[:, None]], 1)
        inputs = vectors.flatten(1)
        if self.config.interaction == "dot":
            inputs = torch.cat([vectors[:, n_looked_up:].flatten(1), inner_products(vectors)], 1)
        logits: Tensor = self.mlp(inputs)
        return logits.squeeze(1)
