"""ARM-Net+: ARM-Net and a multi-layer perceptron with embeddings of its own, in a weighted sum.

Source      Cai, Zheng, Chen, Jagadish, Ooi, Zhang: ARM-Net. SIGMOD 2021, arXiv:2107.01830, equation 10. The paper's AUC
            is a mean of AUCs of batches (its released code), here it is one of all rows
Logit       w_1 ARMNet + w_2 MLP([e'_1; ...; e'_F]) + b; w = (0.5, 0.5), b = 0 before training
Loss        binary cross-entropy + embedding_l2 / 2 * (||E||^2 + ||E'||^2)
Departures  ARM-Net's
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from recbench.models.base import Positive, PositiveFloat, Reference, tunable
from recbench.models.ctr.armnet import ARMNet
from recbench.tasks.ctr import CTRBatch, FieldSpace


class ARMNetPlus(ARMNet):
    """ARM-Net in a weighted sum with a perceptron; both perceptrons have the same widths."""

    class Config(ARMNet.Config):
        """Hyper-parameters; the defaults of the layers are the paper's for Frappe."""

        learning_rate: PositiveFloat = tunable(3e-3, low=1e-4, high=1e-2, log=True)
        num_heads: Positive = tunable(4, choices=(1, 4, 8))
        num_neurons: Positive = tunable(4, choices=(4, 8, 16, 32))
        alpha: Annotated[float, Field(ge=1, allow_inf_nan=False)] = tunable(1.5, choices=(1.5, 2.0))

    reference = Reference("Cai et al. 2021, table 2 (a mean of AUCs of batches)", "ctr/frappe", "auc", 0.9800, 0.005)

    def __init__(self, config: Config, fields: FieldSpace) -> None:
        super().__init__(config, fields)
        self.deep_embedding = self._table()
        self.deep = self._perceptron(len(fields) * config.embedding_dim)
        self.ensemble = nn.Linear(2, 1)
        nn.init.constant_(self.ensemble.weight, 0.5)
        nn.init.zeros_(self.ensemble.bias)

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        deep: Tensor = self.deep(self.deep_embedding(batch).flatten(1)).squeeze(1)
        logits: Tensor = self.ensemble(torch.stack([super().forward(batch), deep], 1)).squeeze(1)
        return logits
