"""Splits: which rows of a log are for training, validation and test, and what a model is shown before each target.

One class a kind, validated from the benchmark's YAML; all are vectorised and seeded. Each can check its own outcome for
leaks, from the log and the outcome alone, so that the check does not repeat the code it checks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, PositiveInt, model_validator

from recbench.data.protocols import leaks
from recbench.data.protocols.leaks import Evaluation
from recbench.errors import RecbenchError

TRAIN, VALID, TEST, NONE = 0, 1, 2, 3
"""The parts; a row of part ``NONE`` is trained on by nobody and asked of nobody."""
NAMES = {TRAIN: "training", VALID: "validation", TEST: "test"}

Int = NDArray[np.integer]
Parts = NDArray[np.int8]
Mask = NDArray[np.bool_]
Share = Annotated[float, Field(ge=0, lt=1)]
Amount = Annotated[NonNegativeInt, Field(strict=True)] | Share  # strict: 1.0 is neither a share below 1 nor a count


@dataclass(frozen=True)
class Log:
    """What splits know of a log of n rows: who (n,), what (n,), both numbered from 0, and when (n,), in any unit."""

    users: Int
    items: Int
    times: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Split:
    """The part of each of n rows, and the rows outside training that a model is shown when a part is evaluated.

    ``parts`` (n,) is TRAIN, VALID, TEST (a target) or NONE. ``valid_history`` and ``test_history`` (n,) mark fold-in
    rows of held-out users and events between the last training event and the target; never a target of their part.
    """

    parts: Parts
    valid_history: Mask
    test_history: Mask

    def evaluations(self) -> tuple[Evaluation, Evaluation]:
        """Return what validation and test ask and what a model may have seen, for the leak checks."""
        return (
            Evaluation(NAMES[VALID], self.parts == VALID, self.valid_history, self.parts < VALID),
            Evaluation(NAMES[TEST], self.parts == TEST, self.test_history, self.parts < TEST),
        )


class Splitter(BaseModel, ABC):
    """Base of all kinds."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: str

    def assign(self, log: Log, seed: int) -> Split:
        """Split the log; the same log and seed give the same split.

        Raises RecbenchError where the log has no rows or lacks (finite) times that the kind needs, and where training
        or a part that was asked for would be empty.
        """
        if not len(log.users):
            raise RecbenchError(f"split {self.kind}: the log has no rows")
        split = self._assign(log, seed)
        for part, size in zip((TRAIN, VALID, TEST), (1, *self._sizes()), strict=True):
            if size and not (split.parts == part).any():
                what = f"none of the {len(log.users):,} rows would be for {NAMES[part]}"
                raise RecbenchError(f"split {self.kind}: {what}; change the sizes or cuts of the parts, or the filters")
        return split

    def leaks(self, log: Log, split: Split) -> list[str]:
        """Return one sentence for each way in which a model could know a target; empty when all is well."""
        valid, test = split.evaluations()
        return leaks.shown_targets(valid, test) + self._leaks(log, valid, test)

    @abstractmethod
    def _sizes(self) -> tuple[float, float]:
        """Return the sizes of validation and test as they were asked for; only a part of size 0 may have no rows."""

    @abstractmethod
    def _assign(self, log: Log, seed: int) -> Split: ...

    def _leaks(self, log: Log, valid: Evaluation, test: Evaluation) -> list[str]:
        """Return what is a leak in this kind of split."""
        return []


class _Shares(Splitter):
    """A share each for validation and test."""

    valid: Share = 0.1
    test: Share = 0.1

    @model_validator(mode="after")
    def _rows_are_left(self) -> Self:
        _check_sum(valid=self.valid, test=self.test)
        return self

    def _sizes(self) -> tuple[float, float]:
        return self.valid, self.test


class RandomRows(_Shares):
    """A random share of all rows: rows are judged one by one, and a pair of user and item may return in another row."""

    kind: Literal["random-rows"] = "random-rows"

    def _assign(self, log: Log, seed: int) -> Split:
        return _without_history(random_rows(len(log.users), self.valid, self.test, seed))


class RandomByUser(_Shares):
    """A random share of each user's rows, rounded down; a user of few rows may have no target."""

    kind: Literal["random-by-user"] = "random-by-user"

    def _assign(self, log: Log, seed: int) -> Split:
        return _without_history(random_by_user(log.users, self.valid, self.test, seed))

    def _leaks(self, log: Log, valid: Evaluation, test: Evaluation) -> list[str]:
        return leaks.repeated_pairs(log.users, log.items, valid, test)


class UserGroups(Splitter):
    """Strong generalisation: nothing of the held-out users is trained on.

    Liang et al., WWW 2018, arXiv:1802.05814, section 4.1. Random users are held out, so many or such a share of them. A
    random ``fold_in`` share of each one's rows is history, the rest, rounded down, are targets: as in the paper's code,
    a user of fewer than ``1 / (1 - fold_in)`` rows has history only and is not evaluated. Which users are held out
    depends on their numbers and the seed, not on the order of rows.
    """

    kind: Literal["user-groups"] = "user-groups"
    valid_users: Amount
    test_users: Amount
    fold_in: Annotated[float, Field(gt=0, lt=1)] = 0.8

    def _sizes(self) -> tuple[float, float]:
        return self.valid_users, self.test_users

    def _assign(self, log: Log, seed: int) -> Split:
        # The rows' stream is apart from the users': with one, the draws of both would be the same numbers.
        groups = _hold_out(log.users, self.valid_users, self.test_users, [seed, 1])
        folded_in = random_by_user(log.users, 0, 1 - self.fold_in, seed) == TRAIN
        parts = np.where((groups != TRAIN) & folded_in, NONE, groups).astype(np.int8)
        return Split(parts, (groups == VALID) & folded_in, (groups == TEST) & folded_in)

    def _leaks(self, log: Log, valid: Evaluation, test: Evaluation) -> list[str]:
        held_out_alone = leaks.known_ids(log.users, "users", valid, test)
        return held_out_alone + leaks.repeated_pairs(log.users, log.items, valid, test)


class LeaveKOut(Splitter):
    """The last (or random) k rows of each user are test targets, the k before them validation targets.

    Users with fewer than 2k + 1 rows (k + 1 without validation) stay in training whole. Rows of equal time are in the
    order of the log. By time, validation rows are history at test. Training rows of one user may be later than targets
    of another: this is the literature's split, not a global temporal one (Gusak et al., RecSys 2025, arXiv:2507.16289).
    """

    kind: Literal["leave-k-out"] = "leave-k-out"
    k: PositiveInt = 1
    valid: bool = True
    by: Literal["time", "random"] = "time"

    def _sizes(self) -> tuple[float, float]:
        return self.valid, self.k

    def _assign(self, log: Log, seed: int) -> Split:
        key = _times(log, self.kind) if self.by == "time" else np.random.default_rng(seed).random(len(log.users))
        rank, size = _rank_in_group(log.users, key)
        held_out = 2 * self.k if self.valid else self.k
        from_end = np.where(size > held_out, size - 1 - rank, held_out)
        parts = np.full(len(rank), TRAIN, dtype=np.int8)
        parts[from_end < held_out] = VALID
        parts[from_end < self.k] = TEST
        nothing = np.zeros(len(rank), dtype=np.bool_)
        return Split(parts, nothing, parts == VALID if self.by == "time" else nothing)

    def _leaks(self, log: Log, valid: Evaluation, test: Evaluation) -> list[str]:
        if self.by == "random":
            return leaks.repeated_pairs(log.users, log.items, valid, test)
        return leaks.user_order(log.users, _times(log, self.kind), valid, test)


class _ByTime(Splitter):
    """What global cuts in time share: target rules, histories, the check of times."""

    target: Literal["first", "last", "all"] = "all"
    """The events of each user after a cut that are targets."""

    def _cut(self, log: Log, valid_from: float, test_from: float, end: float) -> Split:
        """Split at two times and before an end; rows from the end on are in no part."""
        times = _times(log, self.kind)
        if times.min() == times.max():
            raise RecbenchError(f"split {self.kind}: all {len(times):,} rows have the time {times[0]:.15g}")
        # The window of each row is first its part; rows that are no targets then leave it.
        windows = np.searchsorted([valid_from, test_from, end], times, side="right").astype(np.int8)
        rank, size = _rank_in_group(log.users * np.int64(NONE + 1) + windows, times)
        chosen = {"first": rank == 0, "last": rank == size - 1, "all": rank >= 0}[self.target]
        parts = np.where(chosen | (windows == TRAIN), windows, NONE).astype(np.int8)
        earlier = (parts == NONE) & (self.target == "last")
        return Split(parts, earlier & (windows == VALID), earlier & (windows == TEST) | (windows == VALID))

    def _leaks(self, log: Log, valid: Evaluation, test: Evaluation) -> list[str]:
        return leaks.late_knowledge(log.users, _times(log, self.kind), valid, test)


class Temporal(_ByTime):
    """A global cut in time: training is before every target, as in a system that goes live at the cut.

    Gusak et al., RecSys 2025, arXiv:2507.16289. Rows from the test cut on are candidates for test targets. The cut is a
    time, ``test_from``, or such that the share ``test`` of all rows (rounded down) is after it; rows of the cut's time
    are. The validation window is made likewise before the test cut; without ``valid`` and ``valid_from`` there is none.

    ``target`` picks the events of each user in each window that are targets: all, the first or the last, in the order
    of the log where times are equal. History of a part: for ``last``, the user's earlier events in the window (for
    ``first``, the later ones are in no part); at test, also all rows of the validation window.
    """

    kind: Literal["temporal"] = "temporal"
    valid: Share | None = None
    test: Share | None = None
    valid_from: FiniteFloat | None = None
    test_from: FiniteFloat | None = None

    @model_validator(mode="after")
    def _cuts_are_given_once(self) -> Self:
        if (self.test is None) == (self.test_from is None):
            raise ValueError("give the test cut as a share (test) or a time (test_from): one of them, not both")
        if self.valid is not None and self.valid_from is not None:
            raise ValueError("give the validation cut as a share (valid) or a time (valid_from), not both")
        _check_sum(valid=self.valid or 0, test=self.test or 0)
        return self

    def _sizes(self) -> tuple[float, float]:
        return self.valid or self.valid_from is not None, True

    def _assign(self, log: Log, seed: int) -> Split:
        ordered = np.sort(_times(log, self.kind))
        test_from, valid_from = self.test_from, self.valid_from
        if test_from is None:
            test_from = _time_of_last(ordered, (self.test or 0) * len(ordered))
        if valid_from is None:
            valid_from = _validation_cut(ordered, test_from, self.valid or 0)
        if valid_from > test_from:
            cuts = f"the validation cut, {valid_from:.15g}, is after the test cut, {test_from:.15g}"
            raise RecbenchError(f"split {self.kind}: {cuts}")
        return self._cut(log, valid_from, test_from, np.inf)


class Sliding(_ByTime):
    """One of several temporal splits whose test windows follow each other to the end of the log.

    The last ``windows * test`` of all rows, by time, are divided into stretches of the share ``test``. Window w (from
    0) has its test cut at the start of stretch w and its targets in that stretch; later rows are in no part. The share
    ``valid`` of all rows just before the cut is the validation window, and all before it is for training, which grows
    from window to window. Shares, targets and histories are as in ``temporal``, which is the last window.
    """

    kind: Literal["sliding"] = "sliding"
    windows: PositiveInt
    window: NonNegativeInt
    valid: Share = 0.1
    test: Annotated[float, Field(gt=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _windows_fit(self) -> Self:
        if self.window >= self.windows:
            raise ValueError(f"window counts from 0 to windows - 1 = {self.windows - 1}, found {self.window}")
        _check_sum(valid=self.valid, **{"windows * test": self.windows * self.test})
        return self

    def _sizes(self) -> tuple[float, float]:
        return self.valid, self.test

    def _assign(self, log: Log, seed: int) -> Split:
        ordered = np.sort(_times(log, self.kind))
        left = self.windows - self.window
        test_from = _time_of_last(ordered, left * self.test * len(ordered))
        end = _time_of_last(ordered, (left - 1) * self.test * len(ordered))
        return self._cut(log, _validation_cut(ordered, test_from, self.valid), test_from, end)


class _Cold(_Shares):
    def _assign(self, log: Log, seed: int) -> Split:
        return _without_history(_hold_out(self._ids(log), self.valid, self.test, seed))

    def _leaks(self, log: Log, valid: Evaluation, test: Evaluation) -> list[str]:
        what = self.kind.removeprefix("cold-")
        return leaks.known_ids(self._ids(log), what, valid, test) + leaks.any_history(valid, test)

    def _ids(self, log: Log) -> Int:
        return log.users if self.kind == "cold-users" else log.items


class ColdUsers(_Cold):
    """All rows of a random share of users are targets; nothing else is known of them. Row order plays no part."""

    kind: Literal["cold-users"] = "cold-users"


class ColdItems(_Cold):
    """All rows of a random share of items are targets; nothing else is known of them. Row order plays no part."""

    kind: Literal["cold-items"] = "cold-items"


AnySplit = Annotated[
    RandomRows | RandomByUser | UserGroups | LeaveKOut | Temporal | Sliding | ColdUsers | ColdItems,
    Field(discriminator="kind"),
]


def random_rows(n_rows: int, valid: float, test: float, seed: int | list[int]) -> Parts:
    """Assign ``floor(n_rows * share)`` random rows to valid and to test and the rest to train; shape (n_rows,)."""
    order = np.random.default_rng(seed).permutation(n_rows)
    return _by_rank(order, np.asarray(n_rows), valid, test)


def random_by_user(users: Int, valid: float, test: float, seed: int) -> Parts:
    """Assign ``floor(n_u * share)`` random rows of every user u to valid and to test, the rest to train.

    ``users`` has shape (n_rows,) and ids from 0; a user of fewer than ``1 / share`` rows has none in that part.
    """
    rank, size = _rank_in_group(users, np.random.default_rng(seed).random(len(users)))
    return _by_rank(rank, size, valid, test)


def _by_rank(rank: Int, group_size: Int, valid: float, test: float) -> Parts:
    """Give the first ranks of each group to test, the next to valid, the others to train."""
    # The small constant keeps floor(0.1 * 30) at 3 although 0.1 * 30 may be a hair below it.
    n_valid = np.floor(group_size * valid + 1e-9)
    n_test = np.floor(group_size * test + 1e-9)
    parts = np.full(len(rank), TRAIN, dtype=np.int8)
    parts[rank < n_test + n_valid] = VALID
    parts[rank < n_test] = TEST
    return parts


def _rank_in_group(groups: Int, key: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each row's rank in its group by the key (ties: in the order of rows), and its group's size."""
    groups = np.asarray(groups, dtype=np.int64)
    order = np.lexsort((key, groups))
    counts = np.bincount(groups)
    starts = np.cumsum(counts) - counts
    rank = np.empty(len(groups), dtype=np.int64)
    rank[order] = np.arange(len(groups)) - starts[groups[order]]
    return rank, counts[groups]


def _hold_out(ids: Int, valid: Amount, test: Amount, seed: int | list[int]) -> Parts:
    """Give all rows of random ids to valid and to test: so many ids, or such a share of those that occur."""
    present = np.flatnonzero(np.bincount(ids))
    valid, test = (amount / len(present) if isinstance(amount, int) else amount for amount in (valid, test))
    part_of = np.full(present[-1] + 1, TRAIN, dtype=np.int8)
    part_of[present] = random_rows(len(present), valid, test, seed)
    return part_of[ids]


def _time_of_last(ordered: NDArray[np.float64], n: float) -> float:
    """Return the time from which on the last n of the ordered times (rounded down) lie; infinite for none or all."""
    first = len(ordered) - int(n + 1e-9)
    return -np.inf if first <= 0 else np.inf if first == len(ordered) else float(ordered[first])


def _validation_cut(ordered: NDArray[np.float64], test_from: float, share: float) -> float:
    """Return the time from which on the share of all rows that precedes the test cut lies; the test cut for none."""
    before = ordered[: np.searchsorted(ordered, test_from)]
    return min(_time_of_last(before, share * len(ordered)), test_from)


def _without_history(parts: Parts) -> Split:
    return Split(parts, *np.zeros((2, len(parts)), dtype=np.bool_))


def _times(log: Log, kind: str) -> NDArray[np.float64]:
    if log.times is None:
        raise RecbenchError(f"split {kind} needs a timestamp column, and the table has none")
    if missing := np.count_nonzero(~np.isfinite(log.times)):
        raise RecbenchError(f"split {kind} needs a finite timestamp in every row; {missing:,} rows have none")
    return log.times


def _check_sum(**shares: float) -> None:
    if sum(shares.values()) >= 1:
        given = ", ".join(f"{name} = {share:g}" for name, share in shares.items())
        raise ValueError(f"the shares must leave rows for training: their sum must be below 1, found {given}")
