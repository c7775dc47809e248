"""Suites: failures become rows while the rest goes on, and MLflow shows it all under one parent."""

import json
import logging
import time
from pathlib import Path

import pytest

from recbench import run
from recbench.running import suite as module
from recbench.running.result import read_result
from recbench.running.suite import Suite, run_suite

CRASHING = '''
import os, signal, time
from recbench.models.base import CTRModel, TrainedConfig

class Crashing(CTRModel):
    """Ends in many ways."""

    class Config(TrainedConfig):
        way: str = "raise"

    def __init__(self, config, fields):
        super().__init__(config, fields)
        if config.way == "raise":
            raise ValueError("a fault of the model")
        if config.way == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    def forward(self, batch):
        return batch.labels
'''


def suite_of(runs, **more):
    return Suite(title="A test", seeds=more.pop("seeds", (1,)), runs=runs, **more)


def run_it(definition, out, jobs=2, tracking=False):
    told = []
    results = run_suite(definition, "test", out, jobs=jobs, tracking=tracking, on_done=told.append)
    return results, told


def test_failures_become_rows_and_the_rest_goes_on(tmp_path, command, monkeypatch):
    for way in ("raise", "die"):
        (tmp_path / f"{way}.py").write_text(
            CRASHING.replace("Crashing", way.title()).replace('"raise"\n', f'"{way}"\n')
        )
    ways = [str(tmp_path / f"{way}.py") for way in ("raise", "die")]
    values = {"epochs": 1, "tuned": False}
    definition = suite_of(
        [
            {"benchmark": "ctr/ml-100k", "models": [*ways, "lr"], "values": values},
            {"benchmark": "topn/ml-100k", "models": ["popularity"], "values": {"tuned": False}},
        ],
    )
    results, told = run_it(definition, tmp_path / "out")
    found = {result.model.name: result for result in results}
    assert {name: result.status for name, result in found.items()} == {
        "raise": "failed", "die": "failed", "lr": "finished", "popularity": "finished",
    }  # fmt: skip
    assert found["raise"].error == "ValueError: a fault of the model"
    assert found["die"].error == "its process was killed by SIGKILL (the system may have run out of memory)"
    assert [done.position for done in told] == [1, 2, 3, 4]
    for name, result in found.items():
        assert read_result(tmp_path / "out" / result.benchmark / name / "seed-1") == result

    # Every failure is tried again; a failure of another kind replaces the old one.
    monkeypatch.setattr(module, "run_all", lambda function, jobs, n, limits: map(lost, jobs))
    again, _ = run_it(definition, tmp_path / "out")
    assert {result.model.name: result.error for result in again if result.error} == {
        "raise": "stopped",
        "die": "stopped",
    }
    compared = command("compare", tmp_path / "out")
    assert compared.status == 0, compared.err
    assert "stopped" in compared.out


def test_a_run_ends_at_the_time_limit(tmp_path):
    file = tmp_path / "slow.py"
    file.write_text(CRASHING.replace('"raise"\n', '"sleep"\n'))
    definition = suite_of([{"benchmark": "ctr/ml-100k", "models": [str(file)]}], run_minutes=0.1)
    (result,), _ = run_it(definition, tmp_path / "out")
    assert result.error == "stopped at its time limit of 6 s"
    assert read_result(tmp_path / "out/ctr/ml-100k/crashing/seed-1") == result


def lost(job):
    from recbench.running.workers import Outcome

    return Outcome(job, None, "stopped")


def test_another_definition_does_not_take_over_finished_results(tmp_path, finished_run):
    result, folder = finished_run("ctr/ml-100k", "lr", epochs=1)
    definition = suite_of([{"benchmark": "ctr/ml-100k", "models": ["lr"], "values": {"epochs": 1, "tuned": False}}])
    same, _ = run_it(definition, folder.parents[3])
    assert same == [result]
    other = suite_of([{"benchmark": "ctr/ml-100k", "models": ["lr"], "values": {"epochs": 2, "tuned": False}}])
    with pytest.raises(module.UsageError, match=r"finished result of another run \(epochs=1 there, 2 now\)"):
        run_it(other, folder.parents[3])


def test_tracking_shows_the_suite_and_its_runs(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'store' / 'runs.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    definition = suite_of(
        [{"benchmark": "ctr/ml-100k", "models": ["lr"], "values": {"epochs": 2, "tuned": False}}], seeds=(1, 2)
    )
    results, _ = run_it(definition, tmp_path / "out", tracking=True)
    assert {result.status for result in results} == {"finished"}, results

    client = MlflowClient(uri)
    ids = {experiment.name: experiment.experiment_id for experiment in client.search_experiments()}
    (parent,) = client.search_runs([ids["suites"]])
    assert (parent.info.run_name, parent.info.status) == ("test", "FINISHED")
    children = client.search_runs([ids["ctr/ml-100k"]])
    assert {child.info.run_id for child in children} == {result.mlflow["run_id"] for result in results}
    for result in results:
        logged = client.get_run(result.mlflow["run_id"])
        assert logged.info.status == "FINISHED"
        assert logged.info.run_name == f"lr seed {result.seed}"
        assert logged.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert logged.data.tags["split_sha256"] == result.protocol.split_sha256
        assert logged.data.params["model"] == "lr"
        assert logged.data.params["seed"] == str(result.seed)
        assert logged.data.params["learning_rate"] == str(result.config["learning_rate"])
        for name in ("valid/auc", "loss/train/train", "epoch_s"):
            assert [metric.step for metric in client.get_metric_history(logged.info.run_id, name)] == [1, 2], name
        assert logged.data.metrics["test/auc"] == pytest.approx(result.metrics.test["auc"])
        assert logged.data.metrics["peak_rss_mb"] == pytest.approx(result.memory.peak_rss_mb)
        assert any(name.startswith("system/") for name in logged.data.metrics)
        names = {artifact.path for artifact in client.list_artifacts(logged.info.run_id)}
        assert names == {"result.json", "log.txt"}
        stored = json.loads(Path(client.download_artifacts(logged.info.run_id, "result.json")).read_text())
        assert stored["metrics"] == result.metrics.model_dump()


def test_a_store_that_does_not_answer_costs_one_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, logger="recbench"):
        result = run("topn/ml-100k", "popularity", out=tmp_path, tuned=False)
    assert time.monotonic() - began < 60
    assert result.status == "finished"
    assert read_result(tmp_path / "topn/ml-100k/popularity/seed-1") == result
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "tracking in http://127.0.0.1:9 is off" in warnings[0]
    assert result.mlflow == {"run_id": None}
