"""Task ``sequential``: rank all items by how likely each is to be a user's next one.

What users have had before is not ranked, unless the training sequences themselves come back to items, as sessions do:
then the next item may be any, and all are ranked.
"""

# Shapes: B sequences, P positions of all of them together, N negatives.

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from recbench.data.store import Arrays
from recbench.tasks.base import Development
from recbench.tasks.batches import Ragged, to_device
from recbench.tasks.interactions import PairBatch, TopNData, UserBatch
from recbench.tasks.ranking import RankingTask
from recbench.tasks.samplers import Sampler


@dataclass(frozen=True)
class Rectangle:
    """Neighbouring sequences of about the same length as the rows of a padded tensor.

    ``size`` is the number of their positions, ``shape`` is (rows, length); ``cells`` (size,) says where in the
    flattened rectangle each position stands, at the left of its row, and is None if there is no padding.
    """

    size: int
    shape: tuple[int, int]
    cells: Tensor | None

    def pad(self, values: Tensor) -> Tensor:
        """Return the positions' ``values`` (size, D) as (rows, length, D), with zeros for padding."""
        if self.cells is not None:
            empty = values.new_zeros(self.shape[0] * self.shape[1], values.shape[1])
            values = empty.index_copy(0, self.cells, values)
        return values.view(*self.shape, -1)

    def flat(self, padded: Tensor) -> Tensor:
        """Undo ``pad``: return (size, D)."""
        cells = padded.flatten(0, 1)
        return cells if self.cells is None else cells.index_select(0, self.cells)


@dataclass(frozen=True)
class Sequences:
    """B sequences of items in the order of time, none empty, the longest first.

    ``items`` and ``times`` (P,) are of all positions one after the other, so that what is done position by position
    needs no padding; ``sizes`` are the sequences' lengths, known to the host, so that no step has to ask a device.
    """

    items: Tensor
    times: Tensor
    sizes: tuple[int, ...]

    def offsets(self) -> Tensor:
        """Return where each sequence begins, and P, shape (B + 1,)."""
        return torch.tensor([0, *accumulate(self.sizes)], device=self.items.device)

    def rows(self) -> Tensor:
        """Return the sequence of each position, shape (P,)."""
        return Ragged(self.items, self.offsets()).rows()

    def from_end(self) -> Tensor:
        """Return how many positions come after each in its sequence, shape (P,)."""
        ends = self.offsets()[1:]
        return ends[self.rows()] - 1 - torch.arange(len(self.items), device=self.items.device)

    def last(self) -> Tensor:
        """Return the position at the end of each sequence, shape (B,)."""
        return self.offsets()[1:] - 1

    def rectangles(self, rows: int) -> list[Rectangle]:
        """Return the sequences, ``rows`` at a time, as rectangles that cover all positions in their order."""
        bounds = [0, *accumulate(self.sizes)]
        row = self.rows()
        places = torch.arange(len(row), device=row.device) - self.offsets()[row]
        found = []
        for first in range(0, len(self.sizes), rows):
            last = min(first + rows, len(self.sizes))
            start, end, length = bounds[first], bounds[last], self.sizes[first]
            even = self.sizes[last - 1] == length
            cells = None if even else (row[start:end] - first) * length + places[start:end]
            found.append(Rectangle(end - start, (last - first, length), cells))
        return found


@dataclass(frozen=True)
class SequenceBatch(PairBatch):
    """Training sequences and what follows each position: ``positives`` (P,), ``negatives`` (P, N) or (N,).

    ``users`` (P,) are those of the positions.
    """

    sequences: Sequences = field(kw_only=True)


@dataclass(frozen=True)
class SequenceUserBatch(UserBatch):
    """A block of users: ``history`` has each known item once, sorted; ``sequence`` all in the order of time.

    ``sequence_times`` are the times of ``sequence``, float64.
    """

    sequence: Ragged
    sequence_times: Ragged

    def recent(self, length: int) -> tuple[Sequences, Tensor]:
        """Return the last ``length`` items of every user who has any, and these users' places in the block, (B,)."""
        sizes, order = self.sequence.lengths.clamp(max=length).sort(descending=True, stable=True)
        sizes, order = sizes[sizes > 0], order[sizes > 0]
        places = _places(self.sequence.offsets[order + 1] - sizes, sizes, int(sizes.sum()))
        sequences = Sequences(self.sequence.values[places], self.sequence_times.values[places], tuple(sizes.tolist()))
        return sequences, order


class SequenceData(TopNData):
    """What a sequential model trains on: the training interactions in the order of time.

    ``sequences``: every user's items in the order of time, with repetitions, one ragged row a user; ``times``: the same
    rows of times, float64. ``users``, ``items`` and ``history`` have every pair once, sorted by user and item, so that
    models of single interactions and of rows train on the same data. ``items_return``: some user has an item twice.
    """

    def __init__(
        self, n_users: int, n_items: int, users: Tensor, items: Tensor, times: Tensor, *, fold_in: bool = False
    ) -> None:
        """Take ``users``, ``items`` and ``times`` (n,), sorted by user and time."""
        pairs = torch.unique(users * n_items + items)
        super().__init__(n_users, n_items, pairs // n_items, pairs % n_items, fold_in=fold_in)
        self.items_return = len(pairs) < len(items)
        self.sequences = _by_user(users, items, n_users)
        self.times = Ragged(times, self.sequences.offsets)

    def user_batch(self, users: Tensor) -> SequenceUserBatch:
        """Return the batch of the given users."""
        rows = self.history.take(users), self.sequences.take(users), self.times.take(users)
        return SequenceUserBatch(users, rows[0], self.n_items, rows[1], rows[2])

    def next_items(self, batch_size: int, max_length: int, sampler: Sampler) -> NextItems:
        """Supply every user's last ``max_length`` steps once an epoch, ``batch_size`` users at a time."""
        return NextItems(self, batch_size, max_length, sampler)


class NextItems:
    """Source of ``SequenceBatch``: of each sequence the last items but one predict, one by one, what follows them."""

    def __init__(self, data: SequenceData, batch_size: int, max_length: int, sampler: Sampler) -> None:
        self._data = data
        self._batch_size = batch_size
        self._sampler = sampler
        # On the host: what decides the shapes of batches must not be asked of a device in the epoch.
        self._sizes = (data.sequences.lengths - 1).clamp(0, max_length).cpu().numpy()
        self._users = np.flatnonzero(self._sizes)

    @property
    def n_samples(self) -> int:
        """Number of items to predict."""
        return int(self._sizes.sum())

    def epoch(self, generator: torch.Generator) -> Iterator[SequenceBatch]:
        """Yield the batches of one epoch: users in random order, in a batch those with long sequences first."""
        data = self._data
        order = torch.randperm(len(self._users), generator=generator, device=data.device).cpu().numpy()
        for first in range(0, len(order), self._batch_size):
            users = self._users[order[first : first + self._batch_size]]
            users = users[np.argsort(-self._sizes[users], kind="stable")]
            yield self._batch(torch.from_numpy(users).to(data.device), self._sizes[users].tolist(), generator)

    def _batch(self, users: Tensor, sizes: list[int], generator: torch.Generator) -> SequenceBatch:
        rows, values = self._data.sequences, self._data.sequences.values
        lengths = torch.tensor(sizes, device=users.device)
        total = sum(sizes)
        places = _places(rows.offsets[users + 1] - 1 - lengths, lengths, total)
        sequences = Sequences(values[places], self._data.times.values[places], tuple(sizes))
        of_position = torch.repeat_interleave(users, lengths, output_size=total)
        positives = values[places + 1]
        drawn = self._sampler.draw(of_position, positives, generator)
        return SequenceBatch(of_position, positives, drawn.items, drawn.log_counts, drawn.mask, sequences=sequences)


class SequentialTask(RankingTask[SequenceData]):
    """Next-item recommendation: users are judged by what they were shown to have had, in the order of time."""

    name: ClassVar[str] = "sequential"

    def training_data(self, development: Development) -> SequenceData:
        """Put the training interactions on the device."""
        train, meta = development.train, development.meta
        return SequenceData(
            meta["n_users"],
            meta["n_items"],
            to_device(train["users"], self.device),
            to_device(train["items"], self.device),
            torch.from_numpy(train["times"].astype(np.float64)).to(self.device),
            fold_in=meta.get("fold_in", False),
        )

    @property
    def ranks_seen(self) -> bool:
        """Whether what a user has had may be next: if the training sequences come back to items."""
        return self.data.items_return

    def batches_of(self, part: Arrays) -> Callable[[Tensor], UserBatch]:
        """Return what makes the batch of given users: training, then what is shown with the part."""
        return self._shown_with(part).user_batch

    def _known(self, part: Arrays) -> Ragged:
        return self._shown_with(part).history

    def _shown_with(self, part: Arrays) -> SequenceData:
        """Return what is known of users when a part is judged, in the form of training data."""
        if "history_users" not in part:
            return self.data
        columns = [part[f"history_{name}"] for name in ("users", "items", "times")]
        if not self.data.fold_in:
            before = [self._train[name] for name in ("users", "items", "times")]
            columns = [np.concatenate(pair) for pair in zip(before, columns, strict=True)]
            # What is shown comes after all training rows of its user.
            order = np.argsort(columns[0], kind="stable")
            columns = [column[order] for column in columns]
        users, items = (to_device(column, self.device) for column in columns[:2])
        times = torch.from_numpy(columns[2].astype(np.float64)).to(self.device)
        return SequenceData(self.data.n_users, self.data.n_items, users, items, times, fold_in=self.data.fold_in)


def _places(starts: Tensor, sizes: Tensor, total: int) -> Tensor:
    """Return ``starts[r], ..., starts[r] + sizes[r] - 1`` for all rows r one after the other, shape (total,)."""
    shift = starts - (sizes.cumsum(0) - sizes)
    return torch.arange(total, device=starts.device) + torch.repeat_interleave(shift, sizes, output_size=total)


def _by_user(users: Tensor, values: Tensor, n_users: int) -> Ragged:
    counts = torch.bincount(users, minlength=n_users)
    return Ragged(values, torch.cat([counts.new_zeros(1), counts.cumsum(0)]))
