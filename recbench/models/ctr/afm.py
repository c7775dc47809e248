"""AFM: a factorisation machine that weighs pairs of fields by attention.

Source      Xiao, Ye, He, Zhang, Wu, Chua: Attentional Factorization Machines. IJCAI 2017, arXiv:1708.04617, section 3.
Logit       b + sum_i w_i + p^T sum_{i<j} a_ij (e_i * e_j), with a the softmax over pairs of h^T ReLU(W (e_i * e_j) + c)
Loss        binary cross-entropy + embedding_l2 / 2 * (||w||^2 + ||E||^2)
Departures  as BARS, dropout of the attention weights and of the pooled vector; the penalty is on the tables, where the
            paper has it on W; a multi-valued field enters as one field, the mean of its values
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbench.models.base import NonNegativeFloat, Positive, PositiveFloat, Reference, Share, tunable
from recbench.models.layers.dropout import Dropout
from recbench.models.layers.embedding import EmbeddingModel, FieldEmbedding
from recbench.models.layers.interaction import pair_products
from recbench.models.layers.mlp import MLP
from recbench.tasks.ctr import CTRBatch, FieldSpace

ROWS_AT_ONCE = 128


class AFM(EmbeddingModel):
    """Attentional factorisation machine."""

    class Config(EmbeddingModel.Config):
        """Hyper-parameters."""

        learning_rate: PositiveFloat = tunable(5e-3, low=1e-4, high=1e-2, log=True)
        embedding_l2: NonNegativeFloat = tunable(1e-5, low=1e-7, high=1e-1, log=True)
        embedding_dim: Positive = tunable(10, choices=(4, 8, 10, 16, 32))
        attention_dim: Positive = tunable(16, choices=(8, 16, 32, 64, 128))
        """Width of the attention network's hidden layer."""
        attention_dropout: Share = 0.0
        """Of the weights of pairs."""
        dropout: Share = tunable(0.1, low=0.0, high=0.6)
        """Of the pooled vector."""

    reference = Reference("BARS, AFM_frappe_x1", "ctr/frappe", "auc", 0.9697, 0.004)

    def __init__(self, config: Config, fields: FieldSpace) -> None:
        super().__init__(config, fields)
        self.embedding = FieldEmbedding(fields, config.embedding_dim)
        self.linear = FieldEmbedding(fields, 1)
        self.bias = nn.Parameter(torch.zeros(()))
        score = nn.Linear(config.attention_dim, 1, bias=False)
        self.output = nn.Linear(config.embedding_dim, 1, bias=False)
        for layer in (score, self.output):
            nn.init.xavier_normal_(layer.weight)
        self.attention = nn.Sequential(*MLP(config.embedding_dim, [config.attention_dim], None), score)
        self.attention_dropout = Dropout(config.attention_dropout)
        self.dropout = Dropout(config.dropout)

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        products = pair_products(self.embedding(batch))  # (B, P, D)
        weights = self.attention_dropout(self._scores(products).softmax(1))  # (B, P, 1)
        pooled = self.dropout((weights.transpose(1, 2) @ products).squeeze(1))
        first_order: Tensor = self.linear(batch).sum((1, 2)) + self.bias
        return first_order + self.output(pooled).squeeze(1)

    def _scores(self, products: Tensor) -> Tensor:
        # The hidden layer of all pairs is far larger than a processor's cache; blocks of rows take a third of the time.
        size = ROWS_AT_ONCE if products.device.type == "cpu" else len(products)
        return torch.cat([self.attention(block) for block in products.split(size)])
