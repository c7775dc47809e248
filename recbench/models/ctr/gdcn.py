"""GDCN: a cross network whose layers have a gate for what they add, on a perceptron or beside it.

Source      Wang, Gu, Li, Lu, Zhang, Gu: Towards Deeper, Lighter and Interpretable Cross Network for CTR Prediction.
            CIKM 2023, arXiv:2311.04635, and the authors' code
Layers      x_{l+1} = x_0 * (W_l x_l + b_l) * sigmoid(G_l x_l) + x_l, x_0 = [e_1; ...; e_F]
Logit       ``parallel`` (GDCN-P): w^T [x_L; hidden layers of x_0] + b; ``stacked`` (GDCN-S): MLP(x_L)
Loss        binary cross-entropy + embedding_l2 / 2 * ||E||^2
Departures  Xavier-normal matrices, as in FuxiCTR; without the paper's search for the width of each field
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from recbench.models.base import NonNegativeFloat, Positive, Share, tunable
from recbench.models.layers.embedding import EmbeddingModel, FieldEmbedding
from recbench.models.layers.mlp import MLP, linear
from recbench.tasks.ctr import CTRBatch, FieldSpace


class GDCN(EmbeddingModel):
    """Gated cross network with a perceptron."""

    class Config(EmbeddingModel.Config):
        """Hyper-parameters."""

        embedding_l2: NonNegativeFloat = tunable(1e-2, low=1e-7, high=1e-1, log=True)
        embedding_dim: Positive = tunable(10, choices=(4, 8, 10, 16, 32))
        structure: Literal["parallel", "stacked"] = tunable("parallel", choices=("parallel", "stacked"))
        num_layers: Positive = tunable(3, choices=(1, 2, 3, 4, 5))
        """Gated cross layers."""
        hidden: Annotated[tuple[Positive, ...], Field(min_length=1)] = (64, 64)
        dropout: Share = tunable(0.2, low=0.0, high=0.6)
        """Of the hidden units of the perceptron."""
        batch_norm: bool = False

    def __init__(self, config: Config, fields: FieldSpace) -> None:
        super().__init__(config, fields)
        self.embedding = FieldEmbedding(fields, config.embedding_dim)
        inputs = len(fields) * config.embedding_dim
        self.cross = GatedCrossNet(inputs, config.num_layers)
        self.mlp = MLP(inputs, config.hidden, None, dropout=config.dropout, batch_norm=config.batch_norm)
        self.parallel = config.structure == "parallel"
        self.output = linear(config.hidden[-1] + inputs * self.parallel, 1)

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        x0 = self.embedding(batch).flatten(1)
        crossed = self.cross(x0)
        features = torch.cat([crossed, self.mlp(x0)], 1) if self.parallel else self.mlp(crossed)
        logits: Tensor = self.output(features).squeeze(1)
        return logits


class GatedCrossNet(nn.Module):
    """Cross layers with gates. Shapes: (B, N) -> (B, N)."""

    def __init__(self, width: int, num_layers: int) -> None:
        super().__init__()
        # W_l and G_l in one product; each is initialised as the matrix it is.
        layers = [nn.Linear(width, 2 * width, bias=False) for _ in range(num_layers)]
        for layer in layers:
            for block in layer.weight.data.split(width):
                nn.init.xavier_normal_(block)
        self.layers = nn.ModuleList(layers)
        self.bias = nn.Parameter(torch.rand(num_layers, width))

    def forward(self, x0: Tensor) -> Tensor:
        """Apply all layers."""
        x = x0
        for layer, bias in zip(self.layers, self.bias.unbind(), strict=True):
            crossed, gate = layer(x).chunk(2, 1)
            x = torch.addcmul(x, x0 * (crossed + bias), gate.sigmoid())
        return x
