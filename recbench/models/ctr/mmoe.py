"""MMoE: experts that all tasks share, mixed for each task by a gate of its own.

Source      Ma, Zhao, Yi, Chen, Hong, Chi: Modeling Task Relationships in Multi-task Learning with Multi-gate
            Mixture-of-Experts. KDD 2018
Logit       tower_t(sum_k g_tk(x) expert_k(x)),  g_t(x) = softmax(W_t x),  x = [e_1; ...; e_F]
Loss        sum over tasks of weight_t times binary cross-entropy, + embedding_l2 / 2 * ||E||^2
Departures  none
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recbench.models.base import Positive, Reference, tunable
from recbench.models.explanation import Explanation, Matrix
from recbench.models.layers.embedding import FieldEmbedding
from recbench.models.layers.mlp import MLP
from recbench.models.layers.multitask import MultiTaskModel, Towers
from recbench.models.layers.sample import sample_rows
from recbench.tasks.ctr import CTRBatch, CTRData, FieldSpace


class MMoE(MultiTaskModel):
    """Multi-gate mixture of experts: each task weighs the shared experts by a softmax of its inputs."""

    class Config(MultiTaskModel.Config):
        """Hyper-parameters."""

        embedding_dim: Positive = tunable(16, choices=(8, 16, 32, 64))
        num_experts: Positive = tunable(8, choices=(2, 4, 8))
        hidden: tuple[Positive, ...] = (64,)
        """Widths of the layers of each expert."""

    reference = Reference("Li et al. 2025 (INFNet), table 1, click", "ctr/kuairand-pure", "auc", 0.7639, 0.004)

    def __init__(self, config: Config, fields: FieldSpace, labels: Sequence[str] = ("label",)) -> None:
        super().__init__(config, fields, labels)
        self.embedding = FieldEmbedding(fields, config.embedding_dim)
        inputs = len(fields) * config.embedding_dim
        self.experts = nn.ModuleList(
            MLP(inputs, config.hidden, None, dropout=config.dropout) for _ in range(config.num_experts)
        )
        self.gates = nn.Parameter(torch.empty(len(self.labels), config.num_experts, inputs))
        for gate in self.gates.data:
            nn.init.xavier_normal_(gate)
        self.towers = Towers(len(self.labels), [inputs, *config.hidden][-1], config.tower, config.dropout)

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B, T), or (B,) for one label."""
        inputs = self.embedding(batch).flatten(1)
        experts = torch.stack([expert(inputs) for expert in self.experts], 1)  # (B, E, H)
        logits: Tensor = self.towers(self.shares(inputs) @ experts)
        return logits

    def shares(self, inputs: Tensor) -> Tensor:
        """Return the share of each expert in each task's input, shape (B, F * D) -> (B, T, E)."""
        return (inputs @ self.gates.flatten(0, 1).T).unflatten(1, self.gates.shape[:2]).softmax(2)

    @torch.no_grad()
    def explain(self, data: CTRData) -> Explanation:
        """Mean share of each expert in each task."""
        shares = torch.cat([self.shares(self.embedding(batch).flatten(1)) for batch in sample_rows(data)])
        experts = [f"expert {number}" for number in range(1, len(self.experts) + 1)]
        return Explanation(parts=[Matrix("mean gate", self.labels, experts, shares.mean(0).tolist())])
