"""Full ranking of the unseen items: lists made by a model or taken from a file, and how they are judged."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from recbench.data.protocols.interactions import Implicit
from recbench.data.store import Arrays
from recbench.errors import RecbenchError
from recbench.metrics import beyond, names, ranking, topk
from recbench.tasks import attributes, predictions
from recbench.tasks.base import ACTIVITY, Benchmark, Development, Evaluation, Tables, Task
from recbench.tasks.batches import Ragged, blocks, to_device
from recbench.tasks.interactions import TopNData, UserBatch
from recbench.tasks.linting import Report, lint_pairs, lint_times, promised_order

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger("recbench")

SCORES_AT_ONCE = {"cpu": 2**22, "cuda": 2**26}
"""Scores held at once during an evaluation, whatever the number of users and items.

16 MiB of float32 on a CPU: a product of fewer rows reads the items' vectors too often, and what is much larger leaves
the caches before the selection.
"""

DEFAULT_LENGTH = 10
"""Of the lists, where no metric has a cutoff."""


class Ranker(Protocol):
    """What the task asks of a model."""

    def prepare_scoring(self) -> None:
        """Compute once what many calls of ``score`` share."""

    def score(self, batch: UserBatch) -> Tensor:
        """Return the scores of all items, shape (B, I)."""
        ...


@dataclass(frozen=True)
class Lists:
    """Each judged user's best unseen items.

    ``users`` (U,) int64 ascending; ``items`` (U, K) int64, best first, -1 where a list is short; ``scores`` (U, K),
    -inf where it is short; ``tied`` (U,) bool: whether equal scores were ordered by chance. ``auc`` (U,): each user's
    AUC over all candidates, if it was asked for and all scores are known.
    """

    users: Tensor
    items: Tensor
    scores: Tensor
    tied: Tensor
    auc: Tensor | None = None


@dataclass(frozen=True)
class Truth:
    """A part's relevant items: ``users`` (U,) ascending, ``counts`` (U,) items of each, sorted ``keys`` of pairs."""

    users: Tensor
    counts: Tensor
    keys: Tensor


class _ByPopularity:
    """Scores every item by its number of training interactions: what serendipity is measured against."""

    def __init__(self, popularity: Tensor) -> None:
        self._popularity = popularity

    def prepare_scoring(self) -> None:
        pass

    def score(self, batch: UserBatch) -> Tensor:
        return self._popularity.float().repeat(len(batch), 1)


DataT = TypeVar("DataT", bound=TopNData)


class RankingTask(Task[DataT, Ranker], Generic[DataT]):
    """Full ranking of the unseen items of every user with test items."""

    @property
    def ranks_seen(self) -> bool:
        """Whether seen items are ranked, too."""
        return False

    def __init__(self, benchmark: Benchmark, development: Development, device: torch.device) -> None:
        super().__init__(benchmark, development, device)
        # Read before training, so that a column that is not there fails a run at its start.
        users, items = self._shared["user_ids"], self._shared["item_ids"]
        self._groups = {
            attribute: attributes.user_groups(benchmark.dataset, column, users).to(device)
            for attribute, column in benchmark.user_groups.items()
        }
        column = benchmark.item_features
        vectors = None if column is None else attributes.item_vectors(benchmark.dataset, column, items)
        self._item_vectors = None if vectors is None else vectors.to(device)

    def evaluate(
        self, model: Ranker, part: Arrays, *, seen: Arrays | None = None, metrics: Sequence[str] | None = None
    ) -> Evaluation:
        """Rank, in blocks of users, and measure."""
        metrics = metrics or self.benchmark.metrics
        return self.judge(self.rank(model, part, seen, metrics), part, seen, metrics)

    def judge_file(self, frame: pl.DataFrame, part: Arrays, seen: Arrays) -> Evaluation:
        """Judge lists ``user, item, score`` and optionally ``rank``."""
        metrics, truth = self.benchmark.metrics, self._truth(part)
        known = [_nothing(part)] if self.ranks_seen else [self._train, seen, *_shown(part)]
        length = self._length(truth, metrics)
        columns, coverage = predictions.lists(frame, self._shared, truth.users, length, known)
        evaluation = self.judge(Lists(*columns), part, seen, metrics)
        return replace(evaluation, diagnostics=evaluation.diagnostics | coverage)

    def rank(self, model: Ranker, part: Arrays, seen: Arrays | None, metrics: Sequence[str]) -> Lists:
        """Return a model's lists, of the length the metrics need, for all users with relevant items in the part."""
        data = self.data
        truth = self._truth(part)
        length = self._length(truth, metrics)
        wants_auc = any("uauc" in name for name in metrics)
        hidden = [rows for rows in (self._rows(part, "history_"), self._rows(seen or {})) if len(rows.values)]
        batch_of = self.batches_of(part)
        model.prepare_scoring()

        # Seen items are masked in the scores themselves, since a copy of all would take a fifth of the time. Scores
        # that are a view of what the model keeps must be copied: two calls then share memory.
        one = batch_of(truth.users[:1])
        keeps_scores = _shares_memory(model.score(one), model.score(one))
        columns: list[tuple[Tensor, ...]] = []
        for users in blocks(truth.users, max(1, SCORES_AT_ONCE[self.device.type] // data.n_items)):
            batch = batch_of(users)
            scores = model.score(batch)
            if scores.shape != (len(users), data.n_items):
                raise RecbenchError(
                    f"score() returned shape {tuple(scores.shape)}, expected {(len(users), data.n_items)}"
                )
            scores = scores.float()
            # Rows that lie apart are as good; transposed ones would be slow, and overlapping ones masked for all.
            if scores.stride(1) != 1 or scores.stride(0) < data.n_items:
                scores = scores.contiguous()
            if keeps_scores:
                scores = scores.clone()
            if not self.ranks_seen:
                for rows in (batch.history, *(others.take(users) for others in hidden)):
                    scores[rows.rows(), rows.values] = -torch.inf
            top = topk.top_k(scores, length, users)
            columns.append((*top, self._auc(scores, users, truth)) if wants_auc else top)
        return Lists(truth.users, *map(torch.cat, zip(*columns, strict=True)))

    def batches_of(self, part: Arrays) -> Callable[[Tensor], UserBatch]:
        """Return what makes the batch of given users from what is known of them when a part is judged."""
        if not self.data.fold_in:
            return self.data.user_batch
        shown = self._rows(part, "history_")
        return lambda users: UserBatch(users, shown.take(users), self.data.n_items)

    def judge(self, lists: Lists, part: Arrays, seen: Arrays | None, metrics: Sequence[str]) -> Evaluation:
        """Measure lists of all users who have relevant items in the part, each list with one row.

        Predictions: ``user, item, rank, score``. Metrics are means over the users; those whose value is not defined,
        and users without relevant items, are left out and counted. A metric that is defined for nobody, or needs more
        than the lists hold (``uauc`` of a file), is not measured.
        """
        truth = self._truth(part)
        measured = [name for name in metrics if lists.auc is not None or "uauc" not in name]
        of_user, overall = self._measure(measured, lists, truth, part, seen)
        undefined = {name: n for name, values in of_user.items() if (n := int(values.isnan().sum()))}
        for name in measured:
            of = names.gap(name)
            if of is not None and (n_unknown := int((self._groups_of(of[0], truth, part) < 0).sum())):
                undefined[name] = n_unknown
        undefined |= {name: len(truth.users) for name in measured if math.isnan(overall[name])}
        nowhere = [name for name in measured if math.isnan(overall[name])]
        if self.benchmark.primary_metric in nowhere:
            raise RecbenchError(f"{self.benchmark.primary_metric} is not defined for any of {len(truth.users)} users")
        if nowhere:
            log.warning("not defined for any of %d users, and left out: %s", len(truth.users), ", ".join(nowhere))
        measured = [name for name in measured if name not in nowhere]

        def tables() -> Tables:
            import polars as pl

            raw_users = self._shared["user_ids"][truth.users.cpu().numpy()]
            found = (lists.items >= 0).cpu().numpy()
            ranks = np.arange(1, found.shape[1] + 1, dtype=np.int32)
            per_user = {name: of_user[name].cpu().numpy() for name in measured if name in of_user}
            return Tables(
                per_user=pl.DataFrame({"user": raw_users} | per_user),
                predictions=pl.DataFrame(
                    {
                        "user": np.broadcast_to(raw_users[:, None], found.shape)[found],
                        "item": self._shared["item_ids"][lists.items.cpu().numpy()[found]],
                        "rank": np.broadcast_to(ranks, found.shape)[found],
                        "score": lists.scores.cpu().numpy()[found],
                    }
                ),
            )

        return Evaluation(
            metrics={name: overall[name] for name in measured},
            tables=tables,
            diagnostics={
                "tie_rate": float(lists.tied.double().mean()),
                "short_lists": int((lists.items[:, -1] < 0).sum()),
                "users_without_truth": self.data.n_users - len(truth.users),
                "users_without_history": int((self._known(part).lengths[truth.users] == 0).sum()),
                "undefined": undefined,
            },
        )

    def lint(self, test: Arrays) -> Report:
        """Look for test pairs that are known, and for training after the test where the protocol forbids it."""
        known = {"training": self._train, "validation": self._valid}
        protocol = self.benchmark.protocol
        assert isinstance(protocol, Implicit)
        pairs = lint_pairs(test, known, may_return=protocol.ordered)
        return pairs + lint_times(test, known, promised_order(protocol.split))

    def _measure(
        self, metrics: Sequence[str], lists: Lists, truth: Truth, part: Arrays, seen: Arrays | None
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return each metric's values by user, (U,), where it has such, and its value over all users."""
        hits = topk.hits(lists.items, lists.users, truth.keys, self.data.n_items)
        wanted = list(dict.fromkeys(of[1] if (of := names.gap(name)) else name for name in metrics))
        in_lists = [name for name in wanted if names.pattern(name) in (*names.LISTS, "rprecision")]
        spread = self._beyond([name for name in wanted if names.pattern(name) in names.BEYOND], lists, hits, part, seen)
        of_user = {} if lists.auc is None else {"uauc": lists.auc}
        of_user |= ranking.ranking_metrics(hits, truth.counts, in_lists)
        of_user |= {name: value for name, value in spread.items() if isinstance(value, Tensor)}
        overall = {name: value for name, value in spread.items() if not isinstance(value, Tensor)}
        overall |= {name: float(values.nanmean()) for name, values in of_user.items()}
        for name in metrics:
            if (of := names.gap(name)) is not None:
                overall[name] = beyond.group_gap(of_user[of[1]], self._groups_of(of[0], truth, part)).gap
        return of_user, overall

    def _truth(self, part: Arrays) -> Truth:
        """Return the relevant items of a part; a pair that is there more than once counts once."""
        users, items = to_device(part["users"], self.device), to_device(part["items"], self.device)
        keys = torch.unique(users * self.data.n_items + items)
        found, counts = torch.unique_consecutive(keys // self.data.n_items, return_counts=True)
        return Truth(found, counts, keys)

    def _length(self, truth: Truth, metrics: Sequence[str]) -> int:
        """Return how long lists must be for the metrics."""
        cutoffs = [names.parse(name.rpartition(":")[2])[1] for name in metrics if "@" in name]
        whole = [int(truth.counts.max())] if any("rprecision" in name for name in metrics) else []
        return max([*cutoffs, *whole], default=DEFAULT_LENGTH)

    def _auc(self, scores: Tensor, users: Tensor, truth: Truth) -> Tensor:
        """Return the AUC of each user of a block, (B,)."""
        n_items = self.data.n_items
        first, end = torch.searchsorted(truth.keys, torch.stack([users[0], users[-1] + 1]) * n_items).tolist()
        pairs = truth.keys[first:end]
        return ranking.user_auc(scores, torch.searchsorted(users, pairs // n_items), pairs % n_items)

    def _beyond(
        self, wanted: list[str], lists: Lists, hits: Tensor, part: Arrays, seen: Arrays | None
    ) -> Mapping[str, float | Tensor]:
        if not wanted:
            return {}
        popular = None
        if any(name.startswith("serendipity") for name in wanted):
            popular = self.rank(_ByPopularity(self._popularity), part, seen, wanted).items
        history = self._known(part).take(lists.users)
        n_users = int((self.data.history.lengths > 0).sum())
        return beyond.beyond_metrics(
            wanted,
            beyond.Lists(lists.items, hits, popular, (history.values, history.offsets)),
            beyond.Catalogue(self._popularity, n_users, self._item_vectors),
        )

    @cached_property
    def _popularity(self) -> Tensor:
        """Number of training users of each item, (I,)."""
        pairs = torch.unique(self.data.users * self.data.n_items + self.data.items)
        return torch.bincount(pairs % self.data.n_items, minlength=self.data.n_items)

    def _groups_of(self, attribute: str, truth: Truth, part: Arrays) -> Tensor:
        """Return the judged users' groups, (U,); -1 where none is known.

        Quartiles of activity are of all users, or of those who are judged where only their history is shown.
        """
        if attribute != ACTIVITY:
            return self._groups[attribute][truth.users]
        lengths = self._known(part).lengths
        if self.data.fold_in:
            return attributes.activity(lengths[truth.users])
        return attributes.activity(lengths)[truth.users]

    def _known(self, part: Arrays) -> Ragged:
        """Return the items that each user is scored from, one ragged row a user."""
        return self._rows(part, "history_") if self.data.fold_in else self.data.history

    def _rows(self, part: Arrays, prefix: str = "") -> Ragged:
        """Return a part's items as one ragged row a user; empty rows where the part has none of that kind."""
        nothing = np.zeros(0, dtype=np.int64)
        users, items = (to_device(part.get(f"{prefix}{column}", nothing), self.device) for column in ("users", "items"))
        counts = torch.bincount(users, minlength=self.data.n_users)
        return Ragged(items, torch.cat([counts.new_zeros(1), counts.cumsum(0)]))


def _shown(part: Arrays) -> list[Arrays]:
    """Return the interactions that are shown with a part, in the form of a part."""
    if "history_users" not in part:
        return []
    return [{"users": part["history_users"], "items": part["history_items"]}]


def _nothing(part: Arrays) -> Arrays:
    return {column: part[column][:0] for column in ("users", "items")}


def _shares_memory(first: Tensor, second: Tensor) -> bool:
    return first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
