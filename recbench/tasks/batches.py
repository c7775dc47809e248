"""Batches on the device: ragged rows, and sources that hand out an epoch of batches without a synchronisation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

BatchT_co = TypeVar("BatchT_co", covariant=True)


class BatchSource(Protocol[BatchT_co]):
    """An endless supply of training batches, one epoch at a time."""

    def epoch(self, generator: torch.Generator) -> Iterator[BatchT_co]:
        """Yield the batches of one epoch; all its randomness comes from ``generator``."""
        ...

    @property
    def n_samples(self) -> int:
        """Number of training samples in an epoch."""
        ...


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths: row r is ``values[offsets[r]:offsets[r + 1]]``.

    ``values`` has shape (n_values,), ``offsets`` (n_rows + 1,), both int64 on one device.
    """

    values: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """Length of each row, shape (n_rows,)."""
        return self.offsets.diff()

    def rows(self) -> Tensor:
        """Row number of each value, shape (n_values,)."""
        numbers = torch.arange(len(self), device=self.values.device)
        return torch.repeat_interleave(numbers, self.lengths, output_size=len(self.values))

    def padded(self, length: int) -> tuple[Tensor, Tensor]:
        """Return the last ``length`` values of each row, in order, and behind them 0 where there are fewer.

        Without a synchronisation.

        Returns:
            values (n_rows, length) int64, and a mask (n_rows, length) of those that are there.
        """
        lengths = self.lengths.clamp(max=length)[:, None]
        columns = torch.arange(length, device=self.values.device)
        there = columns < lengths
        places = self.offsets[1:, None] - lengths + columns
        return functional.pad(self.values, (0, 1))[torch.where(there, places, len(self.values))], there

    def take(self, rows: Tensor) -> Ragged:
        """Return the given rows in the given order."""
        lengths = self.lengths[rows]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        # Position of each wanted value: its place within the new rows, moved to where its old row starts.
        shift = torch.repeat_interleave(self.offsets[rows] - offsets[:-1], lengths)
        return Ragged(self.values[torch.arange(len(shift), device=shift.device) + shift], offsets)

    def split(self, size: int) -> Iterator[Ragged]:
        """Yield consecutive blocks of ``size`` rows (the last may be smaller), with one synchronisation in all."""
        starts = list(range(0, len(self), size))
        edges = self.offsets[[*starts, len(self)]].tolist()
        for start, low, high in zip(starts, edges[:-1], edges[1:], strict=True):
            yield Ragged(self.values[low:high], self.offsets[start : start + size + 1] - low)


def blocks(order: Tensor, size: int) -> Iterator[Tensor]:
    """Yield consecutive slices of ``size`` (the last may be smaller) of a tensor."""
    yield from order.split(size)


def to_device(values: NDArray[np.integer], device: torch.device) -> Tensor:
    """Return an integer array as an int64 tensor on the device."""
    return torch.from_numpy(values.astype(np.int64)).to(device)
