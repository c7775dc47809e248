"""FiBiNET: bilinear products of all pairs of fields, of the embeddings and of the same embeddings weighed by field.

Source      Huang, Zhang, Zhang: FiBiNET. RecSys 2019, arXiv:1905.09433, section 3
Layers      SENET: z_i = mean of e_i, s = ReLU(W_2 ReLU(W_1 z)), v_i = s_i e_i; products (e_i W) * e_j and (v_i W) * v_j
            of pairs i < j; W is one matrix (``all``), one for each i (``each``) or one for each pair (``interaction``)
Logit       sum_i w_i + MLP([products of the e; products of the v])
Loss        binary cross-entropy + embedding_l2 / 2 * (||w||^2 + ||E||^2)
Departures  both kinds of products share their matrices, as in BARS' run on Frappe
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from recbench.models.base import PositiveFloat, Reference, tunable
from recbench.models.layers.embedding import DeepConfig, EmbeddingModel, FieldEmbedding
from recbench.models.layers.mlp import MLP
from recbench.tasks.ctr import CTRBatch, FieldSpace

Bilinear = Literal["all", "each", "interaction"]


class FiBiNET(EmbeddingModel):
    """Weights of the fields and bilinear interactions of their pairs, under a perceptron."""

    class Config(DeepConfig):
        """Hyper-parameters."""

        bilinear: Bilinear = tunable("all", choices=("all", "each", "interaction"))
        reduction_ratio: PositiveFloat = 3.0
        """Number of fields over the hidden width of the SENET, which is at least one."""

    reference = Reference("BARS, FiBiNET_frappe_x1", "ctr/frappe", "auc", 0.9832, 0.004)

    def __init__(self, config: Config, fields: FieldSpace) -> None:
        super().__init__(config, fields)
        n_fields, dim = len(fields), config.embedding_dim
        self.embedding = FieldEmbedding(fields, dim)
        self.linear = FieldEmbedding(fields, 1)
        self.senet = SENET(n_fields, max(1, int(n_fields / config.reduction_ratio)))
        self.interaction = BilinearProducts(n_fields, dim, config.bilinear)
        inputs = n_fields * (n_fields - 1) * dim
        self.mlp = MLP(inputs, config.hidden, 1, dropout=config.dropout, batch_norm=config.batch_norm)

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        embeddings: Tensor = self.embedding(batch)  # (B, F, D)
        both = torch.cat([embeddings, self.senet(embeddings)])
        products = torch.cat(self.interaction(both).flatten(1).chunk(2), 1)
        logits: Tensor = self.linear(batch).sum(1) + self.mlp(products)
        return logits.squeeze(1)


class SENET(nn.Module):
    """Multiplies each field by a weight, which a perceptron without biases makes of the means of all fields.

    Shapes: (B, F, D) -> (B, F, D).
    """

    def __init__(self, n_fields: int, hidden: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(n_fields, hidden, bias=False)
        self.excite = nn.Linear(hidden, n_fields, bias=False)
        nn.init.xavier_normal_(self.squeeze.weight)
        nn.init.xavier_normal_(self.excite.weight)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Weigh."""
        weights = self.excite(self.squeeze(embeddings.mean(2)).relu()).relu()
        weighed: Tensor = weights[:, :, None] * embeddings
        return weighed


class BilinearProducts(nn.Module):
    """``(e_i W) * e_j`` of all pairs i < j, with W one matrix, one for each i, or one for each pair.

    Shapes: (B, F, D) -> (B, F (F - 1) / 2, D).
    """

    first: Tensor
    second: Tensor

    def __init__(self, n_fields: int, dim: int, kind: Bilinear) -> None:
        super().__init__()
        self.kind = kind
        first, second = torch.triu_indices(n_fields, n_fields, 1)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)
        # The last field is never the left one of a pair.
        matrices = {"all": 1, "each": n_fields - 1, "interaction": len(first)}[kind]
        self.weight = nn.Parameter(torch.empty(matrices, dim, dim).normal_(std=dim**-0.5))  # Xavier's, each matrix

    def forward(self, embeddings: Tensor) -> Tensor:
        """Multiply."""
        if self.kind == "interaction":
            left = _times_own_matrix(embeddings.index_select(1, self.first), self.weight)
        else:
            whole = self.kind == "all"
            mapped = embeddings @ self.weight[0] if whole else _times_own_matrix(embeddings[:, :-1], self.weight)
            left = mapped.index_select(1, self.first)
        return left * embeddings.index_select(1, self.second)


def _times_own_matrix(vectors: Tensor, matrices: Tensor) -> Tensor:
    """Return vectors (B, N, D) times their matrices (N, D, D)."""
    return torch.einsum("bnd,nde->bne", vectors, matrices)
