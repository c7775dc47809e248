"""FinalNet: layers that multiply one half of their output by the other; two branches that learn from their mean.

Source      Zhu, Jia, Cai, Dai, Li, Dong, Tang, Zhang: FINAL: Factorized Interaction Layer. SIGIR 2023
Layers      [h_2; h_1] = W x + b, then [h_2; h_1 * h_2] (``concat``) or h_2 + h_1 * h_2 (``sum``), batch normalisation,
            ReLU, dropout. Gate of the first branch: x = [E; E * G], with G = V E + c over the fields, for each dim
Logit       y, or (y_1 + y_2) / 2 of two branches (``hidden2``), y_s = w_s^T block_s(x) + b_s
Loss        binary cross-entropy + embedding_l2 / 2 * ||E||^2; with two branches also the cross-entropies of y_1 and y_2
            against the final probability, through which no gradient flows
Departures  none
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from recbench.errors import UsageError
from recbench.models.base import NonNegativeFloat, Positive, Reference, Share, tunable
from recbench.models.layers.dropout import Dropout
from recbench.models.layers.embedding import EmbeddingModel, FieldEmbedding
from recbench.models.layers.mlp import linear
from recbench.tasks.ctr import CTRBatch, FieldSpace


class FinalNet(EmbeddingModel):
    """Blocks of factorised interaction layers, one or two of them."""

    class Config(EmbeddingModel.Config):
        """Hyper-parameters."""

        embedding_l2: NonNegativeFloat = tunable(1e-2, low=1e-7, high=1e-1, log=True)
        embedding_dim: Positive = tunable(10, choices=(4, 8, 10, 16, 32))
        hidden1: Annotated[tuple[Positive, ...], Field(min_length=1)] = (64, 64)
        """Widths of the first branch."""
        hidden2: tuple[Positive, ...] = (64,)
        """Widths of the second branch; none: one branch (the paper's 1B)."""
        dropout1: Share = tunable(0.1, low=0.0, high=0.6)
        dropout2: Share = tunable(0.1, low=0.0, high=0.6)
        batch_norm: bool = True
        residual: Literal["concat", "sum"] = "concat"
        """``sum`` has layers of twice as many parameters; ``concat`` wants even widths."""
        gate: bool = False
        """The first branch also sees the embeddings multiplied by a gate of each field and dim."""

        @model_validator(mode="after")
        def _halves_are_equal(self) -> Self:
            for key, widths in (("hidden1", self.hidden1), ("hidden2", self.hidden2)):
                if self.residual == "concat" and any(width % 2 for width in widths):
                    raise UsageError(f"{key}: residual = concat expects even widths, found {list(widths)}")
            return self

    reference = Reference("BARS, FinalNet_2B_frappe_x1", "ctr/frappe", "auc", 0.9857, 0.004)

    def __init__(self, config: Config, fields: FieldSpace) -> None:
        super().__init__(config, fields)
        self.embedding = FieldEmbedding(fields, config.embedding_dim)
        self.gate = FieldGate(len(fields)) if config.gate else nn.Identity()
        inputs = len(fields) * config.embedding_dim
        self.branches = nn.ModuleList([_branch(config, inputs * (1 + config.gate), config.hidden1, config.dropout1)])
        if config.hidden2:
            self.branches.append(_branch(config, inputs, config.hidden2, config.dropout2))

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        return self.branch_logits(batch).mean(1)

    def branch_logits(self, batch: CTRBatch) -> Tensor:
        """Return the logits of each branch, shape (B, 1) or (B, 2)."""
        embeddings = self.embedding(batch)
        inputs = [self.gate(embeddings).flatten(1), embeddings.flatten(1)]
        return torch.cat([branch(x) for branch, x in zip(self.branches, inputs, strict=False)], 1)

    def loss(self, batch: CTRBatch) -> Tensor:
        """Mean binary cross-entropy, the branches' against the final probability, and the penalty."""
        logits = self.branch_logits(batch)
        final = logits.mean(1)
        loss = functional.binary_cross_entropy_with_logits(final, batch.labels) + self.penalty()
        if logits.shape[1] > 1:
            teacher = final.detach().sigmoid()
            for branch in logits.unbind(1):
                loss = loss + functional.binary_cross_entropy_with_logits(branch, teacher)
        return loss


class FactorisedLayer(nn.Module):
    """Linear layer whose output is cut into h_2 and h_1; h_1 * h_2 is concatenated with h_2, or added to it.

    Shapes: (B, inputs) -> (B, outputs).
    """

    def __init__(self, inputs: int, outputs: int, residual: Literal["concat", "sum"]) -> None:
        super().__init__()
        self.residual = residual
        self.linear = linear(inputs, outputs if residual == "concat" else 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map and multiply."""
        h2, h1 = self.linear(x).chunk(2, 1)
        product = h1 * h2
        return torch.cat([h2, product], 1) if self.residual == "concat" else h2 + product


class FieldGate(nn.Module):
    """Embeddings, and behind them the embeddings times a gate that is a linear function of all fields in the same dim.

    At first every gate is 1. Shapes: (B, F, D) -> (B, 2 F, D).
    """

    def __init__(self, n_fields: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_fields, n_fields)
        nn.init.zeros_(self.linear.weight)
        nn.init.ones_(self.linear.bias)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Gate."""
        gates = self.linear(embeddings.transpose(1, 2)).transpose(1, 2)
        return torch.cat([embeddings, embeddings * gates], 1)


def _branch(config: FinalNet.Config, inputs: int, hidden: Sequence[int], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, width in pairwise([inputs, *hidden]):
        layers.append(FactorisedLayer(before, width, config.residual))
        if config.batch_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.ReLU())
        if dropout:
            layers.append(Dropout(dropout))
    return nn.Sequential(*layers, linear(hidden[-1], 1))
