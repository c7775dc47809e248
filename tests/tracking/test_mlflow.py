import logging
import math
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from recbench.tracking import mlflow as tracking
from recbench.tracking.mlflow import Tracker, finish_parent, start_parent, tracking_uri


@pytest.fixture(scope="module")
def module_home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def home(module_home, monkeypatch):
    """The default store; a fresh one takes seconds, so the tests of this file share it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("RECBENCH_HOME", str(module_home))
    return module_home


def read(run_id):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri())
    return client, client.get_run(run_id)


def warnings(caplog):
    """Return our warnings; MLflow may tell of the same error in its own log, or not, as it was set up before."""
    ours = [record for record in caplog.records if record.name.startswith("recbench")]
    return [record.getMessage() for record in ours if record.levelno >= logging.WARNING]


def test_logs_a_run(home, tmp_path):
    tracker = Tracker.start(
        "topn/ml-100k", "ease seed 1", {"seed": 1, "model": {"l2": 0.5, "hidden": (8, 4)}}, {"model": "ease"}
    )
    tracker.metrics({"ndcg@10": 0.25, "loss": math.nan}, step=3)
    tracker.samples([(1_000, {"system/x": 1.0}), (2_000, {"system/x": 2.0})])
    tracker.samples([(3_000, {"system/x": 3.0})])
    (tmp_path / "log.txt").write_text("hello")
    tracker.artifact(tmp_path / "log.txt")
    tracker.finish()

    client, run = read(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "1", "model.l2": "0.5", "model.hidden": "(8, 4)"}
    assert run.data.tags["model"] == "ease"
    assert run.data.metrics["ndcg_at_10"] == 0.25
    assert math.isnan(run.data.metrics["loss"])
    assert [metric.step for metric in client.get_metric_history(tracker.run_id, "ndcg_at_10")] == [3]
    history = client.get_metric_history(tracker.run_id, "system/x")
    assert sorted((metric.step, metric.timestamp, metric.value) for metric in history) == [
        (0, 1_000, 1.0),
        (1, 2_000, 2.0),
        (2, 3_000, 3.0),
    ]
    logged = home / "mlartifacts" / tracker.run_id / "artifacts" / "log.txt"
    assert logged.read_text() == "hello"


def test_waits_for_a_flush_and_sends_more_than_one_batch(home):
    tracker = Tracker.start("batches", "run", {f"p{i}": "x" * 7000 for i in range(150)}, {})
    tracker.metrics({f"m{i}": i for i in range(2500)}, step=0)
    assert read(tracker.run_id)[1].data.metrics == {}
    tracker.flush()
    _, run = read(tracker.run_id)
    assert run.data.metrics == {f"m{i}": i for i in range(2500)}
    assert run.data.params == {f"p{i}": "x" * 6000 for i in range(150)}
    tracker.finish("FAILED")
    assert read(tracker.run_id)[1].info.status == "FAILED"


def test_flushes_by_itself_after_some_seconds(home, monkeypatch):
    tracker = Tracker.start("by itself", "run", {}, {})
    later = tracking.time.monotonic() + 10
    monkeypatch.setattr(tracking.time, "monotonic", lambda: later)
    tracker.metrics({"loss": 1.0}, step=0)
    assert read(tracker.run_id)[1].data.metrics == {"loss": 1.0}


def test_nests_runs_under_a_parent(home):
    parent = start_parent("suite", "quickstart")
    child = Tracker.start("suite", "run", {}, {}, parent_run_id=parent)
    child.finish()
    finish_parent(parent)
    assert read(child.run_id)[1].data.tags["mlflow.parentRunId"] == parent
    assert read(parent)[1].info.status == "FINISHED"


def test_the_default_store_lets_readers_and_a_writer_coexist(home):
    Tracker.start("any", "run", {}, {}).finish()
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_processes_that_open_a_fresh_store_at_once_all_succeed(tmp_path):
    code = """
from recbench.tracking.mlflow import Tracker
tracker = Tracker.start("together", "run", {"a": 1}, {})
tracker.metrics({"loss": 1.0}, step=0)
tracker.finish()
print(tracker.run_id)
"""
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment["RECBENCH_HOME"] = str(tmp_path / "fresh")
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=-1, stderr=-1, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [error for _, error in outputs] == ["", ""]  # not a warning, and none of MLflow's own chatter
    assert len({output for output, _ in outputs}) == 2
    with closing(sqlite3.connect(tmp_path / "fresh" / "mlflow.db")) as database:
        assert database.execute("SELECT status FROM runs").fetchall() == [("FINISHED",)] * 2


def test_a_store_is_created_whole_or_not_at_all(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("RECBENCH_HOME", str(tmp_path))

    def fail(self, target):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        assert Tracker.start("any", "run", {}, {}).run_id is None
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
    assert "No space left on device" in warnings(caplog)[0]


def unreachable(folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return "http://user:secret@127.0.0.1:9"


def not_a_database(folder, monkeypatch):
    (folder / "notes.txt").write_text("not a database, and longer than the header of one " * 10)
    return f"sqlite:///{folder / 'notes.txt'}"


def below_a_file(folder, monkeypatch):
    (folder / "file").touch()
    return f"sqlite:///{folder / 'file' / 'mlflow.db'}"


def unknown_scheme(folder, monkeypatch):
    return "nonsense://store"


@pytest.mark.parametrize("broken", [unreachable, not_a_database, below_a_file, unknown_scheme])
def test_a_store_that_fails_is_one_warning(broken, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", broken(tmp_path, monkeypatch))
    tracker = Tracker.start("any", "run", {"a": 1}, {})
    tracker.metrics({"loss": 1.0}, step=0)
    tracker.flush()
    tracker.artifact(tmp_path)
    tracker.finish()
    assert tracker.run_id is None
    (warning,) = warnings(caplog)
    assert "\n" not in warning
    assert len(warning) < 500
    assert tracking_uri().replace("user:secret@", "") in warning
    assert "secret" not in warning


def test_a_store_that_breaks_during_a_run_is_one_warning(home, tmp_path, monkeypatch, caplog, capfd):
    Tracker.start("any", "run", {}, {}).finish()
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        database.execute("VACUUM INTO ?", (str(tmp_path / "broken.db"),))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'broken.db'}")
    tracker = Tracker.start("any", "run", {}, {})
    run_id = tracker.run_id
    assert run_id is not None
    with closing(sqlite3.connect(tmp_path / "broken.db")) as database:
        database.execute("DROP TABLE metrics")

    tracker.metrics({"loss": 1.0}, step=0)
    tracker.flush()
    tracker.metrics({"loss": 1.0}, step=1)
    tracker.finish()
    (warning,) = warnings(caplog)
    assert "no such table: metrics" in warning
    assert "Traceback" not in capfd.readouterr().err
    assert tracker.run_id == run_id  # the result still says where the first part is


def test_a_missing_artifact_is_one_warning(home, tmp_path, caplog):
    tracker = Tracker.start("any", "run", {}, {})
    tracker.artifact(tmp_path / "missing")
    tracker.finish()
    assert len(warnings(caplog)) == 1


def test_a_tracker_that_was_not_started_does_nothing(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("RECBENCH_HOME", str(tmp_path))
    tracker = Tracker()
    tracker.metrics({"loss": 1.0}, step=0)
    tracker.samples([(0, {"system/x": 1.0})])
    tracker.artifact(tmp_path)
    tracker.finish()
    assert tracker.run_id is None
    assert list(tmp_path.iterdir()) == []
    assert warnings(caplog) == []
