"""alpha-entmax: softmax (alpha = 1), sparsemax (alpha = 2), what lies between and beyond; exact zeros for alpha > 1.

Source  Peters, Niculae, Martins: Sparse Sequence-to-Sequence Models. ACL 2019, arXiv:1905.05702;
        sparsemax: Martins, Astudillo, ICML 2016, arXiv:1602.02068.

p = max(x - tau, 0)^(1 / (alpha - 1)), x = (alpha - 1) z, with the tau at which p sums to 1. For alpha = 2 and 1.5 it
has a closed form in the sorted x; otherwise it is found by bisection.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

NETWORK_SIZE = 64
"""Values that are sorted by a network of comparisons, several times as fast as torch's sort; more are left to that."""


def entmax(scores: Tensor, alpha: float, dim: int = -1) -> Tensor:
    """Return distributions over ``dim``, of the shape of ``scores``; a score may be -inf, not all of a distribution's.

    In half precision the result is float32, as that of softmax under autocast. On a CPU it is fastest over a dimension
    that is not the last. ``ValueError`` where ``alpha`` < 1.
    """
    if alpha < 1:
        raise ValueError(f"alpha: expected at least 1, found {alpha}")
    if scores.dtype.itemsize < 4:
        scores = scores.float()
    if alpha == 1:
        return scores.softmax(dim)
    probabilities: Tensor = _Entmax.apply(scores, alpha, dim)  # type: ignore[no-untyped-call]
    return probabilities


class _Entmax(Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, alpha: float, dim: int) -> Tensor:
        x = scores - scores.amax(dim, keepdim=True)  # the largest is 0, and only what is above -1 is in the support
        if alpha == 2:
            p = x.sub_(_sparsemax_threshold(x, dim)).clamp_(min=0)
        elif alpha == 1.5:
            p = x.mul_(0.5).sub_(_entmax15_threshold(x, dim)).clamp_(min=0).square_()
        else:
            p = _by_bisection(x.mul_(alpha - 1), 1 / (alpha - 1), dim)
        ctx.save_for_backward(p)
        ctx.alpha, ctx.dim = alpha, dim
        return p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Return s (g - <s, g> / sum s), s = p^(2 - alpha) in the support and 0 outside."""
        (p,), (g,) = ctx.saved_tensors, gradients
        if ctx.alpha == 2:
            s = p.sign()
        elif ctx.alpha == 1.5:
            s = p.sqrt()
        else:
            support = p > 0
            s = torch.where(support, p, 1.0).pow_(2 - ctx.alpha).mul_(support)
        mean = (s * g).sum(ctx.dim, keepdim=True).div_(s.sum(ctx.dim, keepdim=True))
        return s.mul_(g - mean), None, None


def _sparsemax_threshold(x: Tensor, dim: int) -> Tensor:
    """Return the greatest over k of (sum of the k largest - 1) / k: it grows up to the support's size, then falls."""
    columns = _descending(x, dim)
    total = columns[0].clone()
    threshold = total - 1
    for k, column in enumerate(columns[1:], 2):
        total.add_(column)
        torch.maximum(threshold, (total - 1).div_(k), out=threshold)
    return threshold.unsqueeze(dim)


def _entmax15_threshold(x: Tensor, dim: int) -> Tensor:
    """Return the lower root of sum over the k largest of (x - tau)^2 = 1, for the last k whose own x is above it."""
    columns = _descending(x, dim)
    total, squares = columns[0].clone(), columns[0].square()
    threshold = total - 1
    for k, column in enumerate(columns[1:], 2):
        mean = total.add_(column) / k
        squares.addcmul_(column, column)
        variance = (squares / k).addcmul_(mean, mean, value=-1)
        candidate = mean.sub_(variance.neg_().add_(1 / k).clamp_(min=0).sqrt_())
        threshold = torch.where(candidate <= column, candidate, threshold)
    return threshold.unsqueeze(dim)


def _by_bisection(x: Tensor, exponent: float, dim: int) -> Tensor:
    """Halve the interval that holds tau until it is as narrow as the numbers' precision."""
    low = torch.full_like(x.narrow(dim, 0, 1), -1.0)
    width = 1 - x.shape[dim] ** (-1 / exponent)
    for _ in range(1 - int(math.log2(torch.finfo(x.dtype).eps))):
        width /= 2
        total = (x - (low + width)).clamp_(min=0).pow_(exponent).sum(dim, keepdim=True)
        low += width * (total >= 1)
    p = x.sub_(low).clamp_(min=0).pow_(exponent)
    return p.div_(p.sum(dim, keepdim=True))


def _descending(x: Tensor, dim: int) -> Sequence[Tensor]:
    """Return the slices of x along ``dim``, sorted at each position from the largest to the smallest."""
    if x.shape[dim] > NETWORK_SIZE:
        return x.sort(dim, descending=True).values.unbind(dim)
    columns = list(x.unbind(dim))
    for i, j in sorting_network(len(columns)):
        columns[i], columns[j] = torch.maximum(columns[i], columns[j]), torch.minimum(columns[i], columns[j])
    return columns


@lru_cache
def sorting_network(n: int) -> tuple[tuple[int, int], ...]:
    """Return the pairs i < j to compare, in order: Batcher's merge exchange (Knuth, volume 3, algorithm 5.2.2 M)."""
    pairs = []
    top = 1 << max(0, (n - 1).bit_length() - 1)
    p = top
    while p:
        q, remainder, distance = top, 0, p
        while True:
            pairs += [(i, i + distance) for i in range(n - distance) if i & p == remainder]
            if q == p:
                break
            q, remainder, distance = q // 2, p, q - p
        p //= 2
    return tuple(pairs)
