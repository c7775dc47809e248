"""Dropout with cheap random bits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEVELS = 2**16


class Dropout(nn.Dropout):
    """``nn.Dropout``, on a CPU from 16 random bits an element: a third of its time, and a fifth of a training step.

    The probability is the nearest multiple of 2^-16, and what is kept is divided by exactly the probability of keeping.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements in training; shapes stay."""
        dropped = round(self.p * LEVELS)
        if not self.training or dropped == 0 or x.device.type != "cpu":
            return super().forward(x)
        kept = random_words(x.numel(), x.device).view(x.shape) >= dropped - LEVELS // 2
        return x * kept.to(x.dtype).mul_(LEVELS / (LEVELS - dropped))


def random_words(n: int, device: torch.device) -> Tensor:
    """Return uniform whole numbers from -2^15 to 2^15 - 1, shape (n,), int16."""
    # random_ draws all 64 bits of a whole number, which are four words.
    bits = torch.empty(-(-n // 4), dtype=torch.int64, device=device).random_(-(2**63), None)
    return bits.view(torch.int16)[:n]
