"""Histories: what is past by hand and by brute force, on the real MovieLens-100K, and nothing of a later part."""

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_logs import encode
from pydantic import ValidationError

from recbench.data.cards import load_card
from recbench.data.protocols import encoding
from recbench.data.protocols.histories import past
from recbench.data.protocols.splits import Log
from recbench.data.source import Source
from recbench.data.store import read_vocabulary
from recbench.errors import RecbenchError
from recbench.tasks.base import load_benchmark

NAME = "ctr/ml-100k-history"
HISTORY = {"name": "past", "history_of": "item", "sequence": 2, "vocabulary": "item"}
FIELDS = {"name": "item"}, HISTORY
TEMPORAL = {"kind": "temporal", "valid_from": 5, "test_from": 7}


def log(times, label=(1, 0, 1, 1, 0, 1, 1, 1, 0, 1)):
    """Ten rows of the users u and v by turns."""
    return pl.DataFrame(
        {
            "user": ["u", "v"] * 5,
            "item": list("abcadbcezf"),
            "timestamp": [float(time) for time in times],
            "label": [float(value) for value in label],
        }
    )


def shown(parts, texts):
    """Return the history of each row, part by part."""
    found = []
    for part in ("train", "valid", "test"):
        values = [texts["past"][value] or "?" for value in parts[part]["past_values"]]
        edges = parts[part]["past_offsets"]
        found.append(["".join(values[low:high]) for low, high in pairwise(edges)])
    return found


def test_by_hand():
    """u: a c d c z at 0 2 4 6 8; v: b a b e f at 1 3 5 7 9. Training has a b c a d; e and z are unseen."""
    parts, fields, texts = encode({"interactions": log(range(10))}, *FIELDS, split=TEMPORAL)
    assert shown(parts, texts) == [["", "", "a", "b", "ac"], ["ba", "cd"], ["ab", "dc", "b?"]]
    assert fields[1] == {
        "name": "past", "multi": True, "size": 5, "offset": 0, "sequence": 2, "vocabulary": "item"
    }  # fmt: skip


def test_positive_rows_alone_are_shown_and_they_are_those_of_the_first_label():
    """The rows 1, 4 and 8 are negative: b of v, d and z of u."""
    history = {**HISTORY, "positive": True}
    frames = {"interactions": log(range(10))}
    parts, _, texts = encode(frames, {"name": "item"}, history, split=TEMPORAL)
    expected = [["", "", "a", "", "ac"], ["a", "ac"], ["ab", "cc", "b?"]]
    assert shown(parts, texts) == expected
    labels = {"click": {"column": "label", "positive_from": 1}, "never": {"column": "label", "positive_from": 2}}
    parts, _, texts = encode(frames, {"name": "item"}, history, split=TEMPORAL, label=None, labels=labels)
    assert shown(parts, texts) == expected


def test_rows_of_equal_time_do_not_see_each_other_and_the_order_of_the_log_does_not_matter():
    frame = log([1, 1, 1, 2, 3, 4, 5, 6, 7, 8])
    parts, _, texts = encode({"interactions": frame}, *FIELDS, split=TEMPORAL)
    assert shown(parts, texts)[0] == ["", "", "", "b", "ac", "ba"]
    backwards, _, texts = encode({"interactions": frame.reverse()}, *FIELDS, split=TEMPORAL)
    assert shown(backwards, texts)[0][:4] == ["ba", "ca", "b", ""]


def test_values_are_counted_where_they_are_values_and_not_where_they_are_shown():
    """Only a is in two rows of training; c and b, though shown in several, are in one."""
    parts, (item, _), texts = encode(
        {"interactions": log(range(10))}, {"name": "item", "min_count": 2}, HISTORY, split=TEMPORAL
    )
    assert item["size"] == 2
    assert shown(parts, texts) == [["", "", "a", "?", "a?"], ["?a", "??"], ["a?", "??", "??"]]


@pytest.mark.parametrize("batch_rows", [1, 3, 100])
@pytest.mark.parametrize("rows_at_once", [1, 4])
def test_pieces_do_not_matter(monkeypatch, batch_rows, rows_at_once):
    frames = {"interactions": log([1, 1, 1, 2, 3, 4, 5, 6, 7, 8])}
    expected, *_ = encode(frames, *FIELDS, split=TEMPORAL)
    monkeypatch.setattr(encoding, "ROWS_AT_ONCE", rows_at_once)
    found, *_ = encode(frames, *FIELDS, split=TEMPORAL, batch_rows=batch_rows)
    for part in expected:
        assert {name: values.tolist() for name, values in found[part].items()} == {
            name: values.tolist() for name, values in expected[part].items()
        }


ROWS = st.tuples(st.integers(0, 3), st.integers(0, 5), st.booleans())


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=40), st.integers(1, 4), st.booleans())
def test_past_is_what_a_loop_finds(rows, length, all_shown):
    users, times, may = (np.array(column) for column in zip(*rows, strict=True))
    events, low, high = past(users, times.astype(float), None if all_shown else may, length)
    for row, (user, time) in enumerate(zip(users, times, strict=True)):
        earlier = np.flatnonzero((users == user) & (times < time) & (may | all_shown))
        expected = earlier[np.argsort(times[earlier], kind="stable")][-length:]
        assert events[low[row] : high[row]].tolist() == expected.tolist()


def published(train, valid, test):
    frame = log(range(10))
    return {name: frame[rows] for name, rows in {"train": train, "valid": valid, "test": test}.items()}


def test_published_parts_may_have_a_history_if_they_follow_each_other():
    parts, _, texts = encode(published([0, 1, 2, 3, 4], [5, 6], [7, 8, 9]), *FIELDS)
    assert shown(parts, texts) == [["", "", "a", "b", "ac"], ["ba", "cd"], ["ab", "dc", "b?"]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (([0, 1, 3, 4], [2, 5], [6, 7, 8, 9]), "1 rows known before validation have a validation target in their"),
        (([0, 1, 2, 3, 8], [4, 5], [6, 7, 9]), "1 rows known before test have a test target in their history"),
        (([0, 1, 2], [5, 6, 7], [3, 4, 8, 9]), "3 rows known before test have a test target"),
    ],
)
def test_published_parts_that_do_not_are_refused(rows, message):
    with pytest.raises(RecbenchError, match=f"the history 'past' leaks: .*{message}"):
        encode(published(*rows), *FIELDS)


@pytest.mark.parametrize(
    "split",
    [
        {"kind": "random-rows"},
        {"kind": "random-by-user"},
        {"kind": "leave-k-out"},
        {"kind": "published", "valid": 0.1},
    ],
)
def test_a_split_that_is_not_by_time_is_refused(split):
    with pytest.raises(ValidationError, match=f"needs a split by time .* with split {split['kind']} it would show"):
        encode({"interactions": log(range(10))}, *FIELDS, split=split)


@pytest.mark.parametrize("column", ["timestamp", "user"])
def test_a_log_without_users_or_times_has_no_history(column):
    frames = {name: frame.drop(column) for name, frame in published([0, 1, 2, 3, 4], [5, 6], [7, 8, 9]).items()}
    with pytest.raises(RecbenchError, match=f"the history 'past' needs the column '{column}', and the dataset has"):
        encode(frames, *FIELDS)


def test_every_row_needs_a_time():
    frames = published([0, 1, 2, 3, 4], [5, 6], [7, 8, 9])
    frames["train"] = frames["train"].with_columns(
        timestamp=pl.when(pl.col("timestamp") > 2).then(None).otherwise(pl.col("timestamp"))
    )
    with pytest.raises(
        RecbenchError, match="the history 'past' needs a finite timestamp in every row; 2 rows have none"
    ):
        encode(frames, *FIELDS)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sequence": None}, "a history needs sequence"),
        ({"vocabulary": None}, "a history needs sequence, the most values it shows, and vocabulary"),
        ({"column": "item"}, "column, prefix and suffix are those of the field 'item'"),
        ({"multi": True}, "exclude each other"),
        ({"history_of": "tags"}, "history_of 'tags' is no field of one token with the ids of 'item'"),
        ({"history_of": "city"}, "history_of 'city' is no field of one token with the ids of 'item'"),
        ({"history_of": "past"}, "history_of 'past' is no field of one token"),
        ({"history_of": None, "positive": True}, "positive says which rows a history shows"),
    ],
)
def test_what_is_no_history_is_refused(changed, message):
    given = {key: value for key, value in {**HISTORY, **changed}.items() if value is not None}
    fields = {"name": "item"}, {"name": "city"}, {"name": "tags", "multi": True}, given
    with pytest.raises(ValidationError, match=message):
        encode({"interactions": log(range(10))}, *fields, split=TEMPORAL)


def test_the_real_histories_are_what_the_log_says(parts_of):
    """200 rows of each part, by a filter of the raw log; films that training has not are unseen."""
    benchmark = load_benchmark(NAME)
    card = load_card(benchmark.dataset)
    raw = Source(card).table("interactions")
    users, times = raw["user"].cast(pl.Int64).to_numpy(), raw["timestamp"].to_numpy()
    parts = benchmark.protocol.split.assign(Log(users, users, times), 0).parts
    texts = read_vocabulary(benchmark.protocol.prepare(card).directory, "history").to_numpy()
    known = set(texts[1:])
    for number, name in enumerate(("train", "valid", "test")):
        arrays, rows = parts_of(NAME, name), np.flatnonzero(parts == number)
        assert len(rows) == len(arrays["labels"])
        item = next(field for field in benchmark.protocol.prepare(card).meta["fields"] if field["name"] == "history")
        for place in np.random.default_rng(0).integers(len(rows), size=200):
            row = rows[place]
            earlier = raw.filter(
                (pl.col("user") == raw["user"][int(row)]) & (pl.col("timestamp") < times[row]) & (pl.col("rating") >= 4)
            )
            expected = earlier.sort("timestamp", maintain_order=True)["item"].tail(50).to_list()
            low, high = arrays["history_offsets"][place : place + 2]
            found = texts[arrays["history_values"][low:high] - item["offset"]].tolist()
            assert found == [value if value in known else None for value in expected]
