"""Blocks of autoencoders over user rows: sparse input, multinomial likelihood, initial weights of Mult-VAE.

Source      Liang et al., WWW 2018, arXiv:1802.05814, section 2, and the authors' notebook
"""

# Shapes: B batch, I items.

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from recbench.tasks.interactions import UserBatch

BIAS_STD = 0.001


class RowMLP(nn.Module):
    """MLP with tanh between its layers on 0/1 user rows, which are scaled to unit length and then dropped out.

    ``widths`` are those of the layers after the input. The first layer is a sparse product, so that its cost is that
    of the interactions, not of the catalogue.
    """

    def __init__(self, n_items: int, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.weight = nn.Parameter(torch.empty(n_items, widths[0]))
        self.bias = nn.Parameter(torch.empty(widths[0]))
        self.rest = tanh_layers(widths)

    def forward(self, batch: UserBatch) -> Tensor:
        """Return the last layer, shape (B, widths[-1])."""
        history = batch.history
        entries = history.lengths.to(self.weight.dtype).rsqrt()[history.rows()]
        entries = nn.functional.dropout(entries, self.dropout, self.training)
        output: Tensor = self.rest(batch.times(self.weight, entries) + self.bias)
        return output


def tanh_layers(widths: Sequence[int]) -> nn.Sequential:
    """Return a tanh and a linear layer for each step from one width to the next."""
    return nn.Sequential(*(layer for step in pairwise(widths) for layer in (nn.Tanh(), nn.Linear(*step))))


def initialise(model: nn.Module) -> None:
    """Draw weights by Xavier's uniform rule and biases from a truncated normal distribution."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.trunc_normal_(parameter, std=BIAS_STD, a=-2 * BIAS_STD, b=2 * BIAS_STD)
        else:
            nn.init.xavier_uniform_(parameter)


def multinomial_loss(logits: Tensor, batch: UserBatch) -> Tensor:
    """Return the mean over users of ``-sum_i x_ui log softmax(f_u)_i``, equation 2 without its constant; a scalar."""
    log_shares = logits.log_softmax(1)
    return -log_shares[batch.history.rows(), batch.history.values].sum() / len(batch)


def squared_norm(model: nn.Module) -> Tensor:
    """Return the sum of squares of all weights, biases apart; a scalar."""
    return torch.stack([weight.square().sum() for weight in model.parameters() if weight.dim() > 1]).sum()
