"""The leakage linter: what of a test part a model could have known, looked for on every run.

Each function makes the checks that the given arrays allow and returns a ``Report``: the names of the checks that were
made, and what they found. Reports are joined with ``+``. A *severe* finding means that scores are not to be trusted; a
note is worth knowing and may be as the protocol wants it.

====================  ======  ====================================================================================
check                 severe  finds
====================  ======  ====================================================================================
pairs-in-<part>       yes     test pairs of user and item that are also in that part; a note where pairs may return
time-global           yes     rows known before test that are not before the first test target of all; or a note
time-by-user          yes     users with a known row after their first test target
repeated-rows         no      test rows whose every field equals that of a training row
field-gives-label     yes     fields that alone order test rows by label almost perfectly
field-identifies-row  no      fields with nearly as many values as there are training rows
pairs-in-graph        yes     test pairs that are facts, of the item and an entity with the raw id of the user
====================  ======  ====================================================================================

The checks of times are made where the protocol promises an order; times of published parts need not be of one clock.
A user's own order alone (leave-last-out) is no promise over all users, so time-global is a note there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from recbench.data.protocols.leaks import count_repeated
from recbench.data.protocols.splits import LeaveKOut, Sliding, Temporal
from recbench.data.store import Arrays

if TYPE_CHECKING:
    from recbench.tasks.ctr import Field

SUSPECT_AUC = 0.999
LEAST_ROWS = 50
"""Rows of each class that a test part needs before the AUC of a field says anything."""
IDENTIFIER_SHARE = 0.95

Order = Literal["global", "by-user"]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Finding:
    """One thing that a check found."""

    check: str
    count: int
    """Pairs, rows, users or fields concerned."""
    message: str
    severe: bool


@dataclass(frozen=True)
class Report:
    """Which checks were made, and what they found; a check without a finding found nothing."""

    checks: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    def __add__(self, other: Report) -> Report:
        return Report(self.checks + other.checks, self.findings + other.findings)

    @property
    def severe(self) -> tuple[Finding, ...]:
        """The findings that put the scores in doubt."""
        return tuple(finding for finding in self.findings if finding.severe)


def lint_pairs(test: Arrays, known: Mapping[str, Arrays], *, may_return: bool = False) -> Report:
    """Look for test pairs of user and item in the ``known`` parts and in the history shown with the test part.

    Args:
        test: ``users`` and ``items`` (n,); optionally ``history_users`` and ``history_items``.
        known: arrays ``users`` and ``items`` by the name of their part, such as "training".
        may_return: the protocol keeps repeated pairs, as those of sessions do; what is found is a note then.
    """
    parts = {name: (part["users"], part["items"]) for name, part in known.items()}
    if "history_users" in test:
        parts["history"] = test["history_users"], test["history_items"]
    n_items = 1 + max(int(items.max(initial=0)) for _, items in [*parts.values(), (None, test["items"])])
    target = _keys(test["users"], test["items"], n_items)
    report = Report()
    for name, (users, items) in parts.items():
        check = f"pairs-in-{name}"
        count = count_repeated(target, _keys(users, items, n_items))
        found = f"{count} test pairs are also in the {name} part"
        report += _report(check, count, found, severe=not may_return)
    return report


def promised_order(split: object) -> Order | None:
    """Return the order of time that a protocol's split promises, None for one that is not by time."""
    if isinstance(split, Temporal | Sliding):
        return "global"
    return "by-user" if isinstance(split, LeaveKOut) and split.by == "time" else None


def lint_times(test: Arrays, known: Mapping[str, Arrays], promised: Order | None) -> Report:
    """Look for known rows that are later than test targets, over all users and user by user.

    No check is made if no order is promised or ``times`` are missing. Rows of the test part's own history are known to
    the user's own targets only. Rows of equal time are in order within a user, as logs keep them, not over all users.

    Args:
        test: ``users`` and ``times`` (n,); optionally ``history_users`` and ``history_times``.
        known: arrays ``users`` and ``times`` by the name of their part, such as "training".
        promised: the order that the protocol keeps: "global" (which includes "by-user"), "by-user" or none.
    """
    if promised is None or not all("times" in part and len(part["times"]) for part in (test, *known.values())):
        return Report()
    first = test["times"].min()
    late = sum(int(np.count_nonzero(part["times"] >= first)) for part in known.values())
    found = f"{late} rows of {_listed(known)} are not before the first test target, of time {first:.15g}"
    report = _report("time-global", late, found, severe=promised == "global")

    rows = [(part["users"], part["times"]) for part in known.values()]
    if "history_times" in test:
        rows.append((test["history_users"], test["history_times"]))
    n_users = 1 + max(int(users.max(initial=0)) for users, _ in [*rows, (test["users"], None)])
    first_target = np.full(n_users, np.inf)
    np.minimum.at(first_target, test["users"], test["times"])
    too_late = np.zeros(n_users, dtype=bool)
    for users, times in rows:
        too_late[users[times > first_target[users]]] = True
    count = int(too_late.sum())
    found = f"{count} users have a known row that is later than their first test target"
    return report + _report("time-by-user", count, found, severe=True)


def lint_rows(train: Arrays, test: Arrays, fields: Sequence[Field], labels: Sequence[str] = ("label",)) -> Report:
    """Look for repeated rows, and for fields that give the label away or identify the row.

    A single-valued field is judged by the AUC, over test rows, of the training rows' mean label of its value; a dense
    one by the AUC of the number itself, in either direction. Multi-valued fields count in the comparison of whole rows
    only. The AUC is looked at if the test part has at least 50 rows of each class.

    Args:
        train: ``ids`` (n, F), ``labels`` (n,) or (n, T) 0 or 1, and as the fields say ``dense`` (n, D),
            ``<field>_values`` and ``<field>_offsets`` (n + 1,).
        test: the same of the test part.
        fields: all of them, in the order of the columns.
        labels: their names.
    """
    single = [field for field in fields if not field.multi and not field.dense]
    multi = [field for field in fields if field.multi and not field.dense]
    dense = [field for field in fields if field.dense]

    repeated = count_repeated(_row_keys(test, multi), _row_keys(train, multi))
    found = f"{repeated} of {len(test['labels'])} test rows have the same fields as a training row"
    report = _report("repeated-rows", repeated, found, severe=False)

    trained, tested = (part["labels"].reshape(len(part["labels"]), -1).astype(np.int32) for part in (train, test))
    telling, judged = [], False
    for name, of_train, of_test in zip(labels, trained.T, tested.T, strict=True):
        positives = np.count_nonzero(of_test)
        if min(positives, len(of_test) - positives) < LEAST_ROWS:
            continue
        judged = True
        auc_of = {
            field.name: _auc(
                _mean_labels(_by_value(train, column, field, of_train)), _by_value(test, column, field, of_test)
            )
            for column, field in enumerate(single)
        }
        for column, field in enumerate(dense):
            auc = _auc(test["dense"][:, column], np.stack([1 - of_test, of_test], axis=1))
            auc_of[field.name] = max(auc, 1 - auc)
        telling += [
            f"feature {field} predicts the {name if len(labels) == 1 else f'label {name}'}, with an AUC of {auc:.4f}"
            for field, auc in auc_of.items()
            if auc > SUSPECT_AUC
        ]
    if judged:
        report += _report("field-gives-label", len(telling), "; ".join(telling), severe=True)
    n_rows = len(train["labels"])
    identifiers = [
        field.name
        for column, field in enumerate(single)
        if len(np.flatnonzero(np.bincount(train["ids"][:, column] - field.offset))) > IDENTIFIER_SHARE * n_rows
    ]
    found = f"nearly every training row has its own value of {', '.join(identifiers)}"
    return report + _report("field-identifies-row", len(identifiers), found, severe=False)


def lint_graph(test: Arrays, shared: Arrays) -> Report:
    """Look for test pairs among the facts, in either direction, of an item and an entity with the raw id of a user.

    Graphs have no users; one that was made with the interactions would. Where entities and users are both called by
    numbers, some test pairs are facts by chance: it is a note if they are not clearly more than chance explains.

    Args:
        test: ``users`` and ``items`` (n,).
        shared: ``heads`` and ``tails`` (E,), ``entity_ids`` (M,), of which the first I are the items, ``user_ids``
            (U,) and ``item_ids`` (I,).
    """
    user_ids, n_items = shared["user_ids"], len(shared["item_ids"])
    user_of = np.full(len(shared["entity_ids"]), -1)
    user_of[n_items:] = _positions(shared["entity_ids"][n_items:], user_ids)
    items = np.concatenate([shared["heads"], shared["tails"]])
    users = user_of[np.concatenate([shared["tails"], shared["heads"]])]
    linked = (items < n_items) & (users >= 0)
    facts = np.unique(_keys(users[linked], items[linked], n_items))
    count = count_repeated(facts, _keys(test["users"], test["items"], n_items))

    # A pair of this user and this item is a target by chance as often as they occur in targets, independently.
    of_user = np.bincount(test["users"], minlength=len(user_ids)) / len(test["users"])
    expected = float((of_user[facts // n_items] * np.bincount(test["items"], minlength=n_items)[facts % n_items]).sum())
    severe = count > expected + 5 * expected**0.5 + 1
    found = (
        f"{count} test pairs are facts of an item and an entity with a user's id, and by chance {expected:.1f} would be"
    )
    return _report("pairs-in-graph", count, found, severe=severe)


def _report(check: str, count: int, message: str, *, severe: bool) -> Report:
    return Report((check,), (Finding(check, count, message, severe),) if count else ())


def _listed(names: Iterable[str]) -> str:
    return " and ".join(names)


def _keys(users: NDArray[Any], items: NDArray[Any], n_items: int) -> NDArray[np.int64]:
    keys: NDArray[np.int64] = users.astype(np.int64) * n_items + items
    return keys


def _positions(ids: NDArray[Any], known: NDArray[Any]) -> NDArray[np.int64]:
    """Return the position of each id among the known ones, -1 for those that are not among them."""
    order = np.argsort(known)
    place = order[np.searchsorted(known, ids, sorter=order).clip(max=len(known) - 1)]
    return np.where(known[place] == ids, place, -1)


def _row_keys(part: Arrays, multi: Iterable[Field]) -> NDArray[np.int64]:
    """Return one 64-bit key a row, wrapping around: equal rows have equal keys, others almost surely not."""
    rng = np.random.default_rng(0)
    keys = np.zeros(len(part["labels"]), dtype=np.int64)
    # Dense numbers by their bits; column by column, so that no second copy of the rows is made.
    tables = [part["ids"], *([part["dense"].view(np.int32)] if "dense" in part else [])]
    for column in (table[:, j] for table in tables for j in range(table.shape[1])):
        keys += column * rng.integers(1, 2**62)
    for field in multi:
        # A random number a value, summed over the row's values in whatever order.
        numbers = rng.integers(1, 2**62, field.size)[part[f"{field.name}_values"] - field.offset]
        upto = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(numbers)])
        keys += np.diff(upto[part[f"{field.name}_offsets"]])
    return keys


def _by_value(part: Arrays, column: int, field: Field, labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Count the rows by value of a single-valued field and by label, shape (size, 2)."""
    cells: NDArray[np.int32] = 2 * (part["ids"][:, column] - field.offset) + labels
    return np.bincount(cells, minlength=2 * field.size).reshape(-1, 2)


def _mean_labels(counts: NDArray[np.int64]) -> Values:
    """Return the mean label of each value; of one that does not occur, that of all rows."""
    rows = counts.sum(axis=1)
    overall = counts[:, 1].sum() / counts.sum()
    means: Values = np.where(rows > 0, counts[:, 1] / np.maximum(rows, 1), overall)
    return means


def _auc(scores: NDArray[Any], counts: NDArray[np.int64]) -> float:
    """Return the AUC of scores (V,) that stand for so many negative and positive rows each, shape (V, 2)."""
    there = counts.any(axis=1)
    distinct, place = np.unique(scores[there], return_inverse=True)
    negatives, positives = (np.bincount(place, column, len(distinct)) for column in counts[there].T)
    below = np.cumsum(negatives) - negatives / 2
    return float((positives * below).sum() / (positives.sum() * negatives.sum()))
