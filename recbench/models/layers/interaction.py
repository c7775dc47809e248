"""Interactions between field embeddings.

Shapes: B batch, F fields, D dims, P = F (F - 1) / 2 pairs, H heads, W = H * head_dim. Pairs i < j are in the order
(0, 1), (0, 2), ..., (F - 2, F - 1).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from recbench.models.layers.attention import attend, softmax
from recbench.models.layers.dropout import Dropout


def pair_pooling(embeddings: Tensor) -> Tensor:
    """Return the sum of e_i * e_j (elementwise) over all pairs of fields i < j, shape (B, F, D) -> (B, D).

    In O(F D) as half of (sum e)^2 - sum e^2: Rendle, ICDM 2010, lemma 3.1.
    """
    return (embeddings.sum(1).square() - embeddings.square().sum(1)) / 2


def pair_products(embeddings: Tensor) -> Tensor:
    """Return e_i * e_j (elementwise) of all pairs of fields, shape (B, F, D) -> (B, P, D)."""
    n_fields = embeddings.shape[1]
    first, second = torch.triu_indices(n_fields, n_fields, 1, device=embeddings.device)
    return embeddings.index_select(1, first) * embeddings.index_select(1, second)


def inner_products(embeddings: Tensor) -> Tensor:
    """Return <e_i, e_j> of all pairs of fields, shape (B, F, D) -> (B, P)."""
    n_fields = embeddings.shape[1]
    first, second = torch.triu_indices(n_fields, n_fields, 1, device=embeddings.device)
    products = embeddings @ embeddings.transpose(1, 2)
    return products.flatten(1).index_select(1, first * n_fields + second)


class InteractingLayer(nn.Module):
    """Multi-head self-attention over fields with a residual connection: AutoInt's layer (arXiv:1810.11921, eq. 5-8).

    psi_mk = <Q e_m, K e_k>,   a_m = softmax(psi_m),   e'_m = ReLU(concat over heads of sum_k a_mk V e_k + R e_m).

    The defaults are the paper's form. The flags make the other published forms: ``activated`` puts a bias and a ReLU
    on all four projections, ``scaled`` divides psi by sqrt(head_dim), ``layer_norm`` normalises before or after the
    ReLU, ``identity_residual`` uses e_m in place of R e_m where the widths are equal. ``dropout`` is of the weights a.

    Shapes: (B, F, inputs) -> (B, F, W).
    """

    def __init__(
        self,
        inputs: int,
        head_dim: int,
        num_heads: int,
        *,
        dropout: float = 0.0,
        activated: bool = False,
        scaled: bool = False,
        layer_norm: Literal["before", "after"] | None = None,
        identity_residual: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.width = head_dim * num_heads
        self.dropout = Dropout(dropout)
        self.activated = activated
        self.scale = head_dim**-0.5 if scaled else 1.0
        # Query, key, value and residual in one product; each block is initialised as the matrix it stands for.
        blocks = 3 if identity_residual and inputs == self.width else 4
        self.projections = nn.Linear(inputs, blocks * self.width, bias=activated)
        for block in self.projections.weight.data.split(self.width):
            nn.init.xavier_normal_(block)
        if activated:
            nn.init.zeros_(self.projections.bias)
        self.norm_before = nn.LayerNorm(self.width) if layer_norm == "before" else nn.Identity()
        self.norm_after = nn.LayerNorm(self.width) if layer_norm == "after" else nn.Identity()

    def forward(self, embeddings: Tensor) -> Tensor:
        """Let every field attend to all fields."""
        query, key, value, *residual = self._projected(embeddings)
        attended = attend(
            self._heads(query), self._heads(key), self._heads(value), scale=self.scale, dropout=self.dropout
        )
        summed = attended.transpose(1, 2).flatten(2) + (residual[0] if residual else embeddings)
        output: Tensor = self.norm_after(self.norm_before(summed).relu())
        return output

    def attention(self, embeddings: Tensor) -> Tensor:
        """Return the weights a, without dropout, shape (B, F, inputs) -> (B, H, F, F)."""
        query, key, *_ = self._projected(embeddings)
        scores = self._heads(query) @ self._heads(key).transpose(-1, -2)
        return softmax(scores * self.scale)

    def _projected(self, embeddings: Tensor) -> tuple[Tensor, ...]:
        projected = self.projections(embeddings)
        if self.activated:
            projected = projected.relu()
        return projected.split(self.width, dim=-1)

    def _heads(self, projected: Tensor) -> Tensor:
        heads: Tensor = projected.unflatten(-1, (self.num_heads, -1))  # (B, F, W) -> (B, F, H, head_dim)
        return heads.transpose(1, 2)
