"""Base of CTR models with several labels a row, and their towers. Shapes: B rows, T tasks (labels), E experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from recbench.errors import UsageError
from recbench.models.base import NonNegativeFloat, Positive, Share, tunable
from recbench.models.layers.embedding import EmbeddingModel
from recbench.models.layers.mlp import MLP
from recbench.tasks.ctr import CTRBatch, CTRData, FieldSpace


class MultiTaskModel(EmbeddingModel):
    """A model with a logit for each label: its loss is ``sum_t weight_t BCE_t`` and the penalty on the embeddings.

    ``forward`` gives (B, T); for one label (B,), as that has no axis of tasks in a batch either.
    """

    multi_task: ClassVar[bool] = True

    class Config(EmbeddingModel.Config):
        """Hyper-parameters every such model has."""

        task_weights: tuple[NonNegativeFloat, ...] = ()
        """Of each label's loss, in the benchmark's order; none: 1 each."""
        tower: tuple[Positive, ...] = (64,)
        """Widths of the hidden layers of each task's own perceptron."""
        dropout: Share = tunable(0.0, low=0.0, high=0.6)
        """Of all hidden units."""

    task_weights: Tensor

    def __init__(self, config: Any, fields: FieldSpace, labels: Sequence[str] = ("label",)) -> None:
        super().__init__(config, fields)
        self.labels = tuple(labels)
        weights = config.task_weights or (1.0,) * len(self.labels)
        if len(weights) != len(self.labels):
            raise UsageError(
                f"task_weights: expected {len(self.labels)} numbers, for {', '.join(self.labels)}, found {len(weights)}"
            )
        self.register_buffer("task_weights", torch.tensor(weights, dtype=torch.float32), persistent=False)

    @classmethod
    def create(cls, config: Any, data: CTRData) -> Self:
        """Make the model for the fields and the labels of the data."""
        return cls(config, data.fields, data.labels)

    def loss(self, batch: CTRBatch) -> Tensor:
        """Weighted sum of the tasks' mean binary cross-entropies, and the penalty on the embeddings."""
        losses = binary_cross_entropy_with_logits(self(batch), batch.labels, reduction="none")
        # A sum of products and no matrix product, which autocast would round.
        return (losses.view(len(batch), -1).mean(0) * self.task_weights).sum() + self.penalty()


class Towers(nn.Module):
    """A perceptron for each task, all of one shape. Shapes: (B, T, inputs) -> (B, T), or (B,) for one task."""

    def __init__(self, n_tasks: int, inputs: int, hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.towers = nn.ModuleList(MLP(inputs, hidden, 1, dropout=dropout) for _ in range(n_tasks))

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply each task's tower to what is meant for it."""
        logits = torch.cat([tower(x) for tower, x in zip(self.towers, inputs.unbind(1), strict=True)], 1)
        return logits if len(self.towers) > 1 else logits.squeeze(1)
