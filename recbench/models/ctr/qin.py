"""QIN: sparse attention of the target over the history, then a network of quadratic layers.

Source      Li et al.: Quadratic Interest Network for Multimodal Click-Through Rate Prediction. arXiv:2504.17699;
            code salmon1802/QIN, variant v9
Attention   o = W_o sum_s ReLU(<W_q t, W_k h_s> / sqrt(2 W)) W_v h_s + t for the target t and each item h_s of its
            history, in W dims; no softmax, so that an item with a negative score has no part in it
Layers      x <- x + Dropout(PReLU(BatchNorm(x * sum_r Dropout(W_r x + b_r)))), R maps r, one slope a layer
Logit       linear in the last x; the first is [context; targets; attention outputs]
Loss        binary cross-entropy + embedding_l2 / 2 * (||E||^2 + ||P||^2), P the projection of given item vectors

Of an item, t and h_s are its id, its attributes and its given vector in a learned projection, side by side. Published
for MicroLens_1M: embedding_dim=128 batch_size=8192. With num_row=4 training can diverge; the authors then advise 3.

Departures  none; defaults of embedding_dim and batch_size for smaller data
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recbench.models.base import (
    Factor,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Reference,
    Share,
    tunable,
)
from recbench.models.layers.dropout import Dropout
from recbench.models.layers.history import History, HistoryModel
from recbench.models.layers.mlp import linear
from recbench.tasks.ctr import CTRBatch, FieldSpace, ItemTable


class SparseTargetAttention(nn.Module):
    """The target reads its history with weights ReLU(score). Shapes: history of (B, W) targets -> (B, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = 2 * width
        self.query, self.key, self.value = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.output = nn.Linear(inner, width, bias=False)
        for layer in (self.query, self.key, self.value, self.output):
            nn.init.xavier_normal_(layer.weight)

    def weights(self, history: History) -> Tensor:
        """Return the weight of each value, shape (n,)."""
        # <W_q t, W_k h> = <W_k^T W_q t, h>: a product for each target instead of one for each item of its history.
        readers = self.query(history.target) @ self.key.weight
        scores = (readers[history.rows] * history.vectors()).sum(1)
        return (scores / self.key.out_features**0.5).relu()

    def forward(self, history: History) -> Tensor:
        """Add the target and what it reads; the target alone where the history is empty."""
        # For the same reason W_v is applied to the weighted sum.
        read: Tensor = self.output(self.value(history.sum(self.weights(history))))
        return read + history.target


class QuadraticLayer(nn.Module):
    """``x + Dropout(PReLU(BatchNorm(x * sum_r Dropout(W_r x + b_r))))``. Shapes: (B, width) -> (B, width)."""

    def __init__(self, width: int, num_row: int, dropout: float) -> None:
        super().__init__()
        self.num_row = num_row
        self.linear = linear(width, num_row * width)
        self.norm = nn.BatchNorm1d(width)
        self.activation = nn.PReLU()
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        output: Tensor = x + self.dropout(self.activation(self.norm(x * self.factor(x))))
        return output

    def factor(self, x: Tensor) -> Tensor:
        """Return the sum of the affine maps; without dropout it is one map, whose weights are the sums of theirs."""
        shape = (self.num_row, -1)
        if self.training and self.dropout.p:
            factor: Tensor = self.dropout(self.linear(x)).unflatten(1, shape).sum(1)
            return factor
        weight, bias = (parameter.unflatten(0, shape).sum(0) for parameter in (self.linear.weight, self.linear.bias))
        return functional.linear(x, weight, bias)


class QIN(HistoryModel):
    """Quadratic Interest Network: sparse target attention and quadratic layers."""

    class Config(HistoryModel.Config):
        """Hyper-parameters."""

        learning_rate: PositiveFloat = tunable(2e-3, low=1e-4, high=1e-2, log=True)
        embedding_l2: NonNegativeFloat = tunable(2e-4, low=1e-7, high=1e-1, log=True)
        patience: Positive = 8
        lr_decay: Factor = 0.5
        max_norm: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = 10.0
        num_layers: Positive = tunable(4, choices=(2, 3, 4))
        num_row: Positive = tunable(4, choices=(3, 4))
        """R, the number of affine maps that a layer multiplies its input by the sum of."""
        dropout: Share = tunable(0.1, low=0.0, high=0.6)
        """Of the affine maps and of the layers' outputs."""

    reference = Reference(
        "salmon1802/QIN, log of num_row=4, validation part, one seed", "ctr/microlens-1m", "auc", 0.9701, 0.004
    )

    def __init__(self, config: Config, fields: FieldSpace, items: ItemTable | None = None) -> None:
        super().__init__(config, fields, items)
        self.attention = nn.ModuleList(SparseTargetAttention(width) for width in self.histories.widths)
        width = self.histories.width + sum(self.histories.widths)
        self.layers = nn.Sequential(
            *(QuadraticLayer(width, config.num_row, config.dropout) for _ in range(config.num_layers))
        )
        self.output = linear(width, 1)

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        features, histories = self.histories(batch)
        read = [attend(history) for attend, history in zip(self.attention, histories, strict=True)]
        logits: Tensor = self.output(self.layers(torch.cat([features, *read], 1)))
        return logits.squeeze(1)
