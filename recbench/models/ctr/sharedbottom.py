"""Shared-Bottom: one perceptron that all tasks share, and a tower for each task on top of it.

Source      Caruana: Multitask Learning. Machine Learning 28, 1997, in the form that Ma et al. (KDD 2018) compare with
Logit       tower_t(MLP([e_1; ...; e_F])) for each task t
Loss        sum over tasks of weight_t times binary cross-entropy, + embedding_l2 / 2 * ||E||^2
Departures  none
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from recbench.models.base import Positive, Reference, tunable
from recbench.models.layers.embedding import FieldEmbedding
from recbench.models.layers.mlp import MLP
from recbench.models.layers.multitask import MultiTaskModel, Towers
from recbench.tasks.ctr import CTRBatch, FieldSpace


class SharedBottom(MultiTaskModel):
    """Hard parameter sharing: a common perceptron below a tower for each task."""

    class Config(MultiTaskModel.Config):
        """Hyper-parameters."""

        embedding_dim: Positive = tunable(16, choices=(8, 16, 32, 64))
        hidden: tuple[Positive, ...] = (128, 64)
        """Widths of the shared layers."""

    reference = Reference("Li et al. 2025 (INFNet), table 1, click", "ctr/kuairand-pure", "auc", 0.7644, 0.004)

    def __init__(self, config: Config, fields: FieldSpace, labels: Sequence[str] = ("label",)) -> None:
        super().__init__(config, fields, labels)
        self.embedding = FieldEmbedding(fields, config.embedding_dim)
        inputs = len(fields) * config.embedding_dim
        self.bottom = MLP(inputs, config.hidden, None, dropout=config.dropout)
        shared = [inputs, *config.hidden][-1]
        self.towers = Towers(len(self.labels), shared, config.tower, config.dropout)

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B, T), or (B,) for one label."""
        shared: Tensor = self.bottom(self.embedding(batch).flatten(1))
        logits: Tensor = self.towers(shared[:, None].expand(-1, len(self.labels), -1))
        return logits
