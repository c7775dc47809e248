"""The bi-interaction aggregator of KGAT (Wang et al., KDD 2019, arXiv 1905.07854, equation 8), by blocks of rows.

``dropout(LeakyReLU((X + N) W1 + b1) + LeakyReLU((X * N) W2 + b2))``, slope 0.2. All of it works row by row, so a block
stays in the processor's cache from the first operation to the last, forward and backward; over whole matrices of tens
of thousands of rows the same operations take twice the time.
"""

# Shapes: n rows, n_in and n_out widths.

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbench.models.layers.dropout import random_words

SLOPE = 0.2
ROWS_AT_ONCE = 1024


class BiInteraction(nn.Module):
    """Sum and product of a node with what its neighbours send, each through a linear map."""

    def __init__(self, n_in: int, n_out: int, dropout: float) -> None:
        super().__init__()
        self.sum = nn.Linear(n_in, n_out)
        self.product = nn.Linear(n_in, n_out)
        self.dropout = dropout
        for linear in (self.sum, self.product):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, nodes: Tensor, messages: Tensor) -> Tensor:
        """Return new vectors (n, n_out) of ``nodes`` (n, n_in) that receive ``messages`` (n, n_in)."""
        share = self.dropout if self.training else 0.0
        kept = multipliers((len(nodes), self.sum.out_features), share, nodes) if share else None
        out: Tensor = _BiInteraction.apply(  # type: ignore[no-untyped-call]
            nodes, messages, self.sum.weight, self.sum.bias, self.product.weight, self.product.bias, kept
        )
        return out


def multipliers(shape: tuple[int, int], dropout: float, like: Tensor) -> Tensor:
    """Return independent factors of the given shape, 0 for the dropped share, else what keeps the mean.

    A quarter of a 64-bit random number decides each, seven times as fast as a Bernoulli draw on a CPU; ``dropout`` is
    rounded to a multiple of 2^-16.
    """
    dropped = round(dropout * 2**16)
    kept = random_words(shape[0] * shape[1], like.device) >= dropped - 2**15
    return torch.where(kept, 2**16 / (2**16 - dropped), 0.0).to(like.dtype).view(shape)


def _blocks(nodes: Tensor) -> Iterator[slice]:
    # A GPU has no use for blocks.
    size = ROWS_AT_ONCE if nodes.device.type == "cpu" else max(1, len(nodes))
    return (slice(start, start + size) for start in range(0, len(nodes), size))


class _BiInteraction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, nodes: Tensor, messages: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, kept: Tensor | None
    ) -> Tensor:
        first, second, out = (nodes.new_empty(len(nodes), len(W1)) for _ in range(3))
        for rows in _blocks(nodes):
            node, message = nodes[rows], messages[rows]
            torch.addmm(b1, node + message, W1.T, out=first[rows])
            torch.addmm(b2, node * message, W2.T, out=second[rows])
            functional.leaky_relu_(first[rows], SLOPE)
            functional.leaky_relu_(second[rows], SLOPE)
            torch.add(first[rows], second[rows], out=out[rows])
            if kept is not None:
                out[rows] *= kept[rows]
        ctx.save_for_backward(nodes, messages, W1, W2, first, second, kept)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        nodes, messages, W1, W2, first, second, kept = ctx.saved_tensors
        to_nodes, to_messages = torch.empty_like(nodes), torch.empty_like(messages)
        to_W1, to_W2 = torch.zeros_like(W1), torch.zeros_like(W2)
        to_b1, to_b2 = W1.new_zeros(len(W1)), W2.new_zeros(len(W2))
        for rows in _blocks(nodes):
            node, message = nodes[rows], messages[rows]
            arriving = gradient[rows] if kept is None else gradient[rows] * kept[rows]
            to_first = _before_leaky_relu(arriving, first[rows])
            to_second = _before_leaky_relu(arriving, second[rows])
            to_W1.addmm_(to_first.T, node + message)
            to_W2.addmm_(to_second.T, node * message)
            to_b1 += to_first.sum(0)
            to_b2 += to_second.sum(0)
            to_sum, to_product = to_first @ W1, to_second @ W2
            torch.addcmul(to_sum, to_product, message, out=to_nodes[rows])
            torch.addcmul(to_sum, to_product, node, out=to_messages[rows])
        return to_nodes, to_messages, to_W1, to_b1, to_W2, to_b2, None


def _before_leaky_relu(gradient: Tensor, result: Tensor) -> Tensor:
    # The operator's own backward, which reads each number once; a mask and two products read it three times.
    before: Tensor = torch.ops.aten.leaky_relu_backward(gradient, result, SLOPE, True)
    return before
