"""``result.json``: its keys, its way of being written, and runs that meet a finished one."""

import json
import os

import pytest

from recbench import run
from recbench.errors import RecbenchError, UsageError
from recbench.running.result import Result, find_results, read_result, write_result
from recbench.tasks.base import load_benchmark

# DESIGN: what others rely on.
KEYS = {
    "schema_version", "status", "error", "task", "benchmark", "dataset", "protocol", "model", "config", "seed",
    "metrics", "timing", "memory", "energy_j", "budget", "environment", "mlflow",
}  # fmt: skip


@pytest.fixture
def ctr_run(finished_run):
    return finished_run("ctr/ml-100k", "lr", epochs=1)


def test_record_has_every_key(ctr_run):
    record = json.loads((ctr_run[1] / "result.json").read_text())
    assert set(record) >= KEYS
    assert record["status"] == "finished"
    assert record["error"] is None
    assert (record["task"], record["benchmark"], record["seed"]) == ("ctr", "ctr/ml-100k", 1)
    assert set(record["dataset"]) == {"name", "version", "sha256"}
    assert set(record["protocol"]) == {"name", "version", "split_sha256"}
    assert len(record["dataset"]["sha256"]) == len(record["protocol"]["split_sha256"]) == 64
    model = record["model"]
    assert model["name"] == "lr"
    assert model["parameters"] > 1000
    assert model["source"] is None
    assert record["config"]["epochs"] == 1
    assert record["config"]["learning_rate"] > 0
    for part in ("valid", "test"):
        assert list(record["metrics"][part]) == list(load_benchmark("ctr/ml-100k").metrics)
        assert 0.5 < record["metrics"][part]["auc"] < 1
    timing = record["timing"]
    assert len(timing["epoch_s"]) == 1
    assert 0 < timing["epoch_s"][0] <= timing["fit_s"]
    assert timing["samples_per_s"] == pytest.approx(80_000 / timing["epoch_s"][0], rel=0.01)
    assert timing["prepare_s"] > 0
    assert timing["evaluate_s"] > 0
    assert 50 < record["memory"]["peak_rss_mb"] < 20_000
    assert record["budget"] == {"trials": 0, "tune_s": 0.0}
    environment = record["environment"]
    assert {"python", "torch", "cpu", "device", "driver", "threads", "git_commit", "lock_sha256"} <= set(environment)
    assert environment["threads"] >= 1
    assert record["mlflow"] == {"run_id": None}
    assert record["leakage"]["checks"]
    assert record["leakage"]["findings"] == []
    if environment["device"] == "cpu":
        assert timing["device_ms_per_step"] is None
        assert record["memory"]["peak_device_mb"] is None


def test_directory_holds_what_was_promised_and_nothing_else(ctr_run):
    files = {path.name for path in ctr_run[1].iterdir()}
    tables = {"predictions.parquet", "per_user.parquet", "per_field.parquet", "reliability.parquet"}
    assert files == {"result.json", "log.txt", *tables}
    log = (ctr_run[1] / "log.txt").read_text()
    assert log.count("test labels opened") == 1
    assert log.index("epoch 1") < log.index("test labels opened")


def test_the_same_request_returns_at_once(ctr_run, monkeypatch):
    result, folder = ctr_run
    written = (folder / "result.json").stat().st_mtime_ns
    monkeypatch.setattr("recbench.running.run.fit", lambda *arguments: pytest.fail("it is finished"))
    again = run("ctr/ml-100k", "lr", out=folder.parents[3], tracking=False, tuned=False, epochs=1)
    assert again == result
    assert (folder / "result.json").stat().st_mtime_ns == written


def test_another_request_never_overwrites(ctr_run):
    _, folder = ctr_run
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UsageError, match=r"another run \(epochs=1 there, 2 now\); give another --out"):
        run("ctr/ml-100k", "lr", out=folder.parents[3], tracking=False, tuned=False, epochs=2)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_runs_again_exactly_what_was_recorded(command, ctr_run, tmp_path):
    result, folder = ctr_run
    for source in (folder, folder / "result.json"):
        out = tmp_path / source.name
        answer = command("run", source, "--out", out)
        assert answer.status == 0, answer.err
        assert answer.out.count("equal") == len(result.metrics.test)
        again = read_result(out / "ctr" / "ml-100k" / "lr" / "seed-1")
        assert again.metrics == result.metrics
        assert (again.config, again.settings) == (result.config, {**result.settings, "tuned": False})
        for table in ("predictions.parquet", "per_user.parquet"):
            assert (out / "ctr/ml-100k/lr/seed-1" / table).read_bytes() == (folder / table).read_bytes()


def test_the_function_does_what_the_command_does(command, ctr_run, tmp_path):
    answer = command(
        "run", "ctr/ml-100k", "lr", "epochs=1", "tracking=off", "tuned=off", "--out", tmp_path / "out", "--json"
    )
    assert answer.status == 0, answer.err
    assert json.loads(answer.out)["metrics"] == ctr_run[0].metrics.model_dump()


def test_a_failed_record_is_written_and_replaced(tmp_path, monkeypatch):
    values = {"out": tmp_path, "tracking": False, "tuned": False, "epochs": 1}
    with monkeypatch.context() as patch:
        patch.setattr("recbench.training.trainer.Trainer.fit", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run("ctr/ml-100k", "lr", **values)
    folder = tmp_path / "ctr/ml-100k/lr/seed-1"
    failed = read_result(folder)
    assert failed.status == "failed"
    assert failed.error == "ZeroDivisionError: division by zero"
    assert failed.metrics is None
    assert failed.environment is not None
    assert "Traceback" in (folder / "log.txt").read_text()
    assert {path.name for path in folder.iterdir()} == {"result.json", "log.txt"}
    assert run("ctr/ml-100k", "lr", **values).status == "finished"
    assert read_result(folder).status == "finished"


def test_another_process_at_the_same_run_is_refused(tmp_path):
    """And leaves the lock of the first alone, so that a third is refused as well."""
    from recbench.running.directory import occupied

    with occupied(tmp_path):
        for _ in range(2):
            with pytest.raises(RecbenchError, match="another process is at work"), occupied(tmp_path):
                pass
    with occupied(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_record_exists_whole_or_not_at_all(tmp_path, monkeypatch):
    record = Result(status="failed", error="x", task="ctr", benchmark="ctr/ml-100k", seed=1)
    write_result(tmp_path, record)
    before = (tmp_path / "result.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "replace", lambda *arguments: os.strerror(1 / 0))
        with pytest.raises(ZeroDivisionError):
            write_result(tmp_path, record.model_copy(update={"error": "y"}))
    assert (tmp_path / "result.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert read_result(tmp_path) == record


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "result.json: the file: Invalid JSON"),
        ("{}", "result.json: status: Field required"),
        ('{"status": "finished", "task": "ctr", "benchmark": "b", "seed": 1, "more": 1}', "result.json: more: Extra"),
    ],
)
def test_a_broken_record_is_told(tmp_path, text, sentence):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(RecbenchError, match=sentence):
        read_result(tmp_path)


def test_finds_results_or_says_where_there_are_none(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        list(find_results([tmp_path / "no"]))
    with pytest.raises(UsageError, match=r"no result\.json under"):
        list(find_results([tmp_path]))
