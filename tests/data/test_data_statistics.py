"""Statistics, worked by hand on tiny logs and counted on real ones."""

import polars as pl
import pytest

from recbench.data.cards import load_card
from recbench.data.describe import dataset_statistics
from recbench.data.statistics import (
    Spread,
    Unseen,
    cold_shares,
    gini,
    log_statistics,
    time_quality,
    triple_statistics,
)
from recbench.errors import UsageError

DAY = 86_400
START = 1_500_000_000  # 2017-07-14


def log(**columns) -> pl.DataFrame:
    return pl.DataFrame(columns, schema_overrides={"timestamp": pl.Float64, "rating": pl.Float64})


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([5, 5, 5], 0.0), ([7], 0.0), ([1, 3], 0.25), ([3, 1, 2], 2 / 9), ([1] * 99 + [10**9], 0.99)],
)
def test_gini(counts, expected):
    assert gini(pl.Series(counts)) == pytest.approx(expected, abs=1e-6)


def test_gini_is_half_the_mean_difference_over_the_mean():
    counts = pl.Series([1, 1, 4, 9, 2, 30])
    differences = [abs(a - b) for a in counts for b in counts]
    assert gini(counts) == pytest.approx(sum(differences) / len(differences) / 2 / counts.mean())


def test_a_log_by_hand():
    found = log_statistics(
        log(user=["a", "a", "a", "b"], item=["x", "x", "y", "x"], rating=[1.0, 2.0, 2.0, 4.5])
    )  # fmt: skip
    assert (found.rows, found.who, found.users.count, found.items.count) == (4, "user", 2, 2)
    assert found.density == 3 / 4
    assert found.repeated_rows == 1
    assert found.users.rows == Spread(1, 2, 2, 3)
    assert found.items.gini == pytest.approx(0.25)
    assert found.items.top_share == 3 / 4
    assert found.values == {"rating": {"1": 1, "2": 2, "4.5": 1}}
    assert found.times is None
    assert found.cold is None


def test_many_values_are_spread():
    found = log_statistics(pl.DataFrame({"label": [float(n) for n in range(101)]}))
    assert found.values == {"label": Spread(0, 50, 50, 100)}
    assert (found.users, found.items, found.density, found.repeated_rows) == (None, None, None, None)


def test_sessions_and_lists_of_items():
    found = log_statistics(pl.DataFrame({"session": ["1", "2", "3"], "item": [["x", "y"], ["x"], []]}))
    assert (found.who, found.rows, found.users.count, found.items.count) == ("session", 3, 2, 2)


def test_times_by_hand():
    # a: three at once, one a second later, one a day later; b: two events 40 minutes apart.
    users = ["a"] * 5 + ["b"] * 2
    seconds = [0, 0, 0, 1, DAY, 10, 2410]
    found = time_quality(log(user=users, timestamp=[START + s for s in seconds]))
    assert found.kind == "Unix seconds"
    assert (found.earliest_date, found.latest_date) == ("2017-07-14", "2017-07-15")
    assert found.resolution == 1
    assert found.shared == 3 / 7
    assert found.within_second == 3 / 7
    assert found.burst == 1  # of 4, 1, 1 and 1
    assert found.busiest is None  # nobody has enough events
    in_ms = time_quality(log(user=users, timestamp=[(START + s) * 1000 for s in seconds]))
    assert in_ms.kind == "Unix milliseconds"
    assert (in_ms.resolution, in_ms.shared, in_ms.burst) == (1, 3 / 7, 1)
    assert (in_ms.latest_date, in_ms.latest) == ("2017-07-15", (START + DAY) * 1000)


@pytest.mark.parametrize(("share", "batch"), [(5, False), (6, True)])
def test_batch_inserted(share, batch):
    # Of each user's ten events, `share` are in one hour and the others a day apart; one user more is not like them.
    times = [START + n if n < share else START + n * DAY for n in range(10)]
    users = [user for user in "abc" for _ in range(10)] + ["d"] * 10
    found = time_quality(log(user=users, timestamp=times * 3 + [START + n * DAY for n in range(10)]))
    assert found.busiest == share / 10
    assert found.batch_inserted is batch


def test_the_busiest_hour_may_lie_anywhere():
    times = [START + 3590, *(START + 3600 + n for n in range(8)), START + 30 * DAY]
    assert time_quality(log(user=["a"] * 10, timestamp=times)).busiest == 0.9


def test_times_that_are_none():
    assert time_quality(log(timestamp=[3.0, 7.0, 9.0])).kind == "unknown unit"
    assert time_quality(log(timestamp=[3.0, 7.0, 9.0])).resolution == 2
    assert time_quality(log(timestamp=[0.0, 1.0]), positions=True).earliest is None
    assert time_quality(log(timestamp=[None, None])).missing == 2
    found = time_quality(log(user=["a", "b", "a"], timestamp=[START, None, START + 5]))
    assert (found.missing, found.resolution, found.shared) == (1, 5, 0)


def test_cold_shares_by_hand():
    # Twenty events; the last two, by time and not by row, are of a new user and of an old one with a new item.
    frame = log(
        user=["new", "a", *["a", "b"] * 9],
        item=["x", "new", *["x"] * 18],
        timestamp=[100.0, 101.0, *map(float, range(18))],
    )
    found = cold_shares(frame)
    assert (found.cut, found.test_events) == (100, 2)
    assert (found.users, found.items, found.events) == (0.5, 0.5, 1.0)
    # Events at the time of the cut go to the same side: nothing of training is as late as a test event.
    assert cold_shares(log(user=["a"] * 10, item=["x"] * 10, timestamp=[1.0] * 5 + [2.0] * 5)).test_events == 5
    assert cold_shares(log(user=["a"] * 10, item=["x"] * 10, timestamp=[1.0] * 10)) is None


def test_triples_by_hand():
    def facts(*rows):
        return pl.DataFrame(rows, schema=["head", "relation", "tail"], orient="row")

    train = facts(("a", "r", "b"), ("b", "r", "c"), ("a", "s", "c"), ("a", "s", "c"))
    found = triple_statistics({"train": train, "test": facts(("a", "r", "d"), ("b", "q", "c"), ("a", "r", "c"))})
    assert (found.entities, found.relations, found.repeated_facts) == (4, 3, 1)
    assert found.facts == {"train": 4, "test": 3}
    assert found.facts_per_relation == Spread(1, 2, 7 / 3, 4)
    assert found.unseen == {"test": Unseen(entities=1, relations=1, facts=2)}


@pytest.mark.usefixtures("mirrored")
def test_ml_100k():
    found = dataset_statistics(load_card("ml-100k"))
    assert (found.log.users.count, found.log.items.count, found.log.rows) == (943, 1682, 100_000)
    assert found.log.density == pytest.approx(100_000 / 943 / 1682)
    assert found.log.values["rating"] == {"1": 6110, "2": 11370, "3": 27145, "4": 34174, "5": 21201}
    assert (found.log.times.earliest_date, found.log.times.latest_date) == ("1997-09-20", "1998-04-22")
    assert [warning for warning in found.warnings if "batch-inserted" in warning] == found.warnings != []
    assert all(count.published == count.counted for count in found.counts)


@pytest.mark.usefixtures("mirrored")
def test_facts_of_ml_100k():
    found = dataset_statistics(load_card("ml-100k"), "triples")
    assert found.log is None
    assert found.triples.facts == {"triples": 91_631}
    assert found.triples.unseen == {}


@pytest.mark.usefixtures("mirrored")
def test_ml_latest_small():
    found = dataset_statistics(load_card("ml-latest-small"))
    assert (found.log.users.count, found.log.items.count, found.log.rows) == (671, 9066, 100_004)
    assert found.log.times.batch_inserted
    assert found.log.cold.test_events == 10_000
    assert found.log.cold.users > 0.5


@pytest.mark.usefixtures("mirrored")
@pytest.mark.parametrize(("name", "users", "items"), [("coat", 290, 300), ("lastfm-hetrec2011", 1892, 17632)])
def test_without_timestamps(name, users, items):
    found = dataset_statistics(load_card(name))
    assert (found.log.users.count, found.log.items.count) == (users, items)
    assert found.log.times is None
    assert found.log.cold is None
    assert found.warnings == []


@pytest.mark.usefixtures("mirrored")
def test_order_is_no_time():
    found = dataset_statistics(load_card("ml-1m-sasrec"))
    assert found.log.cold is None
    assert found.log.times is None or found.log.times.kind == "positions"


@pytest.mark.usefixtures("mirrored")
def test_kinds_of_facts():
    found = dataset_statistics(load_card("wn18rr"))
    assert (found.triples.entities, found.triples.relations) == (40_943, 11)
    assert found.triples.facts == {"train": 86_835, "valid": 3034, "test": 3134}
    assert set(found.triples.unseen) == {"valid", "test"}


def test_a_difference_from_the_card_is_named(monkeypatch, tmp_path):
    from recbench.data.own.adding import add

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECBENCH_HOME", str(tmp_path / "home"))
    (tmp_path / "own.csv").write_text("user,item\na,x\nb,x\nb,x\n")
    card = add([tmp_path / "own.csv"]).card
    wrong = card.model_copy(update={"statistics": {"interactions": 3, "interactions.user": 5}})
    assert dataset_statistics(wrong).warnings == ["interactions.user: the card says 5, counted 2"]
    with pytest.raises(UsageError, match="has no table 'ratings'; it has interactions"):
        dataset_statistics(card, "ratings")
