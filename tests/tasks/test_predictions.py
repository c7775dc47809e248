"""Rows with raw ids become what tasks judge, and every fault of theirs is one sentence."""

import logging

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbench.errors import RecbenchError
from recbench.metrics.topk import top_k
from recbench.tasks import predictions

USERS, ITEMS = 4, 9
SHARED = {"user_ids": np.array(["10", "20", "30", "40"]), "item_ids": np.array([f"{i}" for i in range(100, 109)])}
SEEN = {"users": np.array([0, 0, 1, 2], dtype=np.int32), "items": np.array([0, 1, 0, 8], dtype=np.int32)}
JUDGED = torch.tensor([0, 1, 3])


def frame(*rows, columns=("user", "item", "score")):
    return pl.DataFrame(rows, schema=columns, orient="row")


def lists(rows, length=3, judged=JUDGED, seen=SEEN):
    return predictions.lists(rows, SHARED, judged, length, [seen])


GOOD = frame(
    *[("10", "104", 0.5), ("10", "105", 0.9), ("10", "106", 0.1), ("10", "107", 0.05)],
    *[("20", "101", 2.0), ("30", "101", 1.0)],
)


def test_lists_are_ordered_cut_and_filled_up():
    (users, items, scores, tied), diagnostics = lists(GOOD)
    assert users.tolist() == [0, 1, 3]
    assert items.tolist() == [[5, 4, 6], [1, -1, -1], [-1, -1, -1]]
    assert scores.tolist() == [[0.9, 0.5, 0.1], [2.0, -np.inf, -np.inf], [-np.inf] * 3]
    assert scores.dtype == torch.float64
    assert tied.tolist() == [False] * 3
    assert diagnostics == {"users_with_list": 2 / 3, "users_ignored": 1}


def test_what_is_missing_is_told(caplog):
    with caplog.at_level(logging.INFO, logger="recbench"):
        lists(GOOD)
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [
        ("WARNING", "users without a list: 1 of 3; they count as misses in every metric"),
        ("WARNING", "lists of fewer than 3 items: 1; the places left count as misses"),
        ("INFO", "users ignored, who have no items in the part that is judged: 1"),
    ]


def test_a_list_of_all_unseen_items_is_not_short(caplog):
    """A user who has seen all items but two cannot be given three."""
    seen = {"users": np.repeat(0, 7), "items": np.arange(7)}
    lists(frame(("10", "107", 1.0), ("10", "108", 0.5)), judged=torch.tensor([0]), seen=seen)
    assert not caplog.records


def test_ranks_go_before_scores_and_ties():
    rows = frame(
        *[("10", "104", 1, 0.5), ("10", "103", 3, 0.5), ("10", "105", 2, 0.5), ("10", "106", 4, 0.1)],
        columns=("user", "item", "rank", "score"),
    )
    (_, items, _, tied), _ = lists(rows)
    assert items[0].tolist() == [4, 5, 3]
    assert tied.tolist() == [True, False, False]


def test_a_tie_behind_the_list_is_not_counted():
    """Equal scores at places k and k + 1 were ordered by chance, those behind are not of the list."""
    rows = [("10", "104", 0.9), ("10", "105", 0.5), ("10", "106", 0.5), ("10", "107", 0.1), ("10", "108", 0.1)]
    tied = [lists(frame(*rows), length)[0][3][0].item() for length in (1, 2, 3, 4)]
    assert tied == [False, True, True, True]


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.booleans())
@settings(max_examples=60, deadline=None)
def test_whole_rankings_give_the_lists_of_a_model_with_those_scores(seed, length, as_integers):
    """Also with ties, which are ordered alike; whatever the order of the rows and the columns and the type of ids."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (USERS, ITEMS)) / 4
    masked = torch.from_numpy(scores.copy())
    masked[SEEN["users"], SEEN["items"]] = -torch.inf
    judged = torch.from_numpy(np.sort(rng.permutation(USERS)[: rng.integers(1, USERS + 1)]))
    items, values, _ = top_k(masked[judged], length, judged)

    users, columns = np.nonzero(np.isfinite(masked.numpy()))
    raw = {"score": scores[users, columns], "other": 7}
    raw |= {"item": SHARED["item_ids"][columns], "user": SHARED["user_ids"][users]}
    rows = pl.DataFrame(raw).sample(fraction=1, shuffle=True, seed=seed)
    if as_integers:
        rows = rows.with_columns(pl.col("user", "item").cast(pl.Int32))
    (_, found, found_scores, _), diagnostics = lists(rows, length, judged)
    assert torch.equal(found, items)
    assert torch.equal(found_scores, values)
    assert diagnostics == {"users_with_list": 1.0, "users_ignored": USERS - len(judged)}


def test_categories_are_text():
    rows = GOOD.with_columns(pl.col("user", "item").cast(pl.Categorical))
    assert torch.equal(lists(rows)[0][1], lists(GOOD)[0][1])


RANKED = frame(
    ("10", "104", 1, 0.9), ("10", "105", 2, 0.5), ("20", "106", 1, 0.7), columns=("user", "item", "rank", "score")
)


def replaced(rows, column, values):
    return rows.with_columns(pl.Series(column, values))


BAD_LISTS = {
    "no column": (GOOD.drop("score"), r"no column 'score'; expected user, item, score, found user, item$"),
    "no row": (GOOD.clear(), "no row"),
    "ids of fractions": (GOOD.cast({"user": pl.Float64}), "'user' is of type Float64, expected text or integers"),
    "scores of text": (GOOD.cast({"score": pl.String}), "'score' is of type String, expected numbers"),
    "truth values": (replaced(GOOD, "score", [True] * 6), "'score' is of type Boolean, expected numbers"),
    "user missing": (
        replaced(GOOD, "user", ["10", None, None, "10", "20", "30"]),
        "2 of 6 rows have no user.*item 105",
    ),
    "score missing": (replaced(GOOD, "score", [1.0] * 5 + [None]), "1 of 6 rows have no score; .*user 30, item 101"),
    "NaN": (
        replaced(GOOD, "score", [1.0, 1.0, np.nan, 1.0, np.inf, 1.0]),
        "2 of 6 rows .*NaN or infinite.*item 106, score nan",
    ),
    "infinite": (replaced(GOOD, "score", [1.0, 1.0, 1.0, 1.0, -np.inf, 1.0]), "1 of 6 rows .*NaN or infinite.*user 20"),
    "repeated": (
        pl.concat([GOOD, GOOD[1:3]]),
        "2 of 8 rows repeat a pair of user and item; the first is: user 10, item 105",
    ),
    "unknown user": (
        replaced(GOOD, "user", ["10"] * 4 + ["20", "31"]),
        "1 of 6 rows have an unknown user; .*user 31",
    ),
    "unknown item": (
        replaced(GOOD, "item", ["104", "5", "6", "107", "101", "101"]),
        "2 of 6 rows have an unknown item; .*item 5,",
    ),
    "seen": (
        replaced(GOOD, "item", ["104", "105", "101", "107", "100", "101"]),
        "2 of 6 rows list .*user 10, item 101",
    ),
    "nobody judged": (GOOD[5:], "none of its 1 users"),
    "rank of text": (RANKED.cast({"rank": pl.String}), "'rank' is of type String, expected integers"),
    "rank missing": (replaced(RANKED, "rank", [1, None, 1]), "1 of 3 rows have no rank"),
    "ranks from 0": (
        replaced(RANKED, "rank", [0, 1, 0]),
        "3 of 3 rows have a rank out of order.*item 104, score 0.9, rank 0",
    ),
    "rank left out": (replaced(RANKED, "rank", [1, 3, 1]), "1 of 3 rows have a rank out of order"),
    "rank repeated": (replaced(RANKED, "rank", [1, 1, 1]), "1 of 3 rows have a rank out of order"),
    "ranks against scores": (
        replaced(RANKED, "rank", [2, 1, 1]),
        "1 of 3 rows have a higher score than the rank before",
    ),
}


@pytest.mark.parametrize(("rows", "sentence"), BAD_LISTS.values(), ids=BAD_LISTS)
def test_faulty_lists(rows, sentence):
    with pytest.raises(RecbenchError, match=sentence):
        lists(rows)


def test_a_seen_item_of_a_user_who_is_not_judged_does_not_matter():
    rows = pl.concat([GOOD, frame(("30", "108", 1.0))])
    assert torch.equal(lists(rows)[0][1], lists(GOOD)[0][1])


CLICKS = frame((2, 0.3), (0, 0.1), (1, 1.0), columns=("row", "score"))


def test_probabilities_are_in_the_order_of_the_rows():
    scores = predictions.row_scores(CLICKS, 3)
    assert scores.dtype == torch.float64
    assert scores.tolist() == [0.1, 1.0, 0.3]


def test_probabilities_of_several_labels():
    clicks = CLICKS.select("row", pl.col("score").alias("score:like"), (1 - pl.col("score")).alias("score:click"))
    assert predictions.row_scores(clicks, 3, ["click", "like"]).tolist() == [[0.9, 0.1], [0.0, 1.0], [0.7, 0.3]]
    with pytest.raises(RecbenchError, match="no column 'score:love'; expected row, score:like, score:love, found row"):
        predictions.row_scores(clicks, 3, ["like", "love"])
    with pytest.raises(RecbenchError, match="1 of 3 rows have no score:click"):
        predictions.row_scores(replaced(clicks, "score:click", [0.7, None, 0.0]), 3, ["click", "like"])
    with pytest.raises(RecbenchError, match=r"1 of 3 rows have a score outside .*score:click 1.5"):
        predictions.row_scores(replaced(clicks, "score:click", [1.5, 0.1, 0.0]), 3, ["click", "like"])


BAD_ROWS = {
    "no column": (CLICKS.rename({"row": "id"}), "no column 'row'; expected row, score, found id, score"),
    "row of text": (CLICKS.cast({"row": pl.String}), "'row' is of type String, expected integers"),
    "row missing": (replaced(CLICKS, "row", [2, None, 1]), "1 of 3 rows have no row"),
    "NaN": (replaced(CLICKS, "score", [0.3, np.nan, 1.0]), "NaN or infinite; the first is: row 0"),
    "logits": (replaced(CLICKS, "score", [0.3, -0.2, 1.1]), r"2 of 3 rows .*outside \[0, 1\].*row 0, score -0.2"),
    "out of range": (
        replaced(CLICKS, "row", [2, 3, -1]),
        "2 of 3 rows are not among the 3 rows of the part, 0 to 2.*row 3",
    ),
    "repeated": (replaced(CLICKS, "row", [2, 2, 1]), "1 of 3 rows repeat a row; the first is: row 2"),
    "left out": (CLICKS[2:], "2 of the 3 rows of the part have no score; the first is row 0"),
}


@pytest.mark.parametrize(("rows", "sentence"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_faulty_rows(rows, sentence):
    with pytest.raises(RecbenchError, match=sentence):
        predictions.row_scores(rows, 3)


PAIRS = np.array([3, 0, 1], dtype=np.int32), np.array([2, 4, 2], dtype=np.int32)
RATED = frame((10, 104, 4.0), (20, 102, 2.5), (40, 102, 1.0))


def test_scores_are_in_the_order_of_the_pairs():
    scores = predictions.pair_scores(RATED, SHARED, *PAIRS)
    assert scores.dtype == torch.float64
    assert scores.tolist() == [1.0, 4.0, 2.5]


BAD_PAIRS = {
    "infinite": (replaced(RATED, "score", [1.0, np.inf, 2.0]), "NaN or infinite.*user 20"),
    "unknown": (
        replaced(RATED, "item", [104, 102, 99]),
        "1 of 3 rows have an unknown item; .*item 99",
    ),
    "repeated": (pl.concat([RATED, RATED[:1]]), "1 of 4 rows repeat"),
    "left out": (RATED[:1], "2 of the 3 pairs of the part have no score; the first is user 40, item 102"),
    "others": (pl.concat([RATED, frame((10, 100, 1.0))]), "1 of 4 rows are of pairs that are not.*user 10, item 100"),
}


@pytest.mark.parametrize(("rows", "sentence"), BAD_PAIRS.values(), ids=BAD_PAIRS)
def test_faulty_pairs(rows, sentence):
    with pytest.raises(RecbenchError, match=sentence):
        predictions.pair_scores(rows, SHARED, *PAIRS)
