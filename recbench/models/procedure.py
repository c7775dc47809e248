"""Procedures: how a model is trained, as stages of phases and sweeps that the trainer runs.

Plain training is one stage with one phase. Alternating training (KGAT, DR-JL) is one stage with several phases, each
with its own batches, loss, parameters and optimiser. Pre-training or search and retraining are several stages: a
procedure is a generator, and what it does between two ``yield`` it does when the stage before has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.nn import Parameter

from recbench.tasks.batches import BatchSource

Optimizer = Literal["adam", "sgd", "lazy-adam", "rowwise-adagrad"]


@dataclass(frozen=True)
class Phase:
    """Gradient steps: every batch of ``batches`` once, each lowering ``loss`` in ``parameters``."""

    name: str
    batches: BatchSource[Any]
    loss: Callable[[Any], Tensor]
    """Mean loss of a batch, a scalar."""
    parameters: Sequence[Parameter] | Sequence[dict[str, Any]]
    """Parameters, or groups of them with settings of their own, as torch's optimisers take them."""
    learning_rate: float
    weight_decay: float = 0.0
    """Of the optimiser: added to the gradient as ``weight_decay * parameter``."""
    optimizer: Optimizer = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    """Of Adam: how slowly the means of gradients and of their squares change."""
    sparse: Sequence[Parameter] = ()
    """Those of the parameters that a lazy optimiser updates by rows: tables whose gradients are sparse."""
    sparse_decay: float = 0.0
    """Weight decay of the rows looked up."""
    max_norm: float | None = None
    """The gradient of all parameters together is scaled down to this norm."""
    project: Callable[[], None] | None = None
    """Runs after every step, without gradients: brings parameters back to where they are allowed."""


@dataclass(frozen=True)
class Sweep:
    """A step without gradients: a closed-form solution, an alternating-least-squares sweep, a refreshed attention."""

    name: str
    run: Callable[[], None]


@dataclass(frozen=True)
class Stage:
    """Epochs of steps, ended by early stopping; the best weights on validation pass on to the next stage."""

    name: str
    steps: Sequence[Phase | Sweep]
    epochs: int = 1
    patience: int | None = None
    """Epochs without a better validation value before stopping; ``None``: all epochs, the last weights are kept."""
    lr_decay: float = 1.0
    """After an epoch without a better validation value the learning rates are multiplied by it, down to 1e-6."""
    alternate: bool = False
    """Take one batch of each phase in turn, instead of all of one phase after the other."""
