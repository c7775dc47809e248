"""MLCC: multi-level compression cross network; each row makes the weights that cross its own fields.

Source      Yu, Zhou, Xia, Zhao, Wu, Zhao, Kong: Compress, Cross and Scale. arXiv:2602.12041, 2026; the
            equations are the released code's, its numbers are of splits, hashing and one epoch of its own
Global      g = A [e_1; ...; e_F], cut into matrices W_1 (E, m_1), W_2 (m_1, m_2), ... of each head
Crossing    h_1 = e W_1, h_2 = h_1 W_2, ... for each field and head, linear: of degree l + 1 in the embeddings
Local       y_f = R_f [h of all heads; e_f], with a matrix for each field
Gate        a = sigmoid(Q normalise(ReLU(P mean(y)))), one number a field, as in a squeeze-and-excitation network
Logit       MLP([a_1 y_1; ...; a_F y_F])
Loss        binary cross-entropy + embedding_l2 / 2 * ||E||^2
Departures  one table of the data's own ids, Xavier-uniform over all of it (code: a table of 10^6 hashed rows a field);
            embedding_l2 = 0 is the code's; ``activated`` puts a ReLU between the dynamic layers, which the code has not
"""

# Shapes: B rows, F fields, C channels, E embedding_dim of a channel, H heads, M widths of what is kept of the layers.

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from recbench.models.base import NonNegative, Positive, Reference, Share, parameter_count, tunable
from recbench.models.explanation import Explanation, Table
from recbench.models.layers.embedding import EmbeddingModel, FieldEmbedding
from recbench.models.layers.mlp import MLP, linear
from recbench.tasks.ctr import CTRBatch, CTRData, FieldSpace


class DynamicCrossing(nn.Module):
    """Crosses the fields of each channel by layers whose weights are a linear map of the channel's embeddings.

    The last layer's output is kept, and those of the layers (from 1) in ``kept``.

    Shapes: (B, F, C, E) -> (B, F, C, H M).
    """

    def __init__(
        self, n_fields: int, n_channels: int, dims: Sequence[int], num_heads: int, kept: Sequence[int], activated: bool
    ) -> None:
        super().__init__()
        self.dims = list(pairwise(dims))
        self.num_heads = num_heads
        self.kept = {*kept, len(self.dims)}
        self.activated = activated
        self.width = num_heads * sum(dims[layer] for layer in self.kept)
        self.sizes = [num_heads * inputs * outputs for inputs, outputs in self.dims]
        self.compression = nn.Parameter(torch.empty(n_channels, n_fields * dims[0], sum(self.sizes)))
        for channel in self.compression.data:
            nn.init.xavier_normal_(channel)

    def weights(self, embeddings: Tensor) -> list[Tensor]:
        """Return the matrices of the layers: (C, B, E, H m) of the first, (C, B, H, inputs, outputs) of the others."""
        channels = embeddings.permute(2, 0, 1, 3).flatten(2)  # (C, B, F E)
        first, *others = (channels @ self.compression).split(self.sizes, dim=-1)
        shapes = [(self.num_heads, *dims) for dims in self.dims[1:]]
        return [
            first.unflatten(-1, (self.dims[0][0], -1)),
            *(chunk.unflatten(-1, shape) for chunk, shape in zip(others, shapes, strict=True)),
        ]

    def cross(self, embeddings: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
        """Return the output of every layer, each (C, B, F, H, outputs)."""
        first, *others = weights
        hidden = (embeddings.permute(2, 0, 1, 3) @ first).unflatten(-1, (self.num_heads, -1))
        outputs = [hidden]
        for weight in others:
            hidden = torch.einsum("cbfhi,cbhio->cbfho", hidden.relu() if self.activated else hidden, weight)
            outputs.append(hidden)
        return outputs

    def forward(self, embeddings: Tensor) -> Tensor:
        """Make the weights and cross."""
        outputs = self.cross(embeddings, self.weights(embeddings))
        kept = [output for layer, output in enumerate(outputs, 1) if layer in self.kept]
        return torch.cat(kept, -1).flatten(3).permute(1, 2, 0, 3)


class FieldGate(nn.Module):
    """Weighs the fields by a number in (0, 1) each, computed from the means of all. Shapes: (B, F, D) -> (B, F, D)."""

    def __init__(self, n_fields: int) -> None:
        super().__init__()
        hidden = max(1, n_fields // 2)
        self.layers = nn.Sequential(
            linear(n_fields, hidden),
            nn.ReLU(),
            nn.LayerNorm(hidden, elementwise_affine=False),
            linear(hidden, n_fields),
            nn.Sigmoid(),
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """Scale the fields."""
        gates: Tensor = self.layers(embeddings.mean(2))
        return gates.unsqueeze(2) * embeddings


class MLCC(EmbeddingModel):
    """Compression to dynamic weights, crossing by them, compression of each field, and a perceptron."""

    class Config(EmbeddingModel.Config):
        """Hyper-parameters; the defaults of the layers are the released code's for Criteo and Avazu."""

        embedding_dim: Positive = tunable(16, choices=(8, 16, 32))
        """Of a channel."""
        num_heads: Positive = tunable(4, choices=(2, 4, 8))
        dynamic: Annotated[tuple[Positive, ...], Field(min_length=1)] = (4, 1)
        """Widths of the dynamic layers."""
        keep: tuple[NonNegative, ...] = (0, 1)
        """What is compressed beside the last dynamic layer's output: 0 the embeddings, 1 the first layer's, ..."""
        compressed_dim: Positive = 8
        """Width of a field after local compression."""
        activated: bool = False
        """ReLU between dynamic layers."""
        hidden: tuple[Positive, ...] = (256, 128, 64, 32)
        dropout: Share = tunable(0.2, low=0.0, high=0.6)
        """Of the hidden units of the MLP."""

        @field_validator("keep")
        @classmethod
        def _names_layers(cls, keep: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
            n_layers = len(info.data.get("dynamic", keep))
            if any(layer >= n_layers for layer in keep) or len(set(keep)) < len(keep):
                raise ValueError(f"expected different numbers below {n_layers}, the number of dynamic layers")
            return keep

    reference = Reference("Yu et al. 2026, released code, Criteo", "ctr/criteo-mlcc", "auc", 0.8020, 0.004)

    def __init__(self, config: Config, fields: FieldSpace) -> None:
        super().__init__(config, fields)
        n_fields, n_channels = len(fields), self._n_channels()
        total = n_channels * config.embedding_dim
        self.embedding = FieldEmbedding(fields, total)
        self.crossing = DynamicCrossing(
            n_fields,
            n_channels,
            [config.embedding_dim, *config.dynamic],
            config.num_heads,
            [layer for layer in config.keep if layer],
            config.activated,
        )
        width = n_channels * self.crossing.width + (total if 0 in config.keep else 0)
        self.local = nn.Parameter(nn.init.xavier_normal_(torch.empty(n_fields, width, config.compressed_dim)))
        self.gate = FieldGate(n_fields)
        self.mlp = MLP(n_fields * config.compressed_dim, config.hidden, 1, dropout=config.dropout)
        for module in self.modules():
            if isinstance(module, nn.Linear | FieldEmbedding):
                nn.init.xavier_uniform_(module.weight)

    def _n_channels(self) -> int:
        return 1

    def collect(self, embeddings: Tensor) -> Tensor:
        """Return what is kept of all channels, then the embeddings: (B, F, C E) -> (B, F, width)."""
        crossed: Tensor = self.crossing(embeddings.unflatten(2, (self._n_channels(), -1))).flatten(2)
        return torch.cat([crossed, embeddings], 2) if 0 in self.config.keep else crossed

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        compressed = torch.einsum("bfq,fqd->bfd", self.collect(self.embedding(batch)), self.local)
        logits: Tensor = self.mlp(self.gate(compressed).flatten(1)).squeeze(1)
        return logits

    def explain(self, data: CTRData) -> Explanation:
        """Say how wide each part's output is, and how many parameters it has."""
        widths_and_counts = {
            "embedding, a field": (self.embedding.weight.shape[1], self.embedding.weight.numel()),
            "global compression, a channel": (self.crossing.compression.shape[2], self.crossing.compression.numel()),
            "crossed and kept, a field": (self.local.shape[1], 0),
            "local compression, a field": (self.local.shape[2], self.local.numel()),
            "gate": (len(self.fields), parameter_count(self.gate)),
            "perceptron": (1, parameter_count(self.mlp)),
        }
        dense = parameter_count(self) - self.embedding.weight.numel()
        return Explanation(
            figures={"channels": self._n_channels(), "parameters without the table": dense},
            parts=[
                Table(
                    "Sizes",
                    {
                        "part": list(widths_and_counts),
                        "width": [width for width, _ in widths_and_counts.values()],
                        "parameters": [count for _, count in widths_and_counts.values()],
                    },
                )
            ],
        )
