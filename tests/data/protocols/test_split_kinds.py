"""Every kind of split through a protocol, on the real MovieLens-100K with its timestamps."""

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recbench.data.cards import load_card
from recbench.data.protocols import Implicit, Labelled
from recbench.data.source import Source
from recbench.data.store import prepared
from recbench.errors import RecbenchError

PARTS = ("train", "valid", "test")
TEMPORAL = {"kind": "temporal", "valid": 0.1, "test": 0.1}
SPLITS = {
    "all": TEMPORAL | {"target": "all"},
    "first": TEMPORAL | {"target": "first"},
    "last": TEMPORAL | {"target": "last"},
    "sliding": {"kind": "sliding", "windows": 3, "window": 1, "valid": 0.1, "test": 0.3, "target": "all"},
    "leave-one-out": {"kind": "leave-k-out", "k": 1, "by": "time"},
    "leave-two-out": {"kind": "leave-k-out", "k": 2, "by": "random"},
    "cold-items": {"kind": "cold-items", "valid": 0.1, "test": 0.1},
    "cold-users": {"kind": "cold-users", "valid": 0.1, "test": 0.1},
    "user-groups": {"kind": "user-groups", "valid_users": 0.1, "test_users": 0.1, "fold_in": 0.8},
    "by-user": {"kind": "random-by-user", "valid": 0.1, "test": 0.1},
    "by-row": {"kind": "random-rows", "valid": 0.1, "test": 0.1},
}


@cache
def log() -> pl.DataFrame:
    return Source(load_card("ml-100k")).table("interactions")


def arrays(protocol):
    with tempfile.TemporaryDirectory() as folder:
        data = prepared(Path(folder) / "it", lambda out: protocol.build(Source(load_card("ml-100k")), out))
        parts = {
            part: {name: np.array(values) for name, values in data.part(part).items()} for part in ("shared", *PARTS)
        }
        return parts, dict(data.meta)


@cache
def made(name: str, ordered: bool = True):
    return arrays(Implicit(name=name, version="1", split=SPLITS[name], ordered=ordered))


@pytest.mark.parametrize("name", SPLITS)
def test_rows_are_those_of_the_log_and_in_one_part_each(name):
    parts, _ = made(name)
    ids = parts["shared"]
    found = pl.concat(
        [
            pl.DataFrame(
                {
                    "user": ids["user_ids"][parts[part]["users"]],
                    "item": ids["item_ids"][parts[part]["items"]],
                    "timestamp": parts[part]["times"],
                }
            )
            for part in PARTS
        ]
    )
    assert found.is_duplicated().sum() == 0
    assert found.join(log(), on=["user", "item", "timestamp"]).height == found.height
    for part in PARTS:
        order = np.lexsort((parts[part]["times"], parts[part]["users"]))
        assert np.array_equal(order, np.arange(len(order))), "sorted by user and time"


@pytest.mark.parametrize("name", ["all", "first", "last", "sliding"])
def test_no_training_event_comes_at_or_after_a_target(name):
    parts, _ = made(name)
    latest = parts["train"]["times"].max()
    assert latest < parts["valid"]["times"].min()
    assert parts["valid"]["times"].max() < parts["test"]["times"].min()


@pytest.mark.parametrize("name", ["first", "last", "leave-one-out"])
def test_one_target_a_user_and_history_before_it(name):
    parts, meta = made(name)
    for part in ("valid", "test"):
        users = parts[part]["users"]
        assert len(np.unique(users)) == len(users)
        if "history_users" not in parts[part]:
            continue
        latest = np.full(meta["n_users"], -np.inf)
        np.maximum.at(latest, parts[part]["history_users"], parts[part]["history_times"])
        assert (latest[users] <= parts[part]["times"]).all()


def test_the_target_rules_choose_among_the_same_events():
    candidates = made("all")[0]["test"]
    for name, choose in (("first", np.minimum), ("last", np.maximum)):
        chosen = made(name)[0]["test"]
        best = np.full(943, np.inf if name == "first" else -np.inf)
        choose.at(best, candidates["users"], candidates["times"])
        assert np.array_equal(np.unique(candidates["users"]), chosen["users"])
        assert np.array_equal(best[chosen["users"]], chosen["times"])


def test_leave_one_out_has_every_user():
    parts, _ = made("leave-one-out")
    assert len(parts["valid"]["users"]) == len(parts["test"]["users"]) == 943
    assert len(parts["train"]["users"]) == 100_000 - 2 * 943


def test_cold_items_and_users_are_in_no_other_part():
    for name, column in (("cold-items", "items"), ("cold-users", "users")):
        parts, _ = made(name)
        for part, other in (("valid", "train"), ("test", "train"), ("test", "valid")):
            assert not np.isin(parts[part][column], parts[other][column]).any()


def test_only_unseen_users_are_folded_in():
    folded = {name for name in SPLITS if made(name)[1].get("fold_in")}
    assert folded == {"cold-users", "user-groups"}


def test_a_split_by_time_of_clicks():
    protocol = Labelled.model_validate(
        {
            "name": "t",
            "version": "1",
            "label": {"positive_from": 4},
            "fields": [{"name": "user"}, {"name": "timestamp", "transform": "none"}],
            "split": TEMPORAL | {"target": "all"},
        }
    )
    parts, _ = arrays(protocol)
    assert sum(len(parts[part]["labels"]) for part in PARTS) == 100_000
    # Seconds since 1970 in float32 are known to the minute.
    assert parts["train"]["dense"].max() <= parts["valid"]["dense"].min() + 64
    assert parts["valid"]["dense"].max() <= parts["test"]["dense"].min() + 64


def test_a_split_by_time_needs_times(tmp_path):
    source = Source(load_card("coat"))
    try:
        source.table("interactions")
    except RecbenchError as error:
        pytest.skip(f"no files of coat: {error}")
    without = Implicit(name="t", version="1", split=SPLITS["all"])
    with pytest.raises(RecbenchError, match="time"):
        prepared(tmp_path / "it", lambda out: without.build(source, out))


def test_filters_come_before_the_split():
    filters = [{"kind": "at-least", "column": "rating", "value": 4}, {"kind": "k-core", "users": 20, "items": 20}]
    parts, meta = arrays(Implicit(name="f", version="1", filters=filters, split=SPLITS["by-user"]))
    users = np.concatenate([parts[part]["users"] for part in PARTS])
    items = np.concatenate([parts[part]["items"] for part in PARTS])
    assert np.bincount(users).min() >= 20
    assert np.bincount(items).min() >= 20
    assert len(np.unique(users)) == meta["n_users"] < 943
