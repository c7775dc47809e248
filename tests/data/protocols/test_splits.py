"""Splits: properties over random logs, hand-worked cases, planted leaks, a real log."""

import hashlib
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from recbench import resources
from recbench.data.protocols.splits import (
    NONE,
    TEST,
    TRAIN,
    VALID,
    AnySplit,
    Log,
    Split,
    Splitter,
    random_by_user,
    random_rows,
)
from recbench.errors import RecbenchError

GROUPS = {"kind": "user-groups", "valid_users": 0.2, "test_users": 2, "fold_in": 0.5}
SPLITS: list[dict[str, Any]] = [
    {"kind": "random-rows", "valid": 0.1, "test": 0.2},
    {"kind": "random-by-user", "valid": 0.2, "test": 0.2},
    GROUPS,
    {"kind": "leave-k-out", "k": 2},
    {"kind": "leave-k-out", "valid": False},
    {"kind": "leave-k-out", "by": "random"},
    *({"kind": "temporal", "valid": 0.2, "test": 0.3, "target": target} for target in ("first", "last", "all")),
    {"kind": "temporal", "valid_from": 8, "test_from": 14, "target": "last"},
    {"kind": "temporal", "test": 0.3},
    *({"kind": "sliding", "windows": 3, "window": w, "valid": 0.1, "test": 0.2, "target": "last"} for w in range(3)),
    {"kind": "cold-users", "valid": 0.2, "test": 0.2},
    {"kind": "cold-items", "valid": 0.2, "test": 0.2},
]
IN_TIME = {"temporal", "sliding"}
SETS_OF_USERS_OR_ITEMS = {"user-groups", "cold-users", "cold-items"}


def make(**content: Any) -> Splitter:
    return TypeAdapter[Splitter](AnySplit).validate_python(content)


def name(content: dict[str, Any]) -> str:
    return "-".join(str(value) for value in content.values())


def log_of(users: list[int], items: list[int] | None = None, times: list[float] | None = None) -> Log:
    items = list(range(len(users))) if items is None else items
    return Log(np.array(users), np.array(items), None if times is None else np.array(times, dtype=float))


@st.composite
def logs(draw: st.DrawFn, distinct_times: bool = False) -> Log:
    """Logs without repeated pairs, in random order."""
    pair = st.tuples(st.integers(0, 5), st.integers(0, 11))
    pairs = draw(st.lists(pair, min_size=15, max_size=60, unique=True))
    n = len(pairs)
    if distinct_times:
        times = draw(st.permutations(range(n)))
    else:
        times = draw(st.lists(st.integers(0, 20), min_size=n, max_size=n))
    return log_of([user for user, _ in pairs], [item for _, item in pairs], list(times))


def assign(splitter: Splitter, log: Log, seed: int) -> Split | None:
    """Return the split, or nothing where the log is too small for it, which must be said."""
    try:
        return splitter.assign(log, seed)
    except RecbenchError as error:
        assert str(error).startswith(f"split {splitter.kind}: ")  # noqa: PT017
        assert "rows" in str(error)  # noqa: PT017
        return None


def brute_force(kind: str, by_time: bool, log: Log, split: Split) -> None:
    """Fail where a target could be known, with loops over rows."""
    times = np.zeros(len(log.users)) if log.times is None else log.times
    rows = list(zip(log.users.tolist(), log.items.tolist(), times.tolist(), split.parts.tolist(), strict=True))
    for part, history in ((VALID, split.valid_history), (TEST, split.test_history)):
        for target, (user, item, time, of) in enumerate(rows):
            if of != part:
                continue
            assert not history[target]
            for row, (other_user, other_item, other_time, other) in enumerate(rows):
                known = other < part
                if kind in IN_TIME:
                    assert not known or other_time < time
                    assert not (history[row] and user == other_user) or (other_time, row) < (time, target)
                elif by_time:
                    assert not (known and user == other_user) or (other_time, row) < (time, target)
                elif kind != "random-rows":
                    assert not ((known or history[row]) and (user, item) == (other_user, other_item))
                if kind in {"cold-users", "user-groups"}:
                    assert not known or user != other_user
                if kind == "cold-items":
                    assert not known or item != other_item
                if kind in {"cold-users", "cold-items"}:
                    assert not history[row]


@pytest.mark.parametrize("content", SPLITS, ids=name)
@settings(max_examples=40)
@given(log=logs(), seed=st.integers(0, 9))
def test_partition_determinism_and_no_leak(content: dict[str, Any], log: Log, seed: int) -> None:
    splitter = make(**content)
    split = assign(splitter, log, seed)
    if split is None:
        return
    assert split.parts.dtype == np.int8
    assert split.parts.shape == split.valid_history.shape == split.test_history.shape == log.users.shape
    assert set(split.parts.tolist()) <= {TRAIN, VALID, TEST, NONE}
    if splitter.kind not in {*IN_TIME, "user-groups"}:
        assert NONE not in split.parts
    for part, history in ((VALID, split.valid_history), (TEST, split.test_history)):
        assert not (history & np.isin(split.parts, (TRAIN, part))).any()
    assert not (split.valid_history & (split.parts == TEST)).any()
    again = splitter.assign(log, seed)
    assert np.array_equal(split.parts, again.parts)
    assert np.array_equal(split.valid_history, again.valid_history)
    assert np.array_equal(split.test_history, again.test_history)
    assert splitter.leaks(log, split) == []
    brute_force(splitter.kind, splitter.kind == "leave-k-out" and content.get("by") != "random", log, split)


@pytest.mark.parametrize("content", SPLITS, ids=name)
def test_every_split_splits_a_log_of_some_size(content: dict[str, Any]) -> None:
    """The property tests pass over logs that are too small; here is one that is not."""
    rng = np.random.default_rng(0)
    pairs = rng.permutation(20 * 30)[:300]
    log = Log(pairs // 30, pairs % 30, rng.integers(0, 20, 300).astype(float))
    split = make(**content).assign(log, 1)
    wanted = {TRAIN, TEST} if content.get("valid") is False or content == {"kind": "temporal", "test": 0.3} else None
    assert set(split.parts.tolist()) - {NONE} == (wanted or {TRAIN, VALID, TEST})
    other = make(**content).assign(log, 2)
    if content["kind"] in IN_TIME or (content["kind"] == "leave-k-out" and "by" not in content):
        assert np.array_equal(split.parts, other.parts)
    else:
        assert not np.array_equal(split.parts, other.parts)


PERMUTABLE = [
    c
    for c in SPLITS
    if c["kind"] in IN_TIME | SETS_OF_USERS_OR_ITEMS or (c["kind"] == "leave-k-out" and c.get("by") != "random")
]


@pytest.mark.parametrize("content", PERMUTABLE, ids=name)
@settings(max_examples=40)
@given(log=logs(distinct_times=True), data=st.data())
def test_the_order_of_rows_plays_no_part(content: dict[str, Any], log: Log, data: st.DataObject) -> None:
    splitter = make(**content)
    split = assign(splitter, log, 3)
    if split is None:
        return
    order = np.array(data.draw(st.permutations(range(len(log.users)))))
    assert log.times is not None
    other = assign(splitter, Log(log.users[order], log.items[order], log.times[order]), 3)
    if content is GROUPS:  # which users; the fold-in rows are drawn by position
        if other is not None:
            assert np.array_equal((split.parts == TRAIN)[order], other.parts == TRAIN)
            shown = (split.parts == TEST) | split.test_history
            assert np.array_equal(shown[order], (other.parts == TEST) | other.test_history)
        return
    assert other is not None
    assert np.array_equal(split.parts[order], other.parts)
    assert np.array_equal(split.valid_history[order], other.valid_history)
    assert np.array_equal(split.test_history[order], other.test_history)


# hand-worked cases


def test_the_random_splits_of_published_results_stay() -> None:
    assert "".join(map(str, random_rows(20, 0.1, 0.2, 2020))) == "02200020020000010010"
    assert "".join(map(str, random_by_user(np.repeat([0, 1, 2], [5, 10, 3]), 0.2, 0.1, 2020))) == "000010110200000000"
    users = np.random.default_rng(1).integers(0, 943, 100_000)
    digests = [
        hashlib.sha256(parts.tobytes()).hexdigest()[:16]
        for parts in (random_rows(100_000, 0.1, 0.1, 2020), random_by_user(users, 0.1, 0.1, 2020))
    ]
    assert digests == ["2339fde43b2c43ad", "5f89af1d7f792c0d"]


def test_leave_k_out_by_hand() -> None:
    """User 0's rows of time 5 are in the order of the log; user 1 has too few rows."""
    log = log_of([0, 1, 0, 0, 1, 0], times=[5, 1, 9, 5, 2, 3])
    split = make(kind="leave-k-out").assign(log, 0)
    assert split.parts.tolist() == [TRAIN, TRAIN, TEST, VALID, TRAIN, TRAIN]
    assert split.test_history.tolist() == [False, False, False, True, False, False]
    split = make(kind="leave-k-out", valid=False).assign(log, 0)
    assert split.parts.tolist() == [TRAIN, TRAIN, TEST, TRAIN, TEST, TRAIN]
    assert not split.test_history.any()


T, V, E, N = TRAIN, VALID, TEST, NONE


@pytest.mark.parametrize(
    ("target", "parts", "valid_history", "test_history"),
    [
        ("all", [T, T, T, V, V, V, E, E, E, E], [], [3, 4, 5]),
        ("first", [T, T, T, V, N, V, E, N, E, N], [], [3, 4, 5]),
        ("last", [T, T, T, N, V, V, N, E, N, E], [3], [3, 4, 5, 6, 8]),
    ],
)
def test_temporal_by_hand(target: str, parts: list[int], valid_history: list[int], test_history: list[int]) -> None:
    """The third row from the end has time 7 as the fourth, so all four are after the cut; likewise at time 4."""
    log = log_of([0, 1, 2, 0, 0, 1, 0, 0, 2, 2], times=[1, 2, 3, 4, 4, 5, 7, 7, 8, 9])
    split = make(kind="temporal", valid=0.2, test=0.3, target=target).assign(log, 0)
    assert split.parts.tolist() == parts
    assert np.flatnonzero(split.valid_history).tolist() == valid_history
    assert np.flatnonzero(split.test_history).tolist() == test_history
    by_time = make(kind="temporal", valid_from=4, test_from=6, target=target).assign(log, 0)
    assert by_time.parts.tolist() == parts


def test_sliding_windows_follow_each_other() -> None:
    log = log_of([0] * 20, times=list(range(20)))
    splits = [make(kind="sliding", windows=3, window=w, valid=0.1, test=0.2).assign(log, 0) for w in range(3)]
    for w, split in enumerate(splits):
        cut = 8 + 4 * w
        assert split.parts.tolist() == [TRAIN] * (cut - 2) + [VALID] * 2 + [TEST] * 4 + [NONE] * (16 - cut)
    assert np.array_equal(splits[2].parts, make(kind="temporal", valid=0.1, test=0.2).assign(log, 0).parts)


def test_user_groups_fold_in_as_in_the_papers_code() -> None:
    """Of n rows floor(n / 5) are targets: none for 4, one for 5 to 9."""
    sizes = np.tile([4, 5, 9, 10], 25)
    log = log_of(np.repeat(np.arange(100), sizes).tolist())
    split = make(kind="user-groups", valid_users=20, test_users=0.3).assign(log, 7)
    for part, history, n_users in ((VALID, split.valid_history, 20), (TEST, split.test_history, 30)):
        held_out = np.unique(log.users[history])
        assert len(held_out) == n_users
        targets = np.bincount(log.users[split.parts == part], minlength=100)
        assert np.array_equal(targets[held_out], sizes[held_out] // 5)
        assert targets.sum() == targets[held_out].sum()


def test_ml_1m_leaves_out_the_last_of_6040_users() -> None:
    path = Path(resources.mirror() or "none") / "ml-1m-sasrec" / "ml-1m.txt.xz"
    if not path.is_file():
        pytest.skip("no mirror with ml-1m-sasrec")
    with lzma.open(path, "rt") as lines:
        users, items = np.loadtxt(lines, dtype=np.int64).T
    log = Log(users, items, np.arange(len(users), dtype=float))
    splitter = make(kind="leave-k-out")
    split = splitter.assign(log, 0)
    assert np.bincount(split.parts).tolist() == [999_611 - 2 * 6_040, 6_040, 6_040]
    last = np.flatnonzero(np.diff(users, append=0))
    assert np.array_equal(np.flatnonzero(split.parts == TEST), last)
    assert splitter.leaks(log, split) == []


# planted leaks


@pytest.mark.parametrize(
    ("content", "parts", "history", "expected"),
    [
        ({"kind": "random-by-user"}, [T, V, E, T, T, T], [], []),
        ({"kind": "random-by-user"}, [T, V, E, T, E, T], [], ["1 of 2 test targets repeat a pair"]),
        ({"kind": "random-rows"}, [T, V, E, T, T, T], [2], ["1 test targets are also shown as history"]),
        ({"kind": "leave-k-out"}, [T, V, E, T, T, T], [1], []),
        ({"kind": "leave-k-out"}, [T, E, V, T, T, T], [], ["1 users have a row known before a target"]),
        ({"kind": "temporal", "test": 0.1}, [T, T, N, T, V, E], [4], []),
        ({"kind": "temporal", "test": 0.1}, [T, V, E, T, N, T], [],
         ["rows known before validation go up to", "rows known before test go up to"]),
        ({"kind": "temporal", "test": 0.1}, [T, T, T, T, E, N], [5], ["1 users have history after a test target"]),
        ({"kind": "user-groups", "valid_users": 0, "test_users": 1}, [T, T, T, N, E, E], [3],
         ["1 of 2 test targets repeat a pair"]),
        ({"kind": "user-groups", "valid_users": 0, "test_users": 1}, [T, T, N, T, T, E], [2],
         ["2 users held out for test are also in training"]),
        ({"kind": "cold-users"}, [V, T, T, E, E, E], [], ["1 users held out for validation are also in training"]),
        ({"kind": "cold-users"}, [V, V, E, T, T, T], [], ["1 users are held out both for"]),
        ({"kind": "cold-items"}, [T, T, T, E, T, T], [], ["1 items held out for test are also in training"]),
        ({"kind": "cold-users"}, [T, T, T, N, E, E], [3], ["1 rows are shown as test history"]),
    ],
)  # fmt: skip
def test_planted_leaks_are_found(
    content: dict[str, Any], parts: list[int], history: list[int], expected: list[str]
) -> None:
    log = log_of([0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 3, 4], [1, 2, 3, 4, 5, 6])
    shown = np.isin(np.arange(6), history)
    split = Split(np.array(parts, dtype=np.int8), np.zeros(6, dtype=bool), shown)
    findings = make(**content).leaks(log, split)
    assert len(findings) == len(expected), findings
    for finding, sentence in zip(findings, expected, strict=True):
        assert finding.startswith(sentence)


def test_a_test_target_shown_at_validation_is_found() -> None:
    split = Split(np.array([T, V, E], dtype=np.int8), np.array([False, False, True]), np.zeros(3, dtype=bool))
    assert make(kind="random-rows").leaks(log_of([0, 0, 0]), split) == [
        "1 test targets are shown as history at validation"
    ]


# what cannot be


@pytest.mark.parametrize(
    ("content", "log", "expected"),
    [
        ({"kind": "random-rows"}, log_of([]), "split random-rows: the log has no rows"),
        ({"kind": "random-rows"}, log_of([0] * 9), "none of the 9 rows would be for validation"),
        ({"kind": "random-rows", "valid": 0}, log_of([0] * 9), "none of the 9 rows would be for test"),
        ({"kind": "leave-k-out"}, log_of([0, 0]), "split leave-k-out needs a timestamp column"),
        ({"kind": "temporal", "test": 0.5}, log_of([0, 0], times=[1, np.nan]), "finite timestamp .* 1 rows have none"),
        ({"kind": "temporal", "test": 0.5}, log_of([0, 0, 1], times=[4, 4, 4]), "all 3 rows have the time 4"),
        ({"kind": "temporal", "test_from": 9}, log_of([0, 0], times=[1, 2]), "none of the 2 rows would be for test"),
        ({"kind": "temporal", "test_from": 1}, log_of([0, 0], times=[1, 2]), "none .* would be for training"),
        ({"kind": "temporal", "test": 0.5, "valid_from": 9}, log_of([0, 0], times=[1, 2]),
         "the validation cut, 9, is after the test cut, 2"),
        ({"kind": "user-groups", "valid_users": 1, "test_users": 1}, log_of([0, 1]), "none .* would be for training"),
        ({"kind": "user-groups", "valid_users": 0.5, "test_users": 0.6}, log_of([0, 1]), "none .* for training"),
    ],
)  # fmt: skip
def test_impossible_splits_say_why(content: dict[str, Any], log: Log, expected: str) -> None:
    with pytest.raises(RecbenchError, match=expected):
        make(**content).assign(log, 0)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"kind": "random-rows", "valid": 0.5, "test": 0.5}, "below 1, found valid = 0.5, test = 0.5"),
        ({"kind": "random-rows", "test": 1.0}, "less than 1"),
        ({"kind": "random-rows", "tets": 0.1}, "tets"),
        ({"kind": "random"}, "'random-rows', 'random-by-user', 'user-groups'"),
        ({"kind": "user-groups", "valid_users": 1.0, "test_users": 1}, "valid integer"),
        ({"kind": "temporal"}, "one of them, not both"),
        ({"kind": "temporal", "test": 0.1, "test_from": 5}, "one of them, not both"),
        ({"kind": "temporal", "test": 0.1, "valid": 0.1, "valid_from": 5}, "not both"),
        ({"kind": "temporal", "test_from": "nan"}, "finite"),
        ({"kind": "sliding", "windows": 3, "window": 3}, "from 0 to windows - 1 = 2, found 3"),
        ({"kind": "sliding", "windows": 5, "window": 0, "test": 0.2}, r"windows \* test = 1"),
        ({"kind": "leave-k-out", "k": 0}, "greater than 0"),
    ],
)
def test_bad_keys_and_values(content: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        make(**content)
