"""MaskNet: hidden layers whose inputs are multiplied by masks that depend on the row, in series or side by side.

Source      Wang, She, Zhang: MaskNet. DLP-KDD 2021, arXiv:2102.07619
Layers      m = W_b ReLU(W_a x_0 + b_a) + b_b, h <- ReLU(LN(W (m * h))), x_0 = [e_1; ...; e_F] in every block
Logit       ``serial``: w^T h + b after the last block, of which the first has h = x_0; ``parallel``: an MLP of the
            outputs of all blocks, each with h = x_0. ``embedding_norm``: h = [LN(e_1); ...; LN(e_F)] instead of x_0
Loss        binary cross-entropy + embedding_l2 / 2 * ||E||^2
Departures  dropout after each block and hidden layer, as in FuxiCTR
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recbench.models.base import NonNegativeFloat, Positive, PositiveFloat, Reference, Share, tunable
from recbench.models.layers.dropout import Dropout
from recbench.models.layers.embedding import EmbeddingModel, FieldEmbedding
from recbench.models.layers.mlp import MLP, linear
from recbench.tasks.ctr import CTRBatch, FieldSpace


class MaskNet(EmbeddingModel):
    """Hidden layers on masked embeddings."""

    class Config(EmbeddingModel.Config):
        """Hyper-parameters."""

        embedding_l2: NonNegativeFloat = tunable(1e-2, low=1e-7, high=1e-1, log=True)
        embedding_dim: Positive = tunable(10, choices=(4, 8, 10, 16, 32))
        arrangement: Literal["serial", "parallel"] = "parallel"
        hidden: Annotated[tuple[Positive, ...], Field(min_length=1)] = (64, 64)
        """Widths of the serial blocks, or of the perceptron on the parallel blocks."""
        num_blocks: Positive = tunable(3, choices=(1, 2, 3, 4, 6))
        """Parallel blocks."""
        block_dim: Positive = 64
        """Width of a parallel block."""
        reduction_ratio: PositiveFloat = tunable(1.0, low=0.1, high=4.0, log=True)
        """Hidden width of a mask over the width of what it masks; at least one unit."""
        dropout: Share = tunable(0.1, low=0.0, high=0.6)
        layer_norm: bool = True
        """In the blocks."""
        embedding_norm: bool = True

    reference = Reference("BARS, MaskNet_frappe_x1", "ctr/frappe", "auc", 0.9837, 0.004)

    def __init__(self, config: Config, fields: FieldSpace) -> None:
        super().__init__(config, fields)
        self.embedding = FieldEmbedding(fields, config.embedding_dim)
        self.norm = FieldNorm(len(fields), config.embedding_dim) if config.embedding_norm else nn.Identity()
        inputs = len(fields) * config.embedding_dim
        self.serial = config.arrangement == "serial"
        if self.serial:
            shapes = list(pairwise([inputs, *config.hidden]))
            self.head: nn.Module = linear(config.hidden[-1], 1)
        else:
            shapes = [(inputs, config.block_dim)] * config.num_blocks
            self.head = MLP(config.num_blocks * config.block_dim, config.hidden, 1, dropout=config.dropout)
        self.blocks = nn.ModuleList(
            MaskBlock(
                inputs, width, outputs, config.reduction_ratio, dropout=config.dropout, layer_norm=config.layer_norm
            )
            for width, outputs in shapes
        )

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        embeddings = self.embedding(batch)  # (B, F, D)
        x0, hidden = embeddings.flatten(1), self.norm(embeddings).flatten(1)
        if self.serial:
            for block in self.blocks:
                hidden = block(x0, hidden)
        else:
            hidden = torch.cat([block(x0, hidden) for block in self.blocks], 1)
        logits: Tensor = self.head(hidden).squeeze(1)
        return logits


class MaskBlock(nn.Module):
    """A hidden layer of ``width`` inputs that are first multiplied by a mask, which a perceptron makes of x0.

    Shapes: x0 (B, inputs) and hidden (B, width) -> (B, outputs).
    """

    def __init__(
        self, inputs: int, width: int, outputs: int, ratio: float, *, dropout: float, layer_norm: bool
    ) -> None:
        super().__init__()
        self.mask = MLP(inputs, [max(1, int(ratio * width))], width)
        weights = nn.Linear(width, outputs, bias=False)
        nn.init.xavier_normal_(weights.weight)
        norm = nn.LayerNorm(outputs) if layer_norm else nn.Identity()
        self.layer = nn.Sequential(weights, norm, nn.ReLU(), Dropout(dropout))

    def forward(self, x0: Tensor, hidden: Tensor) -> Tensor:
        """Mask and map."""
        output: Tensor = self.layer(self.mask(x0) * hidden)
        return output


class FieldNorm(nn.Module):
    """Layer normalisation of each field's vector, with a scale and a shift of its own for each field.

    Shapes: (B, F, D) -> (B, F, D).
    """

    def __init__(self, n_fields: int, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(n_fields, dim))
        self.shift = nn.Parameter(torch.zeros(n_fields, dim))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Normalise."""
        return functional.layer_norm(embeddings, embeddings.shape[-1:]) * self.scale + self.shift
