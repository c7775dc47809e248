"""Losses of positive against negative scores: what pairwise, pointwise and sequential recommenders are trained by.

A loss is a module of its own, so that one that learns (a model of noise, say) brings its parameters with it. It is
given scores of P rows and the batch they are of, and returns a scalar.

bpr      Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009, equation 4
bpr-max  Hidasi, Karatzoglou, "Recurrent Neural Networks with Top-k Gains", CIKM 2018, arXiv:1706.03847: bpr whose pairs
         are weighted by a softmax over the negatives, which are kept small
bce      binary cross-entropy over positives and negatives together
gbce     Petrov, Macdonald, "gSASRec", RecSys 2023, arXiv:2308.07192: bce whose positives have a power of their
         probability, sigmoid(s)^beta, beta = alpha (t (1 - 1 / alpha) + 1 / alpha) = 1 - t (1 - alpha),
         alpha = N / (I - 1)
softmax  cross-entropy of the positive among the sample, scores corrected by the logarithm of the expected number of
         draws (Bengio, Senecal, IEEE TNN 2008; Yi et al., RecSys 2019); the full one if all items are the sample
ccl      Mao et al., "SimpleX", CIKM 2021, arXiv:2109.12613, equation 1: cosine contrastive loss
"""

# Shapes: P rows, N negatives of each.

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

LossName = Literal["bpr", "bpr-max", "bce", "gbce", "softmax", "ccl"]


class Sampled(Protocol):
    """What losses read of a batch."""

    @property
    def log_counts(self) -> Tensor | None:
        """Logarithm of the expected number of draws, of a shape that expands to (P, N)."""
        ...

    @property
    def mask(self) -> Tensor | None:
        """Which negatives count, (P, N); None: all."""
        ...


def bpr_loss(positive: Tensor, negative: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean of ``-log sigmoid(positive - negative)`` over pairs; scores (P,) and (P, N) or (P,)."""
    if negative.dim() > positive.dim():
        positive = positive.unsqueeze(-1)
    return _mean(functional.softplus(negative - positive), mask)


class BPR(nn.Module):
    """The pairwise loss of BPR."""

    def forward(self, positive: Tensor, negative: Tensor, batch: Sampled) -> Tensor:
        """Return the mean over pairs."""
        return bpr_loss(positive, negative, batch.mask)


class BPRMax(nn.Module):
    """``-log sum_j w_j sigmoid(positive - negative_j) + penalty sum_j w_j negative_j^2``, w the negatives' softmax.

    Of scores that have passed an exponential linear unit, as in the authors' code.
    """

    def __init__(self, penalty: float) -> None:
        super().__init__()
        self.penalty = penalty

    def forward(self, positive: Tensor, negative: Tensor, batch: Sampled) -> Tensor:
        """Return the mean over rows."""
        positive, negative = functional.elu(positive), functional.elu(negative)
        # A finite number in place of -inf: a row may have no negative that counts.
        least = torch.finfo(negative.dtype).min
        weighed = negative if batch.mask is None else negative.masked_fill(~batch.mask, least)
        log_weights = weighed.log_softmax(1)
        above = functional.logsigmoid(positive[:, None] - negative)
        small = self.penalty * (log_weights.exp() * negative.square()).sum(1)
        of_rows = small - (log_weights + above).logsumexp(1)
        return of_rows.mean() if batch.mask is None else (of_rows * batch.mask.any(1)).mean()


class BCE(nn.Module):
    """Binary cross-entropy: the mean over positives and negatives alike."""

    def forward(self, positive: Tensor, negative: Tensor, batch: Sampled) -> Tensor:
        """Return the mean over positives and negatives."""
        return _pointwise(functional.softplus(-positive), negative, batch.mask)


class GBCE(nn.Module):
    """Generalised binary cross-entropy.

    ``calibration`` t = 0 is BCE, t = 1 undoes what sampling does to probabilities. N are the negatives that count, a
    mean over rows where it differs.
    """

    def __init__(self, calibration: float, n_items: int) -> None:
        super().__init__()
        self.calibration = calibration
        self.n_others = max(1, n_items - 1)

    def beta(self, negative: Tensor, mask: Tensor | None) -> Tensor | float:
        """Return the power for negatives (P, N), of which those in ``mask`` count."""
        number = negative.shape[1] if mask is None else mask.sum() / len(mask)
        return 1 - self.calibration * (1 - number / self.n_others)

    def forward(self, positive: Tensor, negative: Tensor, batch: Sampled) -> Tensor:
        """Return the mean over positives and negatives."""
        # -log(sigmoid(s)^beta): in this form without the cancellation that double precision is otherwise needed for.
        of_positives = self.beta(negative, batch.mask) * functional.softplus(-positive)
        return _pointwise(of_positives, negative, batch.mask)


class Softmax(nn.Module):
    """Cross-entropy of the positive among itself and the sample.

    The scores of the sample, not that of the positive, which is there anyway, are corrected for how it was drawn.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, positive: Tensor, negative: Tensor, batch: Sampled) -> Tensor:
        """Return the mean over rows."""
        if self.temperature != 1:
            positive, negative = positive / self.temperature, negative / self.temperature
        if batch.log_counts is not None:
            negative = negative - batch.log_counts
        if batch.mask is not None:
            negative = negative.masked_fill(~batch.mask, -torch.inf)
        # log(exp(positive) + sum exp(negative)) - positive, without a copy that joins the two.
        return functional.softplus(negative.logsumexp(1) - positive).mean()


class CCL(nn.Module):
    """Cosine contrastive loss: ``1 - positive + weight * mean(max(0, negative - margin))`` of cosine similarities."""

    def __init__(self, margin: float, weight: float) -> None:
        super().__init__()
        self.margin = margin
        self.weight = weight

    def forward(self, positive: Tensor, negative: Tensor, batch: Sampled) -> Tensor:
        """Return the mean over rows."""
        return (1 - positive).mean() + self.weight * _mean((negative - self.margin).relu(), batch.mask)


def make_loss(
    name: LossName,
    *,
    temperature: float = 1.0,
    margin: float = 0.5,
    negative_weight: float = 1.0,
    calibration: float = 0.75,
    negative_penalty: float = 1.0,
    n_items: int = 2,
) -> nn.Module:
    """Return the loss of that name; of the settings it takes those it has."""
    match name:
        case "bpr":
            return BPR()
        case "bpr-max":
            return BPRMax(negative_penalty)
        case "bce":
            return BCE()
        case "gbce":
            return GBCE(calibration, n_items)
        case "softmax":
            return Softmax(temperature)
        case "ccl":
            return CCL(margin, negative_weight)


def _pointwise(of_positives: Tensor, negative: Tensor, mask: Tensor | None) -> Tensor:
    of_negatives = functional.softplus(negative)
    if mask is None:
        return (of_positives.sum() + of_negatives.sum()) / (of_positives.numel() + of_negatives.numel())
    return (of_positives.sum() + (of_negatives * mask).sum()) / (of_positives.numel() + mask.sum())


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    return values.mean() if mask is None else (values * mask).sum() / mask.sum().clamp(min=1)
