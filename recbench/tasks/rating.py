"""Task ``rating``: predict whether a user likes an item, from ratings that users chose to give.

Judged on ratings of random items (missing at random), so that a model is not rewarded for knowing what people rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import Tensor

from recbench.data.store import Arrays
from recbench.errors import RecbenchError
from recbench.metrics import names, pointwise, ranking
from recbench.tasks import predictions
from recbench.tasks.base import Development, Evaluation, Tables, Task, finite, per_group, without_both_classes
from recbench.tasks.batches import blocks, to_device
from recbench.tasks.linting import Report, lint_pairs

if TYPE_CHECKING:
    import polars as pl

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

    def __len__(self) -> int:
        """Return the number of observed pairs."""
        return len(self.users)

    def take(self, rows: Tensor) -> RatingData:
        """Return the data with the given observed pairs only."""
        return RatingData(
            self.n_users,
            self.n_items,
            self.users[rows],
            self.items[rows],
            self.labels[rows],
            self.propensities,
            self.positive_share,
        )

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

    def training_data(self, development: Development) -> RatingData:
        """Put the observed pairs and the published propensities on the device."""
        train, meta = development.train, development.meta
        propensities = development.shared.get("propensities")
        return RatingData(
            meta["n_users"],
            meta["n_items"],
            to_device(train["users"], self.device),
            to_device(train["items"], self.device),
            torch.tensor(train["labels"], device=self.device),
            None if propensities is None else torch.tensor(propensities, device=self.device),
            float(development.valid["labels"].mean()),
        )

    def evaluate(
        self, model: Predictor, part: Arrays, *, seen: Arrays | None = None, metrics: Sequence[str] | None = None
    ) -> Evaluation:
        """Predict every pair of the part and measure."""
        users, items = to_device(part["users"], self.device), to_device(part["items"], self.device)
        pairs = zip(blocks(users, PAIRS_AT_ONCE), blocks(items, PAIRS_AT_ONCE), strict=True)
        scores = torch.cat([model.predict(*pair).double() for pair in pairs])
        return self.judge(finite(scores, (len(users),), "predict()"), part, metrics)

    def judge_file(self, frame: pl.DataFrame, part: Arrays, seen: Arrays) -> Evaluation:
        """Judge scores ``user, item, score``."""
        return self.judge(predictions.pair_scores(frame, self._shared, part["users"], part["items"]), part)

    def judge(self, scores: Tensor, part: Arrays, metrics: Sequence[str] | None = None) -> Evaluation:
        """Measure predictions (N,) float64 of the part's pairs.

        Predictions: ``user, item, score``. Metrics of lists rank each user's own pairs of the part and are averaged
        over the users with a positive one; the others are counted in ``users_without_truth``.
        """
        scores = scores.to(self.device)
        users, items = to_device(part["users"], self.device), to_device(part["items"], self.device)
        labels = torch.tensor(part["labels"], device=self.device).double()
        measured = metrics or self.benchmark.metrics
        in_lists = [name for name in measured if names.pattern(name) in names.LISTS]
        others = [name for name in measured if name not in in_lists]
        values = pointwise.pointwise_metrics(scores, labels, others, groups=users)
        length = max((names.parse(name)[1] for name in in_lists), default=1)
        lists = ranking.grouped_lists(scores, labels, users, items, length)
        if in_lists and not bool(lists.n_relevant.any()):
            raise RecbenchError(
                f"{in_lists[0]} is not defined: none of the {len(lists.groups)} users has a positive row in the part"
            )
        of_user = ranking.ranking_metrics(lists.gains, lists.n_relevant, in_lists)
        values |= {name: float(of_each.nanmean()) for name, of_each in of_user.items()}

        def tables() -> Tables:
            import polars as pl

            user_ids = self._shared["user_ids"]
            per_user = per_group(others, scores, labels, users, user_ids)
            return Tables(
                per_user=per_user.with_columns(**{name: v.cpu().numpy() for name, v in of_user.items()}),
                predictions=pl.DataFrame(
                    {
                        "user": user_ids[part["users"]],
                        "item": self._shared["item_ids"][part["items"]],
                        "score": scores.cpu().numpy(),
                    }
                ),
            )

        return Evaluation(
            metrics={name: values[name] for name in measured},
            tables=tables,
            diagnostics={
                "tie_rate": float(lists.tied.double().mean()),
                "users_without_truth": int((lists.n_relevant == 0).sum()),
                "undefined": without_both_classes(measured, labels, users),
            },
        )

    def lint(self, test: Arrays) -> Report:
        """Look for test pairs that are also in training or validation."""
        return lint_pairs(test, {"training": self._train, "validation": self._valid})
