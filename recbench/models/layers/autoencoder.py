"""Blocks of autoencoders over user rows: sparse input, likelihoods and initial weights of Mult-VAE.

Source      Liang et al., WWW 2018, arXiv:1802.05814, section 2, and the authors' notebook
Likelihoods of a user's 0/1 row x_u given the outputs f_u, without constants:
multinomial sum_i x_ui log softmax(f_u)_i, equation 2
gaussian    -sum_i c_ui / 2 (x_ui - f_ui)^2, c_ui = c1 where x_ui = 1 and c0 < c1 elsewhere, equation 3
logistic    sum_i x_ui log sigmoid(f_ui) + (1 - x_ui) log(1 - sigmoid(f_ui)), equation 4
"""

# Shapes: B batch, I items, H width before a linear layer.

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional

from recbench.errors import UsageError
from recbench.models.base import Owners, PositiveFloat, TrainedConfig
from recbench.models.layers.dropout import Dropout
from recbench.models.layers.sparse import weighted_sums
from recbench.models.layers.wide import WideLinear
from recbench.tasks.interactions import UserBatch

BIAS_STD = 0.001
NUMBERS_AT_ONCE = 2**18  # of float32: 1 MiB, which stays in the cache


class LikelihoodConfig(TrainedConfig):
    """Hyper-parameters of an autoencoder whose likelihood can be chosen."""

    owners: ClassVar[Owners] = dict.fromkeys(("clicked_confidence", "other_confidence"), ("likelihood", ("gaussian",)))

    likelihood: Literal["multinomial", "gaussian", "logistic"] = "multinomial"
    clicked_confidence: PositiveFloat = 10.0
    """c1 of gaussian: weight of an item in the row. Neither default is a published value."""
    other_confidence: PositiveFloat = 1.0
    """c0 of gaussian: weight of an item not in the row; below c1."""

    @model_validator(mode="after")
    def _confidences_fit(self) -> Self:
        if self.other_confidence >= self.clicked_confidence:
            limit = self.clicked_confidence
            raise UsageError(
                f"other_confidence: expected less than clicked_confidence = {limit:g}, found {self.other_confidence:g}"
            )
        return self


class RowLinear(nn.Module):
    """Linear layer on 0/1 user rows, which are scaled to unit length and then dropped out.

    It is a sparse product, so that its cost is that of the interactions, not of the catalogue. Initial weights are
    those of ``nn.Linear``.
    """

    def __init__(self, n_items: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        bound = n_items**-0.5
        self.weight = nn.Parameter(torch.empty(n_items, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound))

    def forward(self, batch: UserBatch) -> Tensor:
        """Return the products, shape (B, width)."""
        history = batch.history
        rows = history.rows()
        entries = self.dropout(history.lengths.to(self.weight.dtype).rsqrt()[rows])
        products: Tensor = _RowProduct.apply(self.weight, entries, rows, history.values, history.offsets)  # type: ignore[no-untyped-call]
        return products + self.bias


class RowMLP(RowLinear):
    """MLP with tanh between its layers on user rows; ``widths`` are those of the layers after the input."""

    def __init__(self, n_items: int, widths: Sequence[int], dropout: float) -> None:
        super().__init__(n_items, widths[0], dropout)
        self.rest = tanh_layers(widths)

    def forward(self, batch: UserBatch) -> Tensor:
        """Return the last layer, shape (B, widths[-1])."""
        output: Tensor = self.rest(super().forward(batch))
        return output


def tanh_layers(widths: Sequence[int]) -> nn.Sequential:
    """Return a tanh and a linear layer for each step from one width to the next."""
    return nn.Sequential(*(layer for step in pairwise(widths) for layer in (nn.Tanh(), WideLinear(*step))))


def initialise(model: nn.Module) -> None:
    """Draw weights by Xavier's uniform rule and biases from a truncated normal distribution."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.trunc_normal_(parameter, std=BIAS_STD, a=-2 * BIAS_STD, b=2 * BIAS_STD)
        else:
            nn.init.xavier_uniform_(parameter)


def reconstruction_loss(config: LikelihoodConfig, logits: Tensor, batch: UserBatch) -> Tensor:
    """Return the mean over users of the negative log-likelihood that ``config`` names, a scalar.

    ``logits`` (B, I) are used up: do not read them afterwards.
    """
    match config.likelihood:
        case "multinomial":
            return multinomial_loss(logits, batch)
        case "gaussian":
            return gaussian_loss(logits, batch, config.clicked_confidence, config.other_confidence)
        case "logistic":
            return logistic_loss(logits, batch)


def multinomial_loss(logits: Tensor, batch: UserBatch) -> Tensor:
    """Return the mean over users of ``-sum_i x_ui log softmax(f_u)_i``, a scalar.

    ``logits`` (B, I) are used up: do not read them afterwards.
    """
    history = batch.history
    # Of lower precision under autocast.
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    # The compiler loses the gradient of a function that overwrites its input, and needs no such help.
    if torch.compiler.is_compiling():
        return -_chosen(logits.log_softmax(1), batch).sum() / len(batch)
    loss: Tensor = _Multinomial.apply(logits, history.rows(), history.values, history.lengths)[0]  # type: ignore[no-untyped-call]
    return loss


def gaussian_loss(logits: Tensor, batch: UserBatch, clicked: float, other: float) -> Tensor:
    """Return the mean over users of ``sum_i c_ui / 2 (x_ui - f_ui)^2``, a scalar.

    ``c_ui`` is ``clicked`` for the items of the row and ``other`` for all others.
    """
    chosen = _chosen(logits, batch)
    correction = clicked * (1 - chosen).square() - other * chosen.square()
    return (other * logits.square().sum() + correction.sum()) / (2 * len(batch))


def logistic_loss(logits: Tensor, batch: UserBatch) -> Tensor:
    """Return the mean over users of ``-sum_i x_ui log sigmoid(f_ui) + (1 - x_ui) log(1 - sigmoid(f_ui))``, a scalar."""
    return (functional.softplus(logits).sum() - _chosen(logits, batch).sum()) / len(batch)


def squared_norm(model: nn.Module) -> Tensor:
    """Return the sum of squares of all weights, biases apart; a scalar."""
    return torch.stack([weight.square().sum() for weight in model.parameters() if weight.dim() > 1]).sum()


def _chosen(logits: Tensor, batch: UserBatch) -> Tensor:
    return logits[batch.history.rows(), batch.history.values]


class _RowProduct(torch.autograd.Function):
    """Sparse rows times a weight: ``entries`` (n,) at ``rows`` and ``items`` (n,), sorted by row, times (I, H).

    Backward, too, is a sum over bags of rows: half the time of torch's on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, entries: Tensor, rows: Tensor, items: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(entries, rows, items)
        ctx.n_items = len(weight)
        return weighted_sums(weight, items, offsets, entries)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        entries, rows, items = ctx.saved_tensors
        in_order, order = items.int().sort(stable=True)
        every_item = torch.arange(ctx.n_items + 1, dtype=torch.int32, device=items.device)
        offsets = torch.searchsorted(in_order, every_item, out_int32=True)
        of_weight = weighted_sums(gradient, rows[order].int(), offsets, entries[order])
        return of_weight, None, None, None, None


class _Multinomial(torch.autograd.Function):
    """Negative log-likelihood of softmax outputs, computed in the memory of the logits.

    A new tensor of shape (B, I) costs more time than what is computed in it. Returns the loss, and the logits, of
    which ``exp(f_ui - max_i f_ui)`` is left.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: Tensor, items: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        ctx.mark_dirty(logits)
        ctx.set_materialize_grads(False)
        n_rows, n_items = logits.shape
        chosen = logits[rows, items].sum()
        at_once = max(1, NUMBERS_AT_ONCE // n_items) if logits.device.type == "cpu" else n_rows
        highest, totals = [], []
        for block in logits.split(at_once):
            highest.append(block.amax(1))
            totals.append(block.sub_(highest[-1][:, None]).exp_().sum(1))
        total = torch.cat(totals)
        ctx.save_for_backward(logits, rows, items, lengths / total)
        log_normaliser = torch.cat(highest) + total.log()
        return (log_normaliser @ lengths.to(logits.dtype) - chosen) / n_rows, logits

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: None) -> tuple[Tensor, None, None, None]:
        shares, rows, items, weights = ctx.saved_tensors
        scale = gradient / len(shares)
        shares.mul_((weights * scale)[:, None])
        shares.index_put_((rows, items), -scale, accumulate=True)
        return shares, None, None, None
