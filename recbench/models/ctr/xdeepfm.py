"""xDeepFM: a compressed interaction network, first-order weights and a perceptron over the same embeddings.

Source      Lian, Zhou, Zhang, Chen, Xie, Sun: xDeepFM. KDD 2018, arXiv:1803.05170, section 3, in the form of BARS
            (Zhu et al., SIGIR 2022, arXiv:2205.09626)
Layers      CIN: X^k_h = sum_ij W^kh_ij X^0_i * X^{k-1}_j + b^k_h, elementwise over the D dims, X^0 the embeddings
Logit       sum_i w_i + w^T [sums over the D dims of every map of every layer] + MLP([e_1; ...; e_F])
Loss        binary cross-entropy + embedding_l2 / 2 * (||w||^2 + ||E||^2)
Departures  as BARS has it, the CIN has biases and no activation, and all maps of a layer go both to the next layer and
            to the output, where the paper can halve them; without ``hidden`` it is the CIN alone with its linear part
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from recbench.models.base import Positive, Reference
from recbench.models.layers.embedding import DeepConfig, EmbeddingModel, FieldEmbedding
from recbench.models.layers.mlp import MLP, linear
from recbench.tasks.ctr import CTRBatch, FieldSpace


class XDeepFM(EmbeddingModel):
    """Compressed interaction network plus first-order weights and a perceptron."""

    class Config(DeepConfig):
        """Hyper-parameters."""

        maps: Annotated[tuple[Positive, ...], Field(min_length=1)] = (16, 16)
        """Feature maps of each layer of the CIN."""

    reference = Reference("BARS, xDeepFM_frappe_x1, mean of 5 seeds", "ctr/frappe", "auc", 0.9841, 0.0025)

    def __init__(self, config: Config, fields: FieldSpace) -> None:
        super().__init__(config, fields)
        self.embedding = FieldEmbedding(fields, config.embedding_dim)
        self.linear = FieldEmbedding(fields, 1)
        self.cin = CIN(len(fields), config.maps)
        self.output = linear(sum(config.maps), 1)
        inputs = len(fields) * config.embedding_dim
        self.mlp = (
            MLP(inputs, config.hidden, 1, dropout=config.dropout, batch_norm=config.batch_norm)
            if config.hidden
            else None
        )

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        embeddings: Tensor = self.embedding(batch)  # (B, F, D)
        logits: Tensor = self.linear(batch).sum(1) + self.output(self.cin(embeddings))
        if self.mlp is not None:
            logits = logits + self.mlp(embeddings.flatten(1))
        return logits.squeeze(1)


class CIN(nn.Module):
    """Compressed interaction network: one linear layer over the products of fields and maps, in each dim by itself.

    Shapes: (B, F, D) -> (B, sum of the numbers of maps).
    """

    def __init__(self, n_fields: int, maps: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(linear(n_fields * before, after) for before, after in pairwise([n_fields, *maps]))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Sum every map over the dims."""
        n_rows, _, dim = embeddings.shape
        # Rows and dims are one batch, so that each layer is one product of two large matrices.
        fields = embeddings.transpose(1, 2).flatten(0, 1)  # (B * D, F)
        maps, sums = fields, []
        for layer in self.layers:
            maps = layer((fields[:, :, None] * maps[:, None, :]).flatten(1))
            sums.append(maps.view(n_rows, dim, -1).sum(1))
        return torch.cat(sums, 1)
