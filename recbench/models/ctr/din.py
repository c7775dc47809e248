"""DIN: the history, weighted by an attention network that compares each of its items with the target.

Source      Zhou et al.: Deep Interest Network for Click-Through Rate Prediction. KDD 2018, arXiv:1706.06978
Interest    sum_s a_s h_s,  a_s = MLP([t; h_s; t - h_s; t * h_s]) for the target t and each item h_s of its history
Dice        s (p + (1 - p) alpha),  p = sigmoid of s normalised by the mean and variance of the batch; alpha learned
Logit       MLP([context; targets; interests]), the context being the fields that neither is a target's or a history
Loss        binary cross-entropy + embedding_l2 / 2 * ||E||^2

Every field in order is read by the field whose vocabulary it has, each with an attention network of its own; where
that field is the item, t and h_s are its id, its attributes and its given vector in a learned projection, side by side.

Departures  the attention's inputs are t - h and t * h as in FuxiCTR, where the paper draws an outer product; batch
            statistics count real items only, where FuxiCTR counts the padding too; no mini-batch aware regularisation
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbench.models.base import Positive, Reference, Share, tunable
from recbench.models.explanation import Explanation, Table
from recbench.models.layers.history import History, HistoryModel
from recbench.models.layers.mlp import MLP
from recbench.models.layers.sample import sample_rows
from recbench.tasks.ctr import CTRBatch, CTRData, FieldSpace, ItemTable

Activation = Literal["dice", "relu"]


class Dice(nn.BatchNorm1d):
    """A PReLU whose kink lies where the batch is. Shapes: (n, width) -> (n, width)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-8, affine=False)
        self.alpha = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by the batch in training, where it has more than one row, and by running statistics otherwise."""
        from_batch = self.training and len(x) > 1
        normalised = functional.batch_norm(
            x, self.running_mean, self.running_var, training=from_batch, momentum=0.1, eps=self.eps
        )
        return x * torch.lerp(self.alpha, torch.ones_like(self.alpha), normalised.sigmoid())


ACTIVATIONS: dict[Activation, Callable[[int], nn.Module]] = {"dice": Dice, "relu": lambda width: nn.ReLU()}


class DIN(HistoryModel):
    """Deep Interest Network: attention of the target over the history, then a multi-layer perceptron."""

    class Config(HistoryModel.Config):
        """Hyper-parameters."""

        attention_hidden: tuple[Positive, ...] = (64,)
        attention_activation: Activation = "dice"
        attention_dropout: Share = 0.0
        """Of the hidden units of the attention network."""
        softmax: bool = False
        """Weights of a history sum to 1; the paper leaves them free, so that they tell how strong an interest is."""
        hidden: tuple[Positive, ...] = (200, 80)
        activation: Activation = "dice"
        dropout: Share = tunable(0.1, low=0.0, high=0.6)
        """Of the hidden units of the MLP."""
        batch_norm: bool = False

    reference = Reference("BARS, DIN_amazonelectronics_x1", "ctr/amazonelectronics-x1", "auc", 0.8860, 0.004)

    def __init__(self, config: Config, fields: FieldSpace, items: ItemTable | None = None) -> None:
        super().__init__(config, fields, items)
        self.attention = nn.ModuleList(
            MLP(
                4 * width,
                config.attention_hidden,
                1,
                dropout=config.attention_dropout,
                activation=ACTIVATIONS[config.attention_activation],
            )
            for width in self.histories.widths
        )
        self.mlp = MLP(
            self.histories.width + sum(self.histories.widths),
            config.hidden,
            1,
            dropout=config.dropout,
            batch_norm=config.batch_norm,
            activation=ACTIVATIONS[config.activation],
        )

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        features, histories = self.histories(batch)
        interests = [history.sum(weights) for history, weights in zip(histories, self.weights(histories), strict=True)]
        logits: Tensor = self.mlp(torch.cat([features, *interests], 1))
        return logits.squeeze(1)

    def weights(self, histories: list[History]) -> list[Tensor]:
        """Return the attention weights of each history's values, shapes (n,)."""
        weights = []
        for history, attention in zip(histories, self.attention, strict=True):
            target, vectors = history.target[history.rows], history.vectors()
            scores = attention(torch.cat([target, vectors, target - vectors, target * vectors], 1)).squeeze(1)
            weights.append(history.softmax(scores) if self.config.softmax else scores)
        return weights

    @torch.no_grad()
    def explain(self, data: CTRData) -> Explanation:
        """Mean attention weight by position in the history, the newest first."""
        names = [name for names in self.histories.targets.values() for name in names]
        longest = max(field.sequence or 0 for field in self.fields.sequences)
        counts, totals = torch.zeros(2, len(names), longest, dtype=torch.float64)
        for batch in sample_rows(data):
            _, histories = self.histories(batch)
            for number, (history, weights) in enumerate(zip(histories, self.weights(histories), strict=True)):
                ends = history.places.offsets[1:][history.rows]
                back = ends - 1 - torch.arange(len(ends), device=ends.device)
                counts[number] += torch.bincount(back, minlength=longest).cpu()
                totals[number] += torch.bincount(back, weights.double(), minlength=longest).cpu()
        parts = []
        for name, count, total in zip(names, counts, totals, strict=True):
            reached = int((count > 0).sum())
            columns = {
                "items back": [str(position + 1) for position in range(reached)],
                "histories": count[:reached].tolist(),
                "mean weight": (total[:reached] / count[:reached]).tolist(),
            }
            parts.append(Table(f"attention to {name}", columns))
        return Explanation(parts=parts)
