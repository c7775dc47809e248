"""Cross networks: explicit polynomial interactions of a vector with itself. Shapes: B batch, N width, L layers.

K experts of rank R each in the low-rank mixture.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbench.models.layers.mlp import linear


class CrossNet(nn.Module):
    """``x_{l+1} = x_0 (w_l^T x_l) + b_l + x_l``: DCN's cross layers (Wang et al. 2017, arXiv:1708.05123, section 2.2).

    Each x_l is a multiple of x_0 plus a vector that is the same for all rows, ``x_l = a_l x_0 + c_l``. So one product
    gives all w_l^T x_0, and the layers are a recurrence in one number a row.

    Shapes: (B, N) -> (B, N).
    """

    def __init__(self, width: int, num_layers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_layers, width).normal_(std=(2 / (width + 1)) ** 0.5))
        self.bias = nn.Parameter(torch.zeros(num_layers, width))

    def forward(self, x0: Tensor) -> Tensor:
        """Apply all layers."""
        products = (x0 @ self.weight.T).unbind(1)
        scale, shift = torch.ones_like(x0[:, 0]), torch.zeros_like(x0[0])
        for weight, bias, product in zip(self.weight.unbind(), self.bias.unbind(), products, strict=True):
            scale = scale + scale * product + weight @ shift
            shift = shift + bias
        return torch.addcmul(shift, scale[:, None], x0)


class CrossNetV2(nn.Module):
    """``x_{l+1} = x_0 * (W_l x_l + b_l) + x_l``: DCN-V2's cross layers (Wang et al. 2021, arXiv:2008.13535, eq. 1).

    Shapes: (B, N) -> (B, N).
    """

    def __init__(self, width: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(linear(width, width) for _ in range(num_layers))

    def forward(self, x0: Tensor) -> Tensor:
        """Apply all layers."""
        x = x0
        for layer in self.layers:
            x = torch.addcmul(x, x0, layer(x))
        return x


class CrossNetMix(nn.Module):
    """Cross layers as a mixture of low-rank experts: arXiv:2008.13535, section 3.4, with g = tanh.

    ``x_{l+1} = sum_k G_k(x_l) E_k(x_l) + x_l``, ``E_k(x) = x_0 * (U_lk g(C_lk g(V_lk^T x)) + b_l)``.
    G is a softmax over experts of a linear map that all layers share. Its weights add up to 1, so they can be applied
    to the R inner values of each expert, and one product with [U_l1 ... U_lK] ends the layer.

    Shapes: (B, N) -> (B, N).
    """

    def __init__(self, width: int, num_layers: int, rank: int, experts: int) -> None:
        super().__init__()
        outer, inner = (2 / (width + rank)) ** 0.5, rank**-0.5  # Xavier's for each expert's matrices
        self.V = nn.Parameter(torch.empty(num_layers, width, experts * rank).normal_(std=outer))
        self.C = nn.Parameter(torch.empty(num_layers, experts, rank, rank).normal_(std=inner))
        self.U = nn.Parameter(torch.empty(num_layers, experts * rank, width).normal_(std=outer))
        self.bias = nn.Parameter(torch.zeros(num_layers, width))
        self.gate = nn.Linear(width, experts, bias=False) if experts > 1 else None
        if self.gate is not None:
            nn.init.xavier_normal_(self.gate.weight)

    def forward(self, x0: Tensor) -> Tensor:
        """Apply all layers."""
        x = x0
        for V, C, U, bias in zip(self.V.unbind(), self.C.unbind(), self.U.unbind(), self.bias.unbind(), strict=True):
            inner = (x @ V).tanh().view(len(x), len(C), -1)  # (B, K, R)
            inner = torch.einsum("bkr,ksr->bks", inner, C).tanh()
            if self.gate is not None:
                inner = inner * self.gate(x).softmax(1)[:, :, None]
            x = torch.addcmul(x, x0, torch.addmm(bias, inner.flatten(1), U))
        return x
