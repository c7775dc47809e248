"""Leaks: what a split would let a model know of its targets. Each check returns one sentence for each finding."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.integer]
Times = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Evaluation(NamedTuple):
    """What is asked when a part is evaluated, and what a model may have seen; masks over the n rows of the log."""

    name: str
    targets: Mask
    history: Mask
    """Shown at this evaluation only."""
    known: Mask
    """Training rows, and at test also the validation targets, by which a model was selected."""


def shown_targets(valid: Evaluation, test: Evaluation) -> list[str]:
    """Find targets that are shown as history."""
    overlaps = {
        "validation targets are also shown as history": valid.targets & valid.history,
        "test targets are also shown as history": test.targets & test.history,
        "test targets are shown as history at validation": test.targets & valid.history,
    }
    return _counted(overlaps)


def repeated_pairs(users: Int, items: Int, *evaluations: Evaluation) -> list[str]:
    """Find targets whose user and item are together in a row known or shown before."""
    pairs = users * (np.int64(items.max()) + 1) + items
    findings = []
    for name, targets, history, known in evaluations:
        if repeated := count_repeated(pairs[targets], pairs[known | history]):
            findings.append(
                f"{repeated:,} of {np.count_nonzero(targets):,} {name} targets repeat a pair of user and item known "
                "before; keep each pair once (filter 'unique'), or split by time"
            )
    return findings


def count_repeated(values: Int, known: Int) -> int:
    """Count the values that are among the known ones.

    By a search in sorted keys: many times faster than hashing keys that are as regular as those of pairs.
    """
    if not known.size:
        return 0
    ordered = np.sort(known)
    return int(np.count_nonzero(ordered[np.searchsorted(ordered, values).clip(max=known.size - 1)] == values))


def known_ids(ids: Int, what: str, valid: Evaluation, test: Evaluation) -> list[str]:
    """Find ids (users or items) that are held out and yet in training, or held out for both parts."""

    def seen(rows: Mask) -> Mask:
        return np.bincount(ids[rows], minlength=int(ids.max()) + 1) > 0

    in_valid, in_test, in_train = (
        seen(valid.targets | valid.history),
        seen(test.targets | test.history),
        seen(valid.known),
    )
    overlaps = {
        f"{what} held out for validation are also in training": in_valid & in_train,
        f"{what} held out for test are also in training": in_test & in_train,
        f"{what} are held out both for validation and for test": in_valid & in_test,
    }
    return _counted(overlaps)


def any_history(*evaluations: Evaluation) -> list[str]:
    """Find rows shown as history by a split that must have none."""
    return _counted(
        {f"rows are shown as {name} history, and none may be": history for name, _, history, _ in evaluations}
    )


def late_knowledge(users: Int, times: Times, *evaluations: Evaluation) -> list[str]:
    """Find known rows that are not before all targets, and users whose history is not before their targets."""
    findings = []
    for name, targets, history, known in evaluations:
        if targets.any() and known.any() and (last := times[known].max()) >= (first := times[targets].min()):
            findings.append(f"rows known before {name} go up to time {last:.15g}; its first target is at {first:.15g}")
        shown = targets | history
        if late := _out_of_order(users[shown], times[shown], targets[shown]):
            findings.append(f"{late:,} users have history after a {name} target")
    return findings


def targets_in_histories(events: Int, low: Int, high: Int, *evaluations: Evaluation) -> list[str]:
    """Find known rows whose history has a target; the history of row r is the rows ``events[low[r]:high[r]]``."""
    findings = {}
    for name, targets, _, known in evaluations:
        upto = np.concatenate([[0], np.cumsum(targets[events])])
        findings[f"rows known before {name} have a {name} target in their history"] = known & (upto[high] > upto[low])
    return _counted(findings)


def user_order(users: Int, times: Times, valid: Evaluation, test: Evaluation) -> list[str]:
    """Find users whose rows are not, in their order of time, for training, then validation, then test."""
    late = _out_of_order(users, times, valid.targets + 2 * test.targets)
    return [f"{late:,} users have a row known before a target that is after it in time"] if late else []


def _out_of_order(users: Int, times: Times, stages: NDArray[np.integer] | Mask) -> int:
    """Count the users with a row of a lower stage after one of a higher, in the order of time and then of rows."""
    order = np.lexsort((times, users))
    users, stages = users[order], stages[order]
    back = (users[1:] == users[:-1]) & (stages[1:] < stages[:-1])
    return len(np.unique(users[1:][back]))


def _counted(findings: dict[str, Mask]) -> list[str]:
    return [f"{np.count_nonzero(found):,} {text}" for text, found in findings.items() if found.any()]
