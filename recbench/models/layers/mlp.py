"""Multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn

from recbench.models.layers.dropout import Dropout


def linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer with Xavier-normal weights and zero bias (Glorot & Bengio, AISTATS 2010, eq. 12)."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_normal_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class MLP(nn.Sequential):
    """Hidden layers (linear, batch normalisation if wanted, activation, dropout), then a linear layer.

    ``outputs`` None: no linear layer, the last hidden one is the output. ``activation`` makes the module that follows
    a layer of the given width.

    Shapes: (B, inputs) -> (B, outputs).
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int | None,
        *,
        dropout: float = 0.0,
        batch_norm: bool = False,
        activation: Callable[[int], nn.Module] = lambda width: nn.ReLU(),
    ) -> None:
        layers: list[nn.Module] = []
        for before, width in pairwise([inputs, *hidden]):
            layers.append(linear(before, width))
            if batch_norm:
                layers.append(nn.BatchNorm1d(width))
            layers.append(activation(width))
            if dropout:
                layers.append(Dropout(dropout))
        if outputs is not None:
            layers.append(linear([inputs, *hidden][-1], outputs))
        super().__init__(*layers)
