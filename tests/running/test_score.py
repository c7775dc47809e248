"""Prediction files of anyone are judged as runs are, and their results stand beside those of runs."""

import json

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from recbench.errors import RecbenchError, UsageError
from recbench.reporting.compare import compare
from recbench.running.result import read_result
from recbench.running.score import score

TOPN = "topn/ml-100k"
RUNS = [
    (TOPN, "popularity", {}),
    (TOPN, "ease", {}),
    (TOPN, "bprmf", {"epochs": 2}),
    ("ctr/ml-100k", "lr", {"epochs": 1}),
    ("ctr/ml-100k-tasks", "sharedbottom", {"epochs": 1}),
    ("rating/coat", "naivemf", {"epochs": 2}),
]


@pytest.fixture(params=RUNS, ids=lambda run: f"{run[0]} {run[1]}")
def ran(request, finished_run):
    """Return a finished run's benchmark, result and folder."""
    benchmark, model, values = request.param
    try:
        return benchmark, *finished_run(benchmark, model, **values)
    except RecbenchError as error:
        if "cannot get" in str(error):
            pytest.skip(f"no files for {benchmark}: set RECBENCH_MIRROR")
        raise


@pytest.fixture
def popular(finished_run):
    """Return the prediction file of the popularity model."""
    return finished_run(TOPN, "popularity")[1] / "predictions.parquet"


def edited(source, target, *columns):
    pl.read_parquet(source).with_columns(*columns).write_parquet(target)
    return target


def test_a_run_is_scored_again_to_the_last_bit(ran, tmp_path):
    benchmark, result, folder = ran
    scored, directory = score(folder / "predictions.parquet", benchmark, out=tmp_path)
    assert scored.metrics.test == result.metrics.test
    assert directory == tmp_path / benchmark / "predictions" / "seed-1"
    for name in ("per_user.parquet", "predictions.parquet"):
        theirs, ours = pl.read_parquet(directory / name), pl.read_parquet(folder / name)
        assert theirs.equals(ours.cast(dict(theirs.schema)))
    assert {path.name for path in directory.iterdir()} == {path.name for path in folder.iterdir()}


def test_what_is_recorded(popular, finished_run, tmp_path):
    result, _ = finished_run(TOPN, "popularity")
    scored, directory = score(popular, TOPN, name="mostpopular", seed=3, out=tmp_path)
    assert read_result(directory) == scored
    assert (scored.status, scored.seed, scored.primary_metric) == ("finished", 3, result.primary_metric)
    assert (scored.dataset, scored.protocol) == (result.dataset, result.protocol)
    assert (scored.model.name, scored.model.source, scored.model.parameters) == ("mostpopular", popular.name, 0)
    assert scored.timing is scored.memory is None
    assert scored.metrics.valid == scored.config == {}
    assert scored.leakage == result.leakage
    assert scored.environment.device == "cpu"
    assert (scored.diagnostics["users_with_list"], scored.diagnostics["users_ignored"]) == (1.0, 0)
    log = (directory / "log.txt").read_text()
    assert log.count("test labels opened") == 1
    assert scored.diagnostics["predictions_sha256"] in log


@pytest.mark.parametrize("benchmark", [TOPN, "ctr/ml-100k"])
def test_order_of_rows_and_type_of_ids_do_not_matter(benchmark, finished_run, tmp_path):
    model, values = ("popularity", {}) if benchmark == TOPN else ("lr", {"epochs": 1})
    result, folder = finished_run(benchmark, model, **values)
    rows = pl.read_parquet(folder / "predictions.parquet").sample(fraction=1, shuffle=True, seed=1)
    if benchmark == TOPN:
        # Without ranks equal scores are ordered by the same hash.
        rows = rows.drop("rank").with_columns(pl.col("user").cast(pl.Int64), pl.col("item").cast(pl.UInt16), note=1.5)
    rows.write_parquet(tmp_path / "other.parquet")
    scored, _ = score(tmp_path / "other.parquet", benchmark, out=tmp_path)
    assert scored.metrics.test == result.metrics.test


def test_popularity_counted_with_pandas_is_popularity(parts_of, finished_run, tmp_path):
    """With every item that shares the score of place 21, so that the file leaves all ties to the scorer."""
    shared, train, valid, test = (parts_of(TOPN, part) for part in ("shared", "train", "valid", "test"))
    raw = {
        name: pd.DataFrame({"user": shared["user_ids"][part["users"]], "item": shared["item_ids"][part["items"]]})
        for name, part in {"train": train, "valid": valid, "test": test}.items()
    }
    counts = pd.Series(0.0, shared["item_ids"]).add(raw["train"]["item"].value_counts(), fill_value=0)
    grid = (
        raw["test"][["user"]].drop_duplicates().merge(counts.rename_axis("item").rename("score").reset_index(), "cross")
    )
    known = pd.MultiIndex.from_frame(pd.concat([raw["train"], raw["valid"]]))
    grid = grid[~pd.MultiIndex.from_frame(grid[["user", "item"]]).isin(known)]
    grid = grid[grid.groupby("user")["score"].rank(ascending=False, method="min") <= 21]
    file = tmp_path / "Most Popular!.parquet"
    grid.to_parquet(file)
    scored, directory = score(file, TOPN, out=tmp_path)
    result, _ = finished_run(TOPN, "popularity")
    assert scored.model.name == "mostpopular"
    assert scored.metrics.test == result.metrics.test
    assert scored.diagnostics["tie_rate"] == result.diagnostics["tie_rate"]
    assert len(pl.read_parquet(directory / "predictions.parquet")) == 20 * len(np.unique(test["users"]))


def test_probabilities_of_another_library(parts_of, tmp_path):
    labels = parts_of("ctr/ml-100k", "test")["labels"]
    scores = np.random.default_rng(0).random(len(labels)).astype(np.float32)
    pd.DataFrame({"row": np.arange(len(labels)), "score": scores}).to_parquet(tmp_path / "chance.parquet")
    scored, _ = score(tmp_path / "chance.parquet", "ctr/ml-100k", out=tmp_path)
    assert scored.metrics.test["auc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_probabilities_of_several_labels(parts_of, tmp_path):
    labels = parts_of("ctr/ml-100k-tasks", "test")["labels"]
    scores = np.random.default_rng(0).random(labels.shape)
    file = pd.DataFrame({"score:love": scores[:, 1], "row": np.arange(len(labels)), "score:like": scores[:, 0]})
    file.to_parquet(tmp_path / "chance.parquet")
    scored, folder = score(tmp_path / "chance.parquet", "ctr/ml-100k-tasks", out=tmp_path)
    expected = [roc_auc_score(labels[:, label], scores[:, label]) for label in range(2)]
    found = [scored.metrics.test[f"auc:{label}"] for label in ("like", "love")]
    assert found == pytest.approx(expected, abs=1e-12)
    assert scored.metrics.test["auc"] == pytest.approx(np.mean(expected), abs=1e-12)
    assert pl.read_parquet(folder / "predictions.parquet").columns == ["row", "score:like", "score:love"]
    (table,) = compare([tmp_path], "auc:love").tables
    assert table.rows[0].summary.mean == pytest.approx(expected[1], abs=1e-12)
    file.drop(columns="score:love").to_parquet(tmp_path / "one.parquet")
    with pytest.raises(RecbenchError, match="there is no column 'score:love'; expected row, score:like, score:love"):
        score(tmp_path / "one.parquet", "ctr/ml-100k-tasks", out=tmp_path)


def test_hard_users_cannot_be_left_out(popular, finished_run, tmp_path, caplog):
    """Users without a list have 0 in every metric, so the mean falls with each."""
    result, folder = finished_run(TOPN, "popularity")
    values = pl.read_parquet(folder / "per_user.parquet")
    easy = values.sort("ndcg@10", "user", descending=True)["user"][: len(values) // 2]
    pl.read_parquet(popular).filter(pl.col("user").is_in(easy.implode())).write_parquet(tmp_path / "easy.parquet")
    scored, directory = score(tmp_path / "easy.parquet", TOPN, out=tmp_path)
    left = values.filter(pl.col("user").is_in(easy.implode()))["ndcg@10"].sum() / len(values)
    assert scored.metrics.test["ndcg@10"] == pytest.approx(left, abs=1e-12)
    assert scored.metrics.test["ndcg@10"] < result.metrics.test["ndcg@10"]
    assert scored.diagnostics["users_with_list"] == len(easy) / len(values)
    assert scored.diagnostics["short_lists"] == len(values) - len(easy)
    warning = f"users without a list: {len(values) - len(easy)} of {len(values)}"
    assert warning in caplog.text
    assert warning in (directory / "log.txt").read_text()


def test_the_same_file_is_not_scored_again_and_another_one_never_replaces_it(popular, tmp_path):
    first, directory = score(popular, TOPN, out=tmp_path)
    record = directory / "result.json"
    written = record.stat().st_mtime_ns
    assert score(popular, TOPN, out=tmp_path) == (first, directory)
    other = edited(popular, tmp_path / "predictions.parquet", pl.col("score") + 1)
    with pytest.raises(UsageError, match=r"holds a finished result of another file.*--name"):
        score(other, TOPN, out=tmp_path)
    assert record.stat().st_mtime_ns == written
    again, _ = score(other, TOPN, seed=2, out=tmp_path)
    assert again.seed == 2


def test_what_a_file_does_not_tell_is_left_out(popular, tmp_path, monkeypatch, caplog):
    """The AUC of a user needs the scores of all items."""
    from recbench.resources import shipped

    text = shipped("configs", "benchmarks", "topn", "ml-100k.yaml").read_text()
    own = tmp_path / "configs" / "benchmarks" / "topn" / "whole.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(text.replace("metrics:\n", "metrics:\n  - uauc\n"))
    monkeypatch.chdir(tmp_path)
    scored, _ = score(popular, "topn/whole", out=tmp_path)
    assert "ndcg@10" in scored.metrics.test
    assert "uauc" not in scored.metrics.test
    assert "does not tell uauc" in caplog.text


FAULTY = {
    "column missing": (lambda rows: rows.drop("user"), "no column 'user'"),
    "seen items": (lambda rows: rows.with_columns(item=pl.lit("50")).unique("user").drop("rank"), "only unseen items"),
    "other ids": (lambda rows: rows.with_columns(item=pl.format("m{}", "item")), "unknown item.*item m"),
    "no number": (lambda rows: rows.with_columns(score=np.nan), "NaN or infinite"),
    "repeated": (lambda rows: pl.concat([rows, rows]), "repeat a pair"),
}


@pytest.mark.parametrize(("spoil", "sentence"), FAULTY.values(), ids=FAULTY)
def test_a_faulty_file_leaves_no_result(spoil, sentence, popular, tmp_path):
    file = tmp_path / "faulty.parquet"
    spoil(pl.read_parquet(popular)).write_parquet(file)
    with pytest.raises(RecbenchError, match=rf"faulty\.parquet: .*{sentence}"):
        score(file, TOPN, out=tmp_path)
    assert not list(tmp_path.rglob("result.json"))
    scored, _ = score(popular, TOPN, name="faulty", out=tmp_path)
    assert scored.status == "finished"


def test_names(popular, tmp_path):
    for name in ("My Model", "", "../up"):
        with pytest.raises(UsageError, match="lower case letters and digits"):
            score(popular, TOPN, name=name, out=tmp_path)
    with pytest.raises(UsageError, match=r"'ease' is a model of recbench's own.*--name easefile"):
        score(popular, TOPN, name="ease", out=tmp_path)
    unnamed = edited(popular, tmp_path / "---.parquet")
    with pytest.raises(UsageError, match="no name can be made"):
        score(unnamed, TOPN, out=tmp_path)


def test_benchmarks_without_a_task(popular, tmp_path):
    benchmark = "kgc/umls"
    with pytest.raises(UsageError, match=f"{benchmark} is a .* cannot be scored yet; those of .*topn can"):
        score(popular, benchmark, out=tmp_path)


def test_files_compare_with_runs_and_seeds_of_a_file_are_one_model(popular, finished_run, tmp_path):
    """Two files under one name are two seeds of one model, as two runs are."""
    _, ease = finished_run(TOPN, "ease")
    score(popular, TOPN, name="mine", out=tmp_path)
    score(edited(popular, tmp_path / "second.parquet", pl.col("score") * 2), TOPN, name="mine", seed=2, out=tmp_path)
    (table,) = compare([ease, tmp_path], "ndcg@10").tables
    assert [(row.label, len(row.seeds)) for row in table.rows] == [("ease", 1), ("mine", 2)]
    assert table.rows[1].fit_s is table.rows[1].peak_rss_mb is None
    assert not table.failures


def test_the_command(popular, command, tmp_path):
    answer = command("score", popular, "--benchmark", TOPN, "--name", "mine", "--out", tmp_path / "out")
    assert answer.status == 0, answer.err
    scored = read_result(tmp_path / "out" / TOPN / "mine" / "seed-1")
    assert f"{scored.metrics.test['ndcg@10']:.4f}" in answer.out
    assert "coverage" not in answer.out.replace("coverage@", "")
    assert max(map(len, answer.out.splitlines()[:-1])) <= 80
    again = command("score", popular, "--benchmark", TOPN, "--name", "mine", "--out", tmp_path / "out", "--json")
    assert json.loads(again.out) == scored.model_dump(mode="json")


def test_the_command_says_who_has_no_list(popular, command, tmp_path):
    rows = pl.read_parquet(popular)
    users = rows["user"].unique().sort()
    rows.filter(pl.col("user") != users[0]).write_parquet(tmp_path / "some.parquet")
    answer = command("score", tmp_path / "some.parquet", "--benchmark", TOPN, "--out", tmp_path / "out")
    assert f"coverage: {1 - 1 / len(users):.1%} of the test users have a list" in answer.out


def test_wrong_commands_are_one_sentence(popular, command, tmp_path):
    text = tmp_path / "predictions.csv"
    text.write_text("user,item,score\n1,2,3\n")
    for file, benchmark, status, sentence in [
        (popular, "topn/ml-10k", 2, "unknown benchmark 'topn/ml-10k'; did you mean topn/ml-100k"),
        (tmp_path / "none.parquet", TOPN, 2, "none.parquet does not exist"),
        (tmp_path, TOPN, 2, "does not exist; expected a Parquet file"),
        (text, TOPN, 1, "predictions.csv: cannot be read as Parquet"),
        (popular, "ctr/ml-100k", 1, "predictions.parquet: there is no column 'row'; expected row, score"),
    ]:
        answer = command("score", file, "--benchmark", benchmark)
        assert answer.status == status
        assert sentence in answer.complaint
