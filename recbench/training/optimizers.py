"""Optimisers by name: torch's for dense gradients, and lazy ones for tables of which a batch touches few rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from recbench.models.procedure import Phase


class Optimizers:
    """Several optimisers that step together, each with parameters of its own."""

    def __init__(self, members: Sequence[torch.optim.Optimizer]) -> None:
        self._members = members

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all members."""
        return [group for member in self._members for group in member.param_groups]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for member in self._members:
            member.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Make one step of each."""
        for member in self._members:
            member.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states by the members' positions."""
        return {str(number): member.state_dict() for number, member in enumerate(self._members)}

    def load_state_dict(self, states: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        for number, member in enumerate(self._members):
            member.load_state_dict(states[str(number)])


def make_optimizer(phase: Phase) -> Optimizers:
    """Return the optimiser of a phase.

    A lazy one is for the parameters in ``phase.sparse``, which get sparse gradients; all others have Adam.
    """
    settings: dict[str, Any] = {"lr": phase.learning_rate, "weight_decay": phase.weight_decay}
    if phase.optimizer == "sgd":
        return Optimizers([torch.optim.SGD(phase.parameters, **settings, fused=True)])
    if phase.optimizer == "adam":
        return Optimizers([torch.optim.Adam(phase.parameters, **settings, betas=phase.betas, fused=True)])
    lazy = LazyAdam if phase.optimizer == "lazy-adam" else RowwiseAdagrad
    if any(isinstance(group, dict) for group in phase.parameters):
        raise TypeError(f"phase '{phase.name}': a lazy optimiser takes parameters, found groups of them")
    tables = set(phase.sparse)
    dense = [
        parameter for parameter in phase.parameters if isinstance(parameter, Parameter) and parameter not in tables
    ]
    members: list[torch.optim.Optimizer] = [lazy(phase.sparse, phase.learning_rate, phase.sparse_decay)]
    if dense:
        members.append(torch.optim.Adam(dense, **settings, fused=True))
    return Optimizers(members)


class _Lazy(torch.optim.Optimizer, ABC):
    """Updates only the rows of a table (N, D) that the batch has looked up; decay, too, falls on them alone."""

    def __init__(self, parameters: Sequence[Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the rows that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient = parameter.grad.coalesce()
                rows = gradient.indices()[0]
                values = gradient.values()
                if group["weight_decay"]:
                    values = values.add(parameter[rows], alpha=group["weight_decay"])
                update = self.update(rows, values, parameter)
                parameter.index_add_(0, rows, update, alpha=-group["lr"])

    @abstractmethod
    def update(self, rows: Tensor, gradient: Tensor, parameter: Parameter) -> Tensor:
        """Return the step (n, D) of the rows (n,) with the gradient (n, D), for a learning rate of 1."""


class LazyAdam(_Lazy):
    """Adam whose moments stand still for rows without a gradient; the bias correction counts all steps.

    Source: Kingma & Ba, ICLR 2015, arXiv:1412.6980, algorithm 1, with torch's constants, on the rows looked up.
    """

    BETAS = (0.9, 0.999)
    EPSILON = 1e-8

    def update(self, rows: Tensor, gradient: Tensor, parameter: Parameter) -> Tensor:
        """Return the step."""
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["mean"] = torch.zeros_like(parameter)
            state["square"] = torch.zeros_like(parameter)
        state["step"] += 1
        first, second = self.BETAS
        mean = state["mean"][rows].lerp_(gradient, 1 - first)
        square = state["square"][rows].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        state["mean"].index_copy_(0, rows, mean)
        state["square"].index_copy_(0, rows, square)
        mean /= 1 - first ** state["step"]
        return mean.div_((square / (1 - second ** state["step"])).sqrt_().add_(self.EPSILON))


class RowwiseAdagrad(_Lazy):
    """Adagrad with one accumulator a row, the sum of its mean squared gradients: a table of states 1/D the size.

    Source: Gupta, Bennett, Weinberger, 2014, as used for embeddings in Mudigere et al., ISCA 2022, arXiv:2104.05158.
    """

    EPSILON = 1e-8

    def update(self, rows: Tensor, gradient: Tensor, parameter: Parameter) -> Tensor:
        """Return the step."""
        state = self.state[parameter]
        if not state:
            state["sum"] = torch.zeros_like(parameter[:, 0])
        total = state["sum"][rows] + gradient.square().mean(1)
        state["sum"].index_copy_(0, rows, total)
        return gradient / total.sqrt_().add_(self.EPSILON)[:, None]
