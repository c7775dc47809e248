"""Task ``rating``: predict whether a user likes an item, from ratings that users chose to give.

Judged on ratings of random items (missing at random), so that a model is not rewarded for knowing what people rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from recbench.data.store import Arrays, Prepared
from recbench.errors import RecbenchError
from recbench.metrics import pointwise, ranking
from recbench.metrics.names import parse
from recbench.tasks.base import Evaluation, Tables, Task, repeated_pairs
from recbench.tasks.batches import blocks, to_device

PAIRS_AT_ONCE = 2**16


@dataclass(frozen=True)
class RatingBatch:
    """Observed pairs: users (B,), items (B,), labels (B,) 0 or 1; and pairs drawn from the whole space.

    ``space_users``, ``space_items``: (S,) uniform over all user-item pairs, observed or not.
    """

    users: Tensor
    items: Tensor
    labels: Tensor
    space_users: Tensor
    space_items: Tensor

    def __len__(self) -> int:
        return len(self.users)


class RatingData:
    """What a rating model trains on.

    ``users``, ``items``, ``labels``: (n,) observed training pairs. ``propensities``: (U, I) probabilities of being
    observed as published with the dataset (None where unknown). ``positive_share``: share of positive labels among
    the missing-at-random validation ratings, which naive-Bayes propensities need; nothing else of them is here.
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        users: Tensor,
        items: Tensor,
        labels: Tensor,
        propensities: Tensor | None,
        positive_share: float,
    ) -> None:
        self.n_users = n_users
        self.n_items = n_items
        self.users = users
        self.items = items
        self.labels = labels
        self.propensities = propensities
        self.positive_share = positive_share

    @property
    def n_pairs(self) -> int:
        """Number of user-item pairs, |D|."""
        return self.n_users * self.n_items

    @property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self.users.device

    def observed(self) -> Tensor:
        """Return the indicator matrix of observed pairs, shape (U, I), float32."""
        matrix = torch.zeros(self.n_users, self.n_items, device=self.device)
        matrix[self.users, self.items] = 1.0
        return matrix

    def ratings(self, batch_size: int, space_per_observed: int = 0) -> Ratings:
        """Supply every observed pair once an epoch, with that many pairs of the whole space for each."""
        return Ratings(self, batch_size, space_per_observed)


class Ratings:
    """Source of ``RatingBatch``."""

    def __init__(self, data: RatingData, batch_size: int, space_per_observed: int) -> None:
        self._data = data
        self._batch_size = batch_size
        self._space = space_per_observed

    @property
    def n_samples(self) -> int:
        """Number of observed pairs."""
        return len(self._data.users)

    def epoch(self, generator: torch.Generator) -> Iterator[RatingBatch]:
        """Yield the batches of one epoch."""
        data = self._data
        order = torch.randperm(len(data.users), generator=generator, device=data.device)
        for chosen in blocks(order, self._batch_size):
            pairs = torch.randint(data.n_pairs, (len(chosen) * self._space,), generator=generator, device=data.device)
            yield RatingBatch(
                data.users[chosen],
                data.items[chosen],
                data.labels[chosen],
                pairs // data.n_items,
                pairs % data.n_items,
            )


class Predictor(Protocol):
    """What the task asks of a model."""

    def predict(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the probability that each pair is positive, shape (B,)."""
        ...


class RatingTask(Task[RatingData, Predictor]):
    """Debiased rating prediction on a missing-at-random test set."""

    name: ClassVar[str] = "rating"

    def training_data(self, shared: Arrays, train: Arrays, prepared: Prepared) -> RatingData:
        """Put the observed pairs and the published propensities on the device."""
        propensities = shared.get("propensities")
        return RatingData(
            prepared.meta["n_users"],
            prepared.meta["n_items"],
            to_device(train["users"], self.device),
            to_device(train["items"], self.device),
            torch.tensor(train["labels"], device=self.device),
            None if propensities is None else torch.tensor(propensities, device=self.device),
            float(self._valid["labels"].mean()),
        )

    def evaluate(self, model: Predictor, part: Arrays, *, seen: Arrays | None = None) -> Evaluation:
        """Predict every pair of the part and measure.

        Predictions: ``user, item, score`` (probability). ndcg@k ranks each user's own rated items of the part and is
        averaged over users with a positive one; the others are counted in ``users_without_truth``.
        """
        users, items = to_device(part["users"], self.device), to_device(part["items"], self.device)
        labels = torch.tensor(part["labels"], device=self.device).double()
        pairs = zip(blocks(users, PAIRS_AT_ONCE), blocks(items, PAIRS_AT_ONCE), strict=True)
        scores = torch.cat([model.predict(*pair).double() for pair in pairs])
        if scores.shape != labels.shape:
            raise RecbenchError(f"predict() returned shape {tuple(scores.shape)}, expected {tuple(labels.shape)}")
        if not bool(torch.isfinite(scores).all()):
            raise RecbenchError(f"{int((~torch.isfinite(scores)).sum())} of {len(scores)} predictions are not finite")
        ranked = [name for name in self.benchmark.metrics if "@" in name]
        metrics = pointwise.pointwise_metrics(scores, labels, [n for n in self.benchmark.metrics if n not in ranked])
        groups = torch.unique(users)
        columns: dict[str, NDArray[Any]] = {"user": self._shared["user_ids"][groups.cpu().numpy()]}
        without_truth = 0
        for name in ranked:
            _, values = ranking.grouped_ndcg(scores, labels, users, parse(name)[1], ids=items)
            without_truth = int(values.isnan().sum())
            metrics[name] = float(values.nanmean())
            columns[name] = values.cpu().numpy()

        def tables() -> Tables:
            import polars as pl

            return Tables(
                per_user=pl.DataFrame(columns),
                predictions=pl.DataFrame(
                    {
                        "user": self._shared["user_ids"][part["users"]],
                        "item": self._shared["item_ids"][part["items"]],
                        "score": scores.cpu().numpy(),
                    }
                ),
            )

        return Evaluation(
            metrics={name: metrics[name] for name in self.benchmark.metrics},
            tables=tables,
            diagnostics={"users_without_truth": float(without_truth)},
        )

    def leaks(self, test: Arrays) -> list[str]:
        """Find test pairs that are also in training or validation."""
        return repeated_pairs(test, {"training": self._train, "validation": self._valid}, self.data.n_items)
