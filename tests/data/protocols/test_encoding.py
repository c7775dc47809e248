"""Encoding by hand-worked logs: ids, thresholds, transforms and lists, whatever the size of the pieces."""

import numpy as np
import polars as pl
import pytest
from made_logs import CARD, encode, log, split
from pydantic import ValidationError

from recbench.data.protocols import encoding
from recbench.data.protocols.fields import FieldSpec
from recbench.errors import RecbenchError

TOKENS = log(city=["b", "a", "b", "c", "b", "a", "c", "z", "a", ""])


def test_ids_are_by_text_and_values_outside_training_are_unseen():
    parts, (field,), texts = encode(TOKENS, {"name": "city"})
    assert texts["city"] == [None, "a", "b", "c"]
    assert field == {"name": "city", "multi": False, "size": 4, "offset": 0}
    assert parts["train"]["ids"].ravel().tolist() == [2, 1, 2, 3, 2, 1]
    assert parts["valid"]["ids"].ravel().tolist() == [3, 0]
    assert parts["test"]["ids"].ravel().tolist() == [1, 0]


def test_values_seen_too_rarely_in_training_are_unseen():
    parts, (field,), texts = encode(TOKENS, {"name": "city", "min_count": 2})
    assert texts["city"] == [None, "a", "b"]
    assert field["size"] == 3
    assert parts["train"]["ids"].ravel().tolist() == [2, 1, 2, 0, 2, 1]
    assert parts["valid"]["ids"].ravel().tolist() == [0, 0], "counts of other parts do not matter"


def test_an_empty_value_is_a_value():
    frames = log(city=["", "a", "", "a", "", "a", "", "a", "", "a"])
    parts, _, texts = encode(frames, {"name": "city"})
    assert texts["city"] == [None, "", "a"]
    assert parts["test"]["ids"].ravel().tolist() == [1, 2]


def test_prefix_and_suffix():
    frames = log(hour=["14102100", "14102101"] * 5)
    _, _, texts = encode(frames, {"name": "day", "column": "hour", "prefix": 6}, {"name": "hour", "suffix": 2})
    assert texts == {"day": [None, "141021"], "hour": [None, "00", "01"]}


def test_offsets_follow_each_other():
    frames = log(one=["a", "b"] * 5, two=["x"] * 10)
    parts, fields, _ = encode(frames, {"name": "one"}, {"name": "two"})
    assert [(field["offset"], field["size"]) for field in fields] == [(0, 3), (3, 2)]
    assert parts["train"]["ids"][:2].tolist() == [[1, 4], [2, 4]]


NUMBERS = log(x=[1.0, 2.0, 3.0, 20.0, None, -5.0, 3.0, 1e9, None, -1e9])


def test_standardise_uses_mean_and_deviation_of_known_training_values():
    parts, (field,), _ = encode(NUMBERS, {"name": "x", "transform": "standardise"})
    known = np.array([1, 2, 3, 20, -5.0])
    assert field == {"name": "x", "multi": False, "size": 1, "offset": 0, "dense": True}
    expected = [(value - known.mean()) / known.std() if value is not None else 0 for value in (1, 2, 3, 20, None, -5)]
    assert parts["train"]["dense"].ravel() == pytest.approx(expected, rel=1e-6)
    assert parts["test"]["dense"][0, 0] == 0
    assert parts["train"]["ids"].shape == (6, 0)


def test_none_keeps_numbers_and_makes_missing_ones_zero():
    parts, _, _ = encode(NUMBERS, {"name": "x", "transform": "none"})
    assert parts["train"]["dense"].ravel().tolist() == [1, 2, 3, 20, 0, -5]


def test_log_square_buckets_by_hand():
    """floor(log(3)^2) = 1, floor(log(20)^2) = 8; 1, 2 and -5 as they are, so 1 and 3 share a bucket."""
    parts, (field,), texts = encode(NUMBERS, {"name": "x", "transform": "log-square"})
    assert texts["x"] == [None, "", "-5", "1", "2", "8"]
    assert field["size"] == 6
    assert parts["train"]["ids"].ravel().tolist() == [3, 4, 3, 5, 1, 2]
    assert parts["valid"]["ids"].ravel().tolist() == [3, 0], "a bucket above all of training is unseen"
    assert parts["test"]["ids"].ravel().tolist() == [1, 0], "and one below"


def test_quantiles_hold_equal_shares_of_training():
    values = np.random.default_rng(0).lognormal(size=1000)
    frame = pl.DataFrame({"x": values, "label": [0.0, 1.0] * 500})
    parts, (field,), texts = encode(
        split(frame, 800, 100), {"name": "x", "transform": "quantile", "bins": 10}, batch_rows=64
    )
    assert np.bincount(parts["train"]["ids"].ravel()).tolist() == [0, *[80] * 10]
    assert field["size"] == 11
    assert len(texts["x"]) == 11
    order = np.argsort(values[:800])
    assert (np.diff(parts["train"]["ids"].ravel()[order]) >= 0).all()


def test_quantile_of_a_missing_number_is_unseen():
    parts, _, _ = encode(NUMBERS, {"name": "x", "transform": "quantile", "bins": 2})
    assert parts["train"]["ids"].ravel().tolist() == [1, 1, 2, 2, 0, 1]


LISTS = log(
    tags=[["a", "b"], [], ["b"], ["c", "a", "b"], None, ["a"], ["z", "a"], ["b"], [], ["c"]],
    item=["b", "c", "a", "a", "b", "c", "d", "a", "b", "c"],
)


def test_multi_valued_fields_keep_every_value():
    parts, (field,), texts = encode(LISTS, {"name": "tags", "multi": True})
    assert field["multi"]
    assert texts["tags"] == [None, "a", "b", "c"]
    assert parts["train"]["tags_offsets"].tolist() == [0, 2, 2, 3, 6, 6, 7]
    assert parts["train"]["tags_values"].tolist() == [1, 2, 2, 3, 1, 2, 1]
    assert parts["valid"]["tags_values"].tolist() == [0, 1, 2]
    assert parts["test"]["tags_offsets"].tolist() == [0, 0, 1]


def test_sequences_keep_the_last_values_in_order_and_share_ids():
    parts, fields, _ = encode(
        LISTS, {"name": "item"}, {"name": "past", "column": "tags", "sequence": 2, "vocabulary": "item"}
    )
    assert [(field["offset"], field["size"]) for field in fields] == [(0, 4), (0, 4)]
    assert parts["train"]["past_values"].tolist() == [1, 2, 2, 1, 2, 1]
    # The vocabulary counts both fields: "z" is in neither's training rows.
    assert parts["valid"]["past_values"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("batch_rows", [1, 3, 100])
@pytest.mark.parametrize("rows_at_once", [1, 4, 1000])
def test_pieces_do_not_matter(monkeypatch, batch_rows, rows_at_once):
    fields = (
        {"name": "item"},
        {"name": "tags", "multi": True},
        {"name": "past", "column": "tags", "sequence": 1, "vocabulary": "item"},
    )
    expected = encode(LISTS, *fields)
    monkeypatch.setattr(encoding, "ROWS_AT_ONCE", rows_at_once)
    monkeypatch.setattr(encoding, "COUNTED_AT_ONCE", rows_at_once)
    found = encode(LISTS, *fields, batch_rows=batch_rows)
    assert found[1:] == expected[1:]
    for part, arrays in expected[0].items():
        assert {name: values.tolist() for name, values in found[0][part].items()} == {
            name: values.tolist() for name, values in arrays.items()
        }


def test_rows_between_the_labels_are_left_out():
    frames = {name: pl.DataFrame({"rating": [1.0, 2.0, 3.0, 4.0, 5.0], "x": list("abcde")}) for name in CARD.tables}
    label = {"column": "rating", "positive_from": 4, "negative_below": 3}
    parts, _, texts = encode(frames, {"name": "x"}, label=label)
    assert parts["train"]["labels"].tolist() == [0, 0, 1, 1]
    assert texts["x"] == [None, "a", "b", "d", "e"]


GRADED = {
    name: pl.DataFrame({"rating": [1.0, 5.0, None, 3.0, 4.0, 5.0], "watched": [1.0, 9.0, 2.0, 9.0, None, 1.0]})
    for name in ("train", "valid", "test")
}
GRADES = {
    "like": {"column": "rating", "positive_from": 4, "negative_below": 3},
    "long": {"column": "watched", "positive_from": 2},
}


def test_several_labels_and_rows_that_have_not_all_of_them_are_left_out():
    parts, _, _ = encode(GRADED, {"name": "x", "column": "watched", "transform": "none"}, label=None, labels=GRADES)
    assert parts["train"]["labels"].tolist() == [[0, 0], [1, 1], [1, 0]]
    assert parts["train"]["labels"].dtype == np.float32
    assert parts["train"]["dense"].ravel().tolist() == [1, 9, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"label": None}, "give the label .* or several by name .*: one of them, not both"),
        ({"labels": GRADES}, "one of them, not both"),
        ({"label": None, "labels": {"like": GRADES["like"]}}, "at least 2"),
        ({"label": None, "labels": {"like:x": GRADES["like"], "long": GRADES["long"]}}, "should match pattern"),
    ],
)
def test_labels_are_given_once_and_named_by_a_word(labels, message):
    with pytest.raises(ValidationError, match=message):
        encode(GRADED, {"name": "x", "column": "watched", "transform": "none"}, **labels)


def test_groups_have_their_raw_ids():
    frames = log(user=["u2", "u10", "u2", "u1", "u1", "u2", "u3", "u1", "u2", "u3"])
    parts, _, _ = encode(frames, {"name": "user"}, group="user")
    for part, frame in frames.items():
        assert parts["shared"]["group_ids"][parts[part]["groups"]].tolist() == frame["user"].to_list()


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"multi": True, "sequence": 3}, "exclude each other"),
        ({"multi": True, "transform": "none"}, "exclude each other"),
        ({"transform": "quantile", "prefix": 3}, "for tokens"),
        ({"transform": "logarithm"}, "log-square"),
        ({"min_count": 0}, "greater than 0"),
        ({"min_count": 2, "transform": "none"}, "min_count counts values of tokens"),
        ({"bins": 8}, "bins are those of transform: quantile"),
        ({"vocabulary": "item", "min_count": 2}, "min_count belongs to the field 'item'"),
    ],
)
def test_a_field_of_two_kinds_is_refused(field, message):
    with pytest.raises(ValidationError, match=message):
        FieldSpec(name="x", **field)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (({"name": "a"}, {"name": "a"}), "the same name"),
        (({"name": "a", "vocabulary": "b"},), "vocabulary 'b' is no field of tokens"),
        (({"name": "a", "vocabulary": "b"}, {"name": "b", "vocabulary": "a"}), "no field of tokens with its own ids"),
    ],
)
def test_fields_must_agree(fields, message):
    with pytest.raises(ValidationError, match=message):
        encode(TOKENS, *fields)


def test_a_filter_that_needs_the_whole_log_is_refused():
    with pytest.raises(ValidationError, match="filter 'k-core' needs the whole log"):
        encode(TOKENS, {"name": "city"}, filters=[{"kind": "k-core", "users": 2, "items": 2}])


def test_an_empty_part_is_an_error():
    frames = {**TOKENS, "valid": TOKENS["valid"][:0]}
    with pytest.raises(RecbenchError, match="the valid part is empty"):
        encode(frames, {"name": "city"})
