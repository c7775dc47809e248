"""Optimisers by name."""

import torch

from recbench.models.procedure import Phase


def make_optimizer(phase: Phase) -> torch.optim.Optimizer:
    """Return the optimiser of a phase."""
    kind = torch.optim.SGD if phase.optimizer == "sgd" else torch.optim.Adam
    return kind(phase.parameters, lr=phase.learning_rate, weight_decay=phase.weight_decay, fused=True)
