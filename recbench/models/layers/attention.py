"""Softmax attention over the few fields of a row.

Shapes: B rows, H heads, Q queries, K keys, D dims of a head.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from recbench.models.layers.dropout import Dropout

SHORT = 16
"""Keys from which on torch's kernels for CPUs are the faster ones: as many floats as a vector register holds."""


def attend(query: Tensor, key: Tensor, value: Tensor, *, scale: float, dropout: Dropout) -> Tensor:
    """Return softmax(scale Q K^T) V; ``dropout`` is of the weights.

    Shapes: (B, H, Q, D), (B, H, K, D), (B, H, K, D) -> (B, H, Q, D).
    """
    if query.device.type == "cpu" and key.shape[-2] < SHORT:
        if scale != 1:
            query = query * scale
        weights: Tensor = dropout(softmax(query @ key.transpose(-1, -2)))
        return weights.to(value.dtype) @ value
    dropped = dropout.p if dropout.training else 0.0
    return functional.scaled_dot_product_attention(query, key, value, dropout_p=dropped, scale=scale)


def softmax(scores: Tensor) -> Tensor:
    """Return the softmax over the last dimension, which on a CPU is several times as fast for short rows as torch's.

    In half precision the result is float32, as that of torch's softmax under autocast.
    """
    if scores.device.type != "cpu" or scores.shape[-1] >= SHORT:
        return scores.softmax(-1)
    if scores.dtype.itemsize < 4:
        scores = scores.float()
    weights: Tensor = _Softmax.apply(scores)  # type: ignore[no-untyped-call]
    return weights


class _Softmax(Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        weights = (scores - scores.amax(-1, keepdim=True)).exp_()
        weights /= weights.sum(-1, keepdim=True)
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return p (g - <p, g>)."""
        (weights,), (gradient,) = ctx.saved_tensors, gradients
        weighted = weights * gradient
        return weighted.sub_(weights * weighted.sum(-1, keepdim=True))
