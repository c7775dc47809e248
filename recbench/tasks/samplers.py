"""Samplers: which unseen items a model is told to score below the ones a user has chosen.

A sampler draws in the source of batches, without the model; ``refine`` may then choose again with the model's scores,
in the step itself. What it draws comes with what losses need to correct for it: how often each item is expected in a
sample, and which draws do not count. A sampler that draws the positives, too, has ``batches`` of its own.
"""

# Shapes: U users, I items, B batch, N negatives of each row.

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from recbench.tasks.batches import BatchSource
    from recbench.tasks.interactions import PairBatch, TopNData

Score = Callable[[Tensor, Tensor], Tensor]
"""Scores (B, N) of rows' users, or whatever stands in their place, (B,) for items (B, N)."""

SamplerName = Literal["uniform", "shared", "popularity", "shared-popularity", "in-batch", "hard", "all"]


@dataclass(frozen=True)
class Negatives:
    """Items drawn for B rows.

    ``items`` is (B, N), or (N,) where all rows share them. ``log_counts``, of that shape or one that expands to it, is
    the logarithm of the number of times each is expected in a row's sample; None where there is nothing to correct
    for, or it is not known. ``mask`` (B, N) says which count; None: all.
    """

    items: Tensor
    log_counts: Tensor | None = None
    mask: Tensor | None = None


class Sampler(nn.Module):
    """Uniform over the items that the user has not interacted with, ``number`` for each row. Exact, with repetition.

    A module, so that what a sampler counts or learns is in checkpoints.
    """

    by_row: ClassVar[bool] = True
    """Whether each row has negatives of its own, drawn independently of the others."""

    def __init__(self, data: TopNData, number: int) -> None:
        super().__init__()
        self.data = data
        self.number = number
        self._log_counts = (number / (data.n_items - data.history.lengths).clamp(min=1)).log()

    def batches(self, batch_size: int) -> BatchSource[PairBatch]:
        """Supply the batches of training: every interaction once an epoch, with what ``draw`` gives for it."""
        return self.data.pairs(batch_size, self)

    def draw(self, users: Tensor, positives: Tensor, generator: torch.Generator) -> Negatives:
        """Draw for rows of ``users`` (B,) and ``positives`` (B,)."""
        return Negatives(self.data.sample_unseen(users, self.number, generator), self._log_counts[users, None])

    def refine(self, batch: PairBatch, score: Score) -> PairBatch:
        """Choose among what was drawn, with the model as it is; without gradients.

        Random numbers come from torch's global generator.
        """
        return batch


class Shared(Sampler):
    """Uniform over all items, the same ``number`` for all rows of a batch: their scores are one matrix product.

    A row's own positive does not count; other items that the user has seen do.
    """

    by_row = False

    def draw(self, users: Tensor, positives: Tensor, generator: torch.Generator) -> Negatives:
        """Draw once for all rows."""
        n_items = self.data.n_items
        items = torch.randint(n_items, (self.number,), generator=generator, device=users.device)
        log_counts = torch.full((1,), math.log(self.number / n_items), device=users.device)
        return Negatives(items, log_counts, items != positives[:, None])


class All(Sampler):
    """Every item once: no sample at all. With the softmax loss this is the full cross-entropy."""

    by_row = False

    def __init__(self, data: TopNData) -> None:
        super().__init__(data, data.n_items)

    def draw(self, users: Tensor, positives: Tensor, generator: torch.Generator) -> Negatives:
        """Return all items; a row's own positive does not count."""
        items = torch.arange(self.data.n_items, device=users.device)
        return Negatives(items, None, items != positives[:, None])


class Popularity(Sampler):
    """In proportion to ``count ** exponent`` of the items; a draw that the user has seen does not count."""

    def __init__(self, data: TopNData, number: int, exponent: float) -> None:
        super().__init__(data, number)
        counts = torch.bincount(data.items, minlength=data.n_items).double()
        cumulative = counts.pow(exponent).where(counts > 0, 0.0).cumsum(0)
        # The last is 1 exactly, and a number drawn is less: no item without interactions comes from rounding.
        self._cumulative = cumulative / cumulative[-1]
        self._log_counts = (number * self._cumulative.diff(prepend=counts.new_zeros(1))).log().float()

    def draw(self, users: Tensor, positives: Tensor, generator: torch.Generator) -> Negatives:
        """Draw for each row."""
        items = self.popular((len(users), self.number), generator)
        return Negatives(items, self.log_counts(items), ~self.data.seen(users, items))

    def popular(self, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw items of that shape by popularity alone."""
        uniform = torch.rand(size, generator=generator, device=self.data.device, dtype=torch.float64)
        return torch.searchsorted(self._cumulative, uniform, right=True)

    def log_counts(self, items: Tensor) -> Tensor:
        """Return the logarithm of how often items are expected among ``number`` draws, of their shape."""
        return self._log_counts[items]


class SharedPopularity(Popularity):
    """In proportion to ``count ** exponent``, the same ``number`` for all rows of a batch, as GRU4Rec draws them.

    A row's own positive does not count; other items that the user has seen do.
    """

    by_row = False

    def draw(self, users: Tensor, positives: Tensor, generator: torch.Generator) -> Negatives:
        """Draw once for all rows."""
        items = self.popular((self.number,), generator)
        return Negatives(items, self.log_counts(items), items != positives[:, None])


class InBatch(Sampler):
    """The positives of the other rows, which come in proportion to their popularity.

    Rows of the same positive do not count as negatives of each other; other items that the user has seen do.
    """

    by_row = False

    def __init__(self, data: TopNData) -> None:
        super().__init__(data, 1)
        counts = torch.bincount(data.items, minlength=data.n_items)
        # Of the interactions but one, which is the row's own.
        self._log_shares = (counts / max(1, len(data.items) - 1)).log()

    def draw(self, users: Tensor, positives: Tensor, generator: torch.Generator) -> Negatives:
        """Return the batch's positives."""
        log_counts = self._log_shares[positives] + math.log(max(1, len(users) - 1))
        return Negatives(positives, log_counts, positives != positives[:, None])


class Hard(Sampler):
    """Dynamic hard negatives: of ``candidates`` uniform unseen items the one the model now scores highest.

    Source: Zhang, Chen, Wang, Yu, "Optimizing Top-N Collaborative Filtering via Dynamic Negative Item Sampling", SIGIR
    2013. ``number`` times for each row.
    """

    def __init__(self, data: TopNData, number: int, candidates: int) -> None:
        super().__init__(data, number * candidates)
        self._candidates = candidates

    def refine(self, batch: PairBatch, score: Score) -> PairBatch:
        """Keep the hardest of each group of candidates. How often each is kept is not known."""
        scores = score(batch.users, batch.negatives).unflatten(1, (-1, self._candidates))
        groups = batch.negatives.unflatten(1, (-1, self._candidates))
        hardest = groups.gather(2, scores.argmax(2, keepdim=True)).squeeze(2)
        return replace(batch, negatives=hardest, log_counts=None)


def make_sampler(
    name: SamplerName, data: TopNData, number: int, *, exponent: float = 1.0, candidates: int = 1
) -> Sampler:
    """Return the sampler of that name; ``exponent`` is of both by popularity, ``candidates`` of hard negatives."""
    makers: dict[SamplerName, Callable[[], Sampler]] = {
        "uniform": lambda: Sampler(data, number),
        "shared": lambda: Shared(data, number),
        "popularity": lambda: Popularity(data, number, exponent),
        "shared-popularity": lambda: SharedPopularity(data, number, exponent),
        "in-batch": lambda: InBatch(data),
        "hard": lambda: Hard(data, number, candidates),
        "all": lambda: All(data),
    }
    return makers[name]()
