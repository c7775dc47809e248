"""Samplers: which unseen items a model is told to score below the ones a user has chosen.

A sampler draws in the source of batches, without the model; ``refine`` may then choose again with the model's scores,
in the step itself. What it draws comes with what losses need to correct for it: how often each item is expected in a
sample, and which draws do not count. A sampler that also draws the positives makes batches of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from recbench.tasks.interactions import PairBatch, TopNData

Score = Callable[[Tensor, Tensor], Tensor]
"""Scores (B, N) of rows' users, or whatever stands in their place, (B,) for items (B, N)."""

SamplerName = Literal["uniform", "shared", "popularity", "in-batch", "hard", "all"]


@dataclass(frozen=True)
class Negatives:
    """Items drawn for B rows.

    ``items`` is (B, N), or (N,) where all rows share them. ``log_counts``, of that shape or one that expands to it, is
    the logarithm of the number of times each is expected in a row's sample; None where it is not known. ``mask``
    (B, N) says which count; None: all.
    """

    items: Tensor
    log_counts: Tensor | None = None
    mask: Tensor | None = None


class Sampler:
    """Uniform over the items that the user has not interacted with, ``number`` for each row. Exact, with repetition."""

    def __init__(self, data: TopNData, number: int) -> None:
        self.data = data
        self.number = number

    def draw(self, users: Tensor, positives: Tensor, generator: torch.Generator) -> Negatives:
        """Draw for rows of ``users`` (B,) and ``positives`` (B,)."""
        unseen = self.data.n_items - self.data.history.lengths[users]
        log_counts = (self.number / unseen.clamp(min=1)).log_()[:, None]
        return Negatives(self.data.sample_unseen(users, self.number, generator), log_counts)

    def refine(self, batch: PairBatch, score: Score) -> PairBatch:
        """Choose among what was drawn, with the model as it is."""
        return batch


class Shared(Sampler):
    """Uniform over all items, the same ``number`` for all rows of a batch: their scores are one matrix product.

    A row's own positive does not count; other items that the user has seen do.
    """

    def draw(self, users: Tensor, positives: Tensor, generator: torch.Generator) -> Negatives:
        """Draw once for all rows."""
        n_items = self.data.n_items
        items = torch.randint(n_items, (self.number,), generator=generator, device=users.device)
        log_counts = torch.full((1,), self.number / n_items, device=users.device).log_()
        return Negatives(items, log_counts, items != positives[:, None])


class All(Sampler):
    """Every item once: no sample at all. With the softmax loss this is the full cross-entropy."""

    def draw(self, users: Tensor, positives: Tensor, generator: torch.Generator) -> Negatives:
        """Return all items; a row's own positive does not count."""
        items = torch.arange(self.data.n_items, device=users.device)
        return Negatives(items, torch.zeros(1, device=users.device), items != positives[:, None])


class Popularity(Sampler):
    """In proportion to ``count ** exponent`` of the items; a draw that the user has seen does not count."""

    def __init__(self, data: TopNData, number: int, exponent: float) -> None:
        super().__init__(data, number)
        counts = torch.bincount(data.items, minlength=data.n_items).double()
        shares = counts.pow(exponent).where(counts > 0, 0.0)
        self._cumulative = (shares / shares.sum()).cumsum(0)
        self._log_counts = (number * shares / shares.sum()).log().float()

    def draw(self, users: Tensor, positives: Tensor, generator: torch.Generator) -> Negatives:
        """Draw for each row."""
        size = (len(users), self.number)
        uniform = torch.rand(size, generator=generator, device=users.device, dtype=torch.float64)
        # Rounding may leave the last share a little below 1.
        items = torch.searchsorted(self._cumulative, uniform, right=True).clamp_(max=self.data.n_items - 1)
        return Negatives(items, self._log_counts[items], ~self.data.seen(users, items))


class InBatch(Sampler):
    """The positives of the other rows, which come in proportion to their popularity.

    Rows of the same positive do not count as negatives of each other.
    """

    def __init__(self, data: TopNData) -> None:
        super().__init__(data, 1)
        counts = torch.bincount(data.items, minlength=data.n_items)
        self._log_shares = (counts / len(data.items)).log()

    def draw(self, users: Tensor, positives: Tensor, generator: torch.Generator) -> Negatives:
        """Return the batch's positives."""
        log_counts = self._log_shares[positives] + torch.full((), len(users), device=users.device).log()
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
        """Keep the hardest of each group of candidates."""
        with torch.no_grad():
            scores = score(batch.users, batch.negatives).unflatten(1, (-1, self._candidates))
        groups = batch.negatives.unflatten(1, (-1, self._candidates))
        hardest = groups.gather(2, scores.argmax(2, keepdim=True)).squeeze(2)
        return replace(batch, negatives=hardest, log_counts=None)


def make_sampler(
    name: SamplerName, data: TopNData, number: int, *, exponent: float = 1.0, candidates: int = 1
) -> Sampler:
    """Return the sampler of that name; ``exponent`` is of popularity, ``candidates`` of hard negatives."""
    match name:
        case "uniform":
            return Sampler(data, number)
        case "shared":
            return Shared(data, number)
        case "popularity":
            return Popularity(data, number, exponent)
        case "in-batch":
            return InBatch(data)
        case "hard":
            return Hard(data, number, candidates)
        case "all":
            return All(data, data.n_items)
