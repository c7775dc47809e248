"""SIGKILL at any moment: what is started again ends as if nothing had happened."""

import logging
import os
import signal
from pathlib import Path

import polars as pl
import psutil
import pytest
import yaml

from recbench import run
from recbench.running.result import read_result

# Plain, row-based, alternating, and two stages of several phases; sizes that leave the learning to be interrupted.
RUNS = {
    "ctr/ml-100k deepfm": ("train epoch 2:", {"epochs": 3, "batch_size": 1024}),
    "topn/ml-100k multvae": ("train epoch 3:", {"epochs": 6, "hidden": [64], "embedding_dim": 16}),
    "rating/ml-100k-semisynthetic drjl": ("joint epoch 2:", {"epochs": 3, "batch_size": 1024}),
    "kg/ml-100k kgat": (
        " train epoch 1:",
        {"epochs": 2, "embedding_dim": 8, "hidden": [8], "batch_size": 16384},
    ),
}


def words(values):
    return [f"{key}={str(value).replace(' ', '')}" for key, value in values.items()]


def seed_dir(out: Path, request: str, seed=1) -> Path:
    benchmark, model = request.split()
    return out / benchmark / model / f"seed-{seed}"


@pytest.mark.parametrize("request_", RUNS, ids=lambda request: request.split()[1])
def test_a_run_resumes_and_ends_bit_equal(request_, start, wait_for, tmp_path):
    reached, values = RUNS[request_]
    values = {**values, "tracking": False, "tuned": False}
    folder = seed_dir(tmp_path / "killed", request_)
    process = start("run", *request_.split(), *words(values), "--out", tmp_path / "killed")
    log = folder / "log.txt"
    # The next epoch is under way as soon as the line of this one is written.
    wait_for(lambda: log.is_file() and reached in log.read_text(), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "result.json").exists()
    assert (folder / "checkpoint" / "state.pt").is_file()

    benchmark, model = request_.split()
    resumed = run(benchmark, model, out=tmp_path / "killed", **values)
    whole = run(benchmark, model, out=tmp_path / "whole", **values)
    assert "resumed from a checkpoint" in log.read_text()
    assert "resumed" not in (seed_dir(tmp_path / "whole", request_) / "log.txt").read_text()
    assert resumed.metrics == whole.metrics
    assert resumed.diagnostics == whole.diagnostics
    assert resumed.timing.fit_s > 0
    assert len(resumed.timing.epoch_s) == len(whole.timing.epoch_s)
    tables = {"predictions.parquet", "per_user.parquet"}
    if benchmark.startswith("ctr/"):
        tables |= {"per_field.parquet", "reliability.parquet"}
    for table in tables:
        left, right = (pl.read_parquet(seed_dir(tmp_path / out, request_) / table) for out in ("killed", "whole"))
        assert left.equals(right, null_equal=True) or left.fill_nan(None).equals(right.fill_nan(None))
    assert {path.name for path in folder.iterdir()} == {"result.json", "log.txt", *tables}


def test_a_checkpoint_of_another_configuration_is_thrown_away(tmp_path, monkeypatch, caplog):
    values = {"out": tmp_path, "tracking": False, "tuned": False, "epochs": 2}

    class Killed(BaseException):
        pass

    def stop(self, *arguments):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("recbench.running.run._Recorder.judge", stop)
        with pytest.raises(Killed):
            run("ctr/ml-100k", "lr", learning_rate=0.01, **values)
    folder = seed_dir(tmp_path, "ctr/ml-100k lr")
    assert (folder / "checkpoint" / "state.pt").is_file()
    with caplog.at_level(logging.INFO, logger="recbench"):
        run("ctr/ml-100k", "lr", learning_rate=0.02, **values)
    assert "resumed" not in caplog.text
    assert not (folder / "checkpoint").exists()


def test_a_suite_goes_on_and_repeats_nothing(start, wait_for, tmp_path):
    definition = {
        "title": "Some quick runs and a slow one",
        "seeds": [1, 2],
        "runs": [
            {"benchmark": "topn/ml-100k", "models": ["popularity", "random"], "values": {"tuned": False}},
            {
                "benchmark": "ctr/ml-100k",
                "models": ["lr"],
                "values": {"epochs": 2, "batch_size": 256, "tuned": False},
            },
        ],
    }
    (tmp_path / "some.yaml").write_text(yaml.safe_dump(definition))
    command = ("suite", "some.yaml", "--jobs", 1, "--no-tracking", "--out", "results")
    out = tmp_path / "results"
    slow = seed_dir(out, "ctr/ml-100k lr", 1) / "log.txt"
    process = start(*command)
    wait_for((slow.parent / "checkpoint" / "state.pt").is_file, process)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
    finished = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    assert len(finished) == 3
    assert not (slow.parent / "result.json").exists()

    again = start(*command)
    assert again.wait(180) == 0, (tmp_path / "output.txt").read_text()
    results = list(out.rglob("result.json"))
    assert len(results) == 5  # popularity is deterministic: one seed
    assert {read_result(path).status for path in results} == {"finished"}
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert "resumed from a checkpoint" in slow.read_text()
    assert not [path for path in out.rglob("*") if path.name == "checkpoint" or path.name.startswith(".")]
    text = (tmp_path / "output.txt").read_text()
    assert "FAILED" not in text
    assert (out / "index.html").is_file()
