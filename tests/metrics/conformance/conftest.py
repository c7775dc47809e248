"""Inputs on which metrics are compared with other libraries: random ones, and those on which libraries fall out."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

# Interpreted, ranx needs seconds for these inputs; compiling it takes a minute. Before numba is imported.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")

import numpy as np
import pytest
import torch
from torch import Tensor

from recbench.metrics.ranking import ranking_metrics
from recbench.metrics.topk import top_k

# Shape suffixes: U users, I items.


@dataclass(frozen=True)
class Rankings:
    """Scores (U, I) float64, -inf for items that are no candidates; and which items are relevant, (U, I) bool."""

    scores: Tensor
    relevant: Tensor

    @cached_property
    def items(self) -> Tensor:
        """All candidates of each user, best first, filled up with -1: (U, I)."""
        users = torch.arange(len(self.scores))
        return top_k(self.scores, self.scores.shape[1], users)[0]

    @cached_property
    def hits(self) -> Tensor:
        return self.relevant.gather(1, self.items.clamp(min=0)) & (self.items >= 0)

    @cached_property
    def n_relevant(self) -> Tensor:
        return self.relevant.sum(1)

    @cached_property
    def judged(self) -> Tensor:
        """Users with a relevant item."""
        return self.n_relevant > 0

    def values(self, name: str) -> np.ndarray:
        """Our metric of each user, (U,), NaN for users without a relevant item."""
        hits, k = self.hits, int(name.partition("@")[2] or 0)
        if k > hits.shape[1]:
            hits = torch.nn.functional.pad(hits, (0, k - hits.shape[1]))
        return ranking_metrics(hits, self.n_relevant, [name])[name].numpy()

    def users(self) -> Iterable[tuple[int, Tensor, Tensor]]:
        """Each user's number, candidates, best first, and which of them are relevant."""
        for user, row in enumerate(self.items):
            items = row[row >= 0]
            yield user, items, self.relevant[user, items]

    def truth(self) -> dict[str, dict[str, int]]:
        """Judgements in the form of TREC; an irrelevant item for users without a relevant one."""
        return {
            f"u{user}": {f"i{item}": 1 for item in row.nonzero()[:, 0].tolist()} or {"none": 0}
            for user, row in enumerate(self.relevant)
        }

    def run(self) -> dict[str, dict[str, float]]:
        """The rankings in the form of TREC, by scores that show the order and are never tied."""
        return {
            f"u{user}": {f"i{item}": 1 / rank for rank, item in enumerate(items.tolist(), 1)}
            for user, items, _ in self.users()
        }


def _rankings(n_users: int, n_items: int, seed: int = 0, share: float = 0.15, unseen: float = 0.9) -> Rankings:
    """Random scores; each item relevant with probability ``share``, else a candidate with probability ``unseen``.

    Every user has a relevant item.
    """
    generator = torch.Generator().manual_seed(seed)
    relevant = torch.rand(n_users, n_items, generator=generator) < share
    relevant[torch.arange(n_users), torch.randint(n_items, (n_users,), generator=generator)] = True
    candidates = relevant | (torch.rand(n_users, n_items, generator=generator) < unseen)
    scores = torch.randn(n_users, n_items, generator=generator, dtype=torch.float64)
    return Rankings(scores.masked_fill(~candidates, -torch.inf), relevant)


def _one_relevant() -> Rankings:
    base = _rankings(30, 25, seed=1)
    relevant = torch.zeros_like(base.relevant)
    relevant[torch.arange(30), torch.arange(30) % 25] = True
    return Rankings(base.scores.masked_fill(relevant, 0.3), relevant)


def _few_candidates() -> Rankings:
    """Two to four candidates each, and relevant items that are not among them."""
    base = _rankings(30, 25, seed=2, share=0.3, unseen=1)
    keep = 2 + torch.arange(30)[:, None] % 3
    return Rankings(base.scores.masked_fill(torch.arange(25) >= keep, -torch.inf), base.relevant)


def _empty_truth() -> Rankings:
    base = _rankings(30, 25, seed=3)
    return Rankings(base.scores, base.relevant & (torch.arange(30)[:, None] % 3 > 0))


def _all_relevant() -> Rankings:
    base = _rankings(10, 25, seed=4, unseen=1)
    return Rankings(base.scores, torch.ones_like(base.relevant))


def _no_hit() -> Rankings:
    base = _rankings(30, 40, seed=5, share=0.05)
    return Rankings(torch.where(base.relevant, base.scores - 100, base.scores), base.relevant)


def _magnitudes() -> Rankings:
    """Scores from 1e-290 to 1e290 and their negatives."""
    base = _rankings(30, 25, seed=6)
    scores = base.scores.sign() * 10 ** (base.scores.abs() * 100).clamp(max=290)
    return Rankings(torch.where(torch.arange(25) % 2 > 0, scores, scores.sign() / scores.abs()), base.relevant)


def _tied() -> Rankings:
    base = _rankings(60, 25, seed=7)
    return Rankings(base.scores.round(), base.relevant)


def _constant() -> Rankings:
    base = _rankings(60, 25, seed=8)
    return Rankings(base.scores.masked_fill(base.scores.isfinite(), 0.5), base.relevant)


UNTIED = {
    "random, 40 x 30": _rankings(40, 30),
    "random, 8 x 200": _rankings(8, 200, seed=10),
    "random, 150 x 12": _rankings(150, 12, seed=11),
    "more relevant than k": _rankings(30, 25, seed=12, share=0.8),
    "one relevant": _one_relevant(),
    "few candidates": _few_candidates(),
    "empty truth": _empty_truth(),
    "all relevant": _all_relevant(),
    "no hit": _no_hit(),
    "huge and tiny scores": _magnitudes(),
}
TIED = {"heavy ties": _tied(), "constant scores": _constant()}


@pytest.fixture(params=[*UNTIED, *TIED])
def rankings(request) -> Rankings:
    """All inputs. Where scores tie, the order to judge is that of ``top_k``."""
    return (UNTIED | TIED)[request.param]


@pytest.fixture(params=UNTIED)
def untied(request) -> Rankings:
    """The inputs without ties."""
    return UNTIED[request.param]


@pytest.fixture(params=TIED)
def tied(request) -> Rankings:
    """The inputs with ties."""
    return TIED[request.param]


@dataclass(frozen=True)
class Predictions:
    """Probabilities (N,) float64, labels (N,) 0 or 1 of both classes, and the users (N,) of the rows."""

    probabilities: Tensor
    labels: Tensor
    users: Tensor


def _predictions(n: int, seed: int, positive: float = 0.3, digits: int | None = None) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(n, generator=generator) < positive).long()
    labels[:2] = torch.tensor([0, 1])
    logits = torch.randn(n, generator=generator, dtype=torch.float64) + labels - 1
    probabilities = logits.sigmoid()
    if digits is not None:
        probabilities = (probabilities * 10**digits).round() / 10**digits
    return Predictions(probabilities, labels, torch.randint(max(2, n // 12), (n,), generator=generator))


def _certain() -> Predictions:
    base = _predictions(300, seed=3)
    return Predictions((base.probabilities * 4 - 1.5).clamp(0, 1), base.labels, base.users)


def _near_zero() -> Predictions:
    base = _predictions(300, seed=4)
    return Predictions(base.probabilities * 1e-9, base.labels, base.users)


def _one_value() -> Predictions:
    base = _predictions(300, seed=5)
    return Predictions(torch.full_like(base.probabilities, 0.2), base.labels, base.users)


PREDICTIONS = {
    "random, 2": _predictions(2, seed=0),
    "random, 37": _predictions(37, seed=1),
    "random, 1000": _predictions(1000, seed=2),
    "one in a hundred positive": _predictions(1000, seed=6, positive=0.01),
    "heavy ties": _predictions(500, seed=7, digits=1),
    "certain": _certain(),
    "tiny": _near_zero(),
    "constant": _one_value(),
}


@pytest.fixture(params=PREDICTIONS)
def predictions(request) -> Predictions:
    """Probabilities and labels, in random order."""
    return PREDICTIONS[request.param]


@dataclass(frozen=True)
class Recommendations:
    """Lists (U, k) of items without gaps, the training pairs' marks (U, I) and the relevant ones', (U, I)."""

    items: Tensor
    trained: Tensor
    relevant: Tensor


@pytest.fixture(params=[(50, 40, 5), (200, 30, 10), (6, 100, 4)], ids=str)
def recommendations(request) -> Recommendations:
    """Lists of three sizes; some items have no training user, and many items' popularity is level."""
    n_users, n_items, k = request.param
    generator = torch.Generator().manual_seed(n_users)
    share = torch.linspace(0, 0.5, n_items)
    trained = torch.rand(n_users, n_items, generator=generator) < share
    trained[:, -1] |= ~trained.any(1)
    relevant = (torch.rand(n_users, n_items, generator=generator) < 0.3) & ~trained
    scores = torch.rand(n_users, n_items, generator=generator).masked_fill(trained, -torch.inf)
    return Recommendations(scores.topk(k).indices, trained, relevant)
