"""Filters: what is kept, in what order, and what they say when they cannot."""

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from recbench.data.protocols.filters import AnyFilter, Filter
from recbench.errors import RecbenchError

FRAME = pl.DataFrame(
    {
        "user": ["b", "a", "b", "c", "a", "b"],
        "item": ["x", "x", "y", "", "y", "x"],
        "rating": [1.0, 2.0, None, 4.0, 5.0, 3.0],
    }
)


def make(**content: Any) -> Filter:
    return TypeAdapter[Filter](AnyFilter).validate_python(content)


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ({"kind": "at-least", "column": "rating", "value": 3}, [3, 4, 5]),
        ({"kind": "at-most", "column": "rating", "value": 3}, [0, 1, 5]),
        ({"kind": "between", "column": "rating", "low": 2, "high": 4}, [1, 3, 5]),
        ({"kind": "equals", "column": "item", "value": "x"}, [0, 1, 5]),
        ({"kind": "one-of", "column": "item", "values": ["x", ""]}, [0, 1, 3, 5]),
        ({"kind": "not-in", "column": "item", "values": ["x", "z"]}, [2, 3, 4]),
        ({"kind": "unique", "columns": ["user"]}, [0, 1, 3]),
        ({"kind": "unique", "columns": ["user"], "keep": "last"}, [3, 4, 5]),
        ({"kind": "unique", "columns": ["user", "item"], "keep": "last"}, [1, 2, 3, 4, 5]),
        ({"kind": "min-count", "column": "user", "count": 2}, [0, 1, 2, 4, 5]),
        ({"kind": "min-count", "column": "item", "count": 3}, [0, 1, 5]),
        ({"kind": "k-core", "users": 2, "items": 2}, [0, 1, 2, 4, 5]),
        # Item x stays with three rows, and a has then one of them.
        ({"kind": "k-core", "users": 2, "items": 3}, None),
        ({"kind": "k-core", "users": 1, "items": 3}, [0, 1, 5]),
    ],
)
def test_rows_kept_in_order(content: dict[str, Any], rows: list[int] | None) -> None:
    rule = make(**content)
    if rows is None:
        rule_leaves_nothing(rule)
        return
    assert rule.apply(FRAME).equals(FRAME[rows])
    if rule.row_wise:
        assert pl.concat([rule.kept(batch) for batch in FRAME.iter_slices(2)]).equals(FRAME[rows])


def rule_leaves_nothing(rule: Filter) -> None:
    assert rule.kept(FRAME).is_empty()
    with pytest.raises(RecbenchError, match=f"filter {rule.kind} .* leaves none of 6 rows"):
        rule.apply(FRAME)


def test_a_filter_that_leaves_nothing_says_so() -> None:
    rule_leaves_nothing(make(kind="at-least", column="rating", value=6))
    rule_leaves_nothing(make(kind="equals", column="item", value="z"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"kind": "at-least", "column": "price", "value": 3}, "no column 'price'; the table has user, item, rating"),
        ({"kind": "unique", "columns": ["user", "when"]}, "no column 'when'"),
        ({"kind": "min-count", "column": "city", "count": 2}, "no column 'city'"),
        ({"kind": "between", "column": "user", "low": 1, "high": 2}, "needs numbers, and column 'user' .* String"),
        ({"kind": "one-of", "column": "rating", "values": ["1"]}, "needs tokens, and column 'rating' .* Float64"),
    ],
)
def test_wrong_columns_are_named(content: dict[str, Any], expected: str) -> None:
    rule = make(**content)
    assert set(rule.columns_read()) - set(FRAME.columns) or "needs" in expected
    with pytest.raises(RecbenchError, match=expected):
        rule.apply(FRAME)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"kind": "atleast"}, "'at-least', 'at-most', 'between'"),
        ({"kind": "at-least", "column": "rating", "valeu": 3}, "valeu"),
        ({"kind": "at-least", "column": "rating", "value": "inf"}, "finite"),
        ({"kind": "between", "column": "rating", "low": 4, "high": 2}, "low must not be above high, found 4 and 2"),
        ({"kind": "equals", "column": "item", "value": 1}, "valid string"),
        ({"kind": "one-of", "column": "item", "values": []}, "at least 1 item"),
        ({"kind": "k-core", "users": 0, "items": 5}, "greater than 0"),
    ],
)
def test_bad_keys_and_values(content: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        make(**content)


@given(
    pairs=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=60),
    users=st.integers(1, 5),
    items=st.integers(1, 5),
)
def test_k_core_is_the_largest(pairs: list[tuple[int, int]], users: int, items: int) -> None:
    """Dropping one insufficient row at a time, from the end, comes to the same rows."""
    rows = list(range(len(pairs)))
    while True:
        of_user = [pairs[row][0] for row in rows]
        of_item = [pairs[row][1] for row in rows]
        poor = [n for n in range(len(rows)) if of_user.count(of_user[n]) < users or of_item.count(of_item[n]) < items]
        if not poor:
            break
        del rows[poor[-1]]
    frame = pl.DataFrame(pairs, schema={"user": pl.Int64, "item": pl.Int64}, orient="row").with_row_index("row")
    assert make(kind="k-core", users=users, items=items).kept(frame)["row"].to_list() == rows
