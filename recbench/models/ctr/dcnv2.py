"""DCN-V2: a cross network with full matrices or low-rank experts, beside or below a multi-layer perceptron.

Source      Wang, Shivanna, Cheng, Jain, Lin, Hong, Chi: DCN V2. WWW 2021, arXiv:2008.13535, section 3.
Layers      x_{l+1} = x_0 * (W_l x_l + b_l) + x_l with x_0 = [e_1; ...; e_F]; with ``rank`` instead
            x_{l+1} = x_0 * (sum_k G_k(x_l) U_lk tanh(C_lk tanh(V_lk^T x_l)) + b_l) + x_l, G a softmax over experts k
Logit       w^T [x_L; h(x_0)] + b (parallel), w^T h(x_L) + b (stacked), w^T x_L + b (cross), with h the last hidden
            layer of an MLP
Loss        binary cross-entropy + embedding_l2 / 2 * ||E||^2
Departures  dropout in the MLP and a bias in the output layer, as in BARS; batch normalisation in the MLP as an option
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from recbench.errors import UsageError
from recbench.models.base import Positive, Reference, tunable
from recbench.models.layers.cross import CrossNetMix, CrossNetV2
from recbench.models.layers.embedding import DeepConfig, EmbeddingModel, FieldEmbedding
from recbench.models.layers.mlp import MLP, linear
from recbench.tasks.ctr import CTRBatch, FieldSpace


class DCNv2(EmbeddingModel):
    """Deep & Cross Network, version 2."""

    class Config(DeepConfig):
        """Hyper-parameters."""

        structure: Literal["parallel", "stacked", "cross"] = tunable("parallel", choices=("parallel", "stacked"))
        """The perceptron beside the cross network, after it, or none, which needs hidden=[]: BARS' CrossNetV2."""
        num_layers: Positive = tunable(3, low=1, high=8)
        """Of the cross network."""
        rank: Positive | None = None
        """Of the experts' matrices; none: no experts but full matrices."""
        experts: Positive = 4
        """Number of low-rank experts a layer; without effect where rank is none."""

        @model_validator(mode="after")
        def _perceptron_where_the_structure_has_one(self) -> Self:
            if (self.structure == "cross") == bool(self.hidden):
                expected = "no widths" if self.structure == "cross" else "at least one width"
                raise UsageError(
                    f"hidden: expected {expected} with structure={self.structure}, found {list(self.hidden)}"
                )
            return self

    reference = Reference("BARS, DCNv2_frappe_x1, mean of 5 seeds", "ctr/frappe", "auc", 0.9838, 0.0025)

    def __init__(self, config: Config, fields: FieldSpace) -> None:
        super().__init__(config, fields)
        self.embedding = FieldEmbedding(fields, config.embedding_dim)
        inputs = len(fields) * config.embedding_dim
        self.cross = (
            CrossNetV2(inputs, config.num_layers)
            if config.rank is None
            else CrossNetMix(inputs, config.num_layers, config.rank, config.experts)
        )
        # Without hidden layers it is the identity.
        self.mlp = MLP(inputs, config.hidden, None, dropout=config.dropout, batch_norm=config.batch_norm)
        width = config.hidden[-1] if config.hidden else inputs
        self.output = linear(width + inputs if config.structure == "parallel" else width, 1)

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        x0: Tensor = self.embedding(batch).flatten(1)
        crossed = self.cross(x0)
        beside = self.config.structure == "parallel"
        logits: Tensor = self.output(torch.cat([crossed, self.mlp(x0)], 1) if beside else self.mlp(crossed))
        return logits.squeeze(1)
