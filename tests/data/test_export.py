"""A split for other libraries: raw ids, everything that may be known, and nothing of the answers."""

import numpy as np
import polars as pl
import pytest

from recbench.data.cards import load_card
from recbench.data.export import export
from recbench.errors import RecbenchError, UsageError
from recbench.running.score import score
from recbench.tasks.base import load_benchmark


def prepared(name):
    benchmark = load_benchmark(name)
    return benchmark.protocol.prepare(load_card(benchmark.dataset))


@pytest.fixture
def exported(tmp_path):
    def write(name):
        files = export(prepared(name), tmp_path / "split")
        assert sorted(files) == sorted((tmp_path / "split").iterdir())
        return {file.stem: pl.read_parquet(file) for file in files}

    return write


def test_interactions(exported, parts_of):
    frames = exported("topn/ml-100k")
    assert {name: frame.columns for name, frame in frames.items()} == {
        "train": ["user", "item"],
        "valid": ["user", "item"],
        "test": ["user"],
        "items": ["item"],
    }
    shared = parts_of("topn/ml-100k", "shared")
    for name in ("train", "valid"):
        part = parts_of("topn/ml-100k", name)
        assert frames[name]["user"].to_list() == shared["user_ids"][part["users"]].tolist()
        assert frames[name]["item"].to_list() == shared["item_ids"][part["items"]].tolist()
    assert (
        frames["test"]["user"].to_list()
        == shared["user_ids"][np.unique(parts_of("topn/ml-100k", "test")["users"])].tolist()
    )
    assert frames["items"]["item"].to_list() == shared["item_ids"].tolist()


def test_a_graph(exported):
    frames = exported("kg/ml-100k")
    assert frames["graph"].columns == ["head", "relation", "tail"]
    assert len(frames["graph"]) == 91_631
    assert frames["graph"].filter(pl.col("relation") == "film.film.actor")["head"].str.starts_with("item:").any()


def test_pairs(exported, parts_of):
    frames = exported("rating/ml-100k-semisynthetic")
    assert frames["train"].columns == frames["valid"].columns == ["user", "item", "label"]
    assert frames["test"].columns == ["user", "item"]
    assert len(frames["test"]) == len(parts_of("rating/ml-100k-semisynthetic", "test")["labels"])


def test_rows_of_a_click_log(exported, parts_of):
    frames = exported("ctr/ml-100k")
    fields = ["user", "item", "age", "gender", "occupation", "zip", "release_year", "genres"]
    assert frames["train"].columns == ["row", *fields, "label"]
    assert frames["test"].columns == ["row", *fields]
    part, shared = parts_of("ctr/ml-100k", "test"), parts_of("ctr/ml-100k", "shared")
    known = frames["test"].filter(pl.col("user").is_not_null())
    assert known["user"].to_list() == shared["group_ids"][part["groups"][known["row"].to_numpy()]].tolist()
    seen = frames["train"].unique("item").select("item", "genres")
    both = frames["test"].join(seen, on="item")
    assert len(both) > 9000
    assert both["genres"].list.sort().equals(both["genres_right"].list.sort())


def test_histories_of_users_who_are_not_in_training(exported, mirrored, parts_of):
    frames = exported("topn/ml-1m-strong")
    for part in ("valid", "test"):
        history = frames[f"{part}_history"]
        assert history.columns == ["user", "item"]
        assert len(history) == len(parts_of("topn/ml-1m-strong", part)["history_users"])
        assert set(history["user"]) >= set(frames[part]["user"])
        assert not set(history["user"]) & set(frames["train"]["user"])


def test_a_recommender_made_from_it_can_be_scored(exported, tmp_path):
    """Popularity with nothing but polars: what is exported suffices, and breaks no rule."""
    frames = exported("topn/ml-100k")
    popularity = frames["train"].group_by("item").len("score").with_columns(pl.col("score").cast(pl.Float64))
    known = pl.concat([frames["train"], frames["valid"]])
    candidates = frames["test"].join(popularity, how="cross").join(known, on=["user", "item"], how="anti")
    candidates.write_parquet(tmp_path / "mine.parquet")
    result, _ = score(tmp_path / "mine.parquet", "topn/ml-100k", out=tmp_path / "results")
    assert result.metrics.test["ndcg@10"] == pytest.approx(0.145, abs=0.002)
    assert result.diagnostics["users_with_list"] == 1.0


def test_a_click_model_made_from_it_can_be_scored(exported, tmp_path):
    frames = exported("ctr/ml-100k")
    rates = frames["train"].group_by("item").agg(score=(pl.col("label").sum() + 1) / (pl.len() + 2))
    mine = (
        frames["test"].join(rates, on="item", how="left").with_columns(pl.col("score").cast(pl.Float64).fill_null(0.5))
    )
    mine.sample(fraction=1.0, shuffle=True, seed=0).write_parquet(tmp_path / "mine.parquet")
    result, _ = score(tmp_path / "mine.parquet", "ctr/ml-100k", out=tmp_path / "results")
    assert 0.68 < result.metrics.test["auc"] < 0.75


def test_never_overwrites(tmp_path):
    (tmp_path / "split").mkdir()
    with pytest.raises(UsageError, match="split exists; name a new folder"):
        export(prepared("topn/ml-100k"), tmp_path / "split")


def test_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(RecbenchError, match=r"cannot write .*split: No space left on device"):
        export(prepared("topn/ml-100k"), tmp_path / "split")
    assert list(tmp_path.iterdir()) == []


def test_the_command(command, tmp_path):
    answer = command("data", "export", "rating/ml-100k-semisynthetic", tmp_path / "split")
    assert answer.status == 0
    assert "recbench score FILE --benchmark rating/ml-100k-semisynthetic" in answer.out
    assert command("data", "export", "rating/ml-100k-semisynthetic", tmp_path / "split").status == 2
    complaint = command("data", "export", "kgc/umls", tmp_path / "other").complaint
    assert "no predictions can be scored yet" in complaint
