"""Studies: the budget is kept through kills and failures, and what is found is used."""

import os
import signal
import time
from pathlib import Path

import optuna
import pytest
import yaml

from recbench import run
from recbench.errors import RecbenchError, UsageError
from recbench.models.registry import load_model
from recbench.running.tune import tune
from recbench.running.tuned import Tuned, find_tuned

BENCHMARK = "ctr/ml-100k"
FIXED = {"epochs": 1, "hidden": [8], "batch_size": 8192}


@pytest.fixture
def search(tmp_path, monkeypatch):
    """Tune a small DeepFM from a working folder of its own; return what was told of every trial beside."""
    monkeypatch.chdir(tmp_path)

    def call(trials, **changes):
        told = []
        arguments = {
            "trials": trials,
            "given": FIXED,
            "seed": 1,
            "storage": "studies.journal",
            "workers": 2,
            "timeout": None,
            "out": tmp_path,
            "on_trial": told.append,
        }
        path, tuned = tune(BENCHMARK, "deepfm", **{**arguments, **changes})
        return path, tuned, told

    return call


def trials_of(storage: Path) -> list[optuna.trial.FrozenTrial]:
    backend = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(storage)))
    (summary,) = optuna.get_all_study_summaries(backend)
    return optuna.load_study(study_name=summary.study_name, storage=backend).trials


def test_a_killed_study_goes_on_to_its_budget_and_is_used(start, wait_for, tmp_path, monkeypatch):
    fixed = [f"{key}={str(value).replace(' ', '')}" for key, value in FIXED.items()]
    command = ("tune", BENCHMARK, "deepfm", *fixed, "--trials", 4, "--workers", 1, "--storage", "studies.journal")
    output = tmp_path / "output.txt"
    process = start(*command)
    wait_for(lambda: "[2/4]" in output.read_text(), process)
    time.sleep(0.5)  # into the next trial
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "configs").exists()

    again = start(*command)
    assert again.wait(240) == 0, output.read_text()
    text = output.read_text()
    assert "[4/4]" in text
    assert text.count("[3/4]") == 1

    trials = trials_of(tmp_path / "studies.journal")
    finished = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    assert len(finished) == 4
    assert len({tuple(sorted(trial.params.items())) for trial in finished}) == 4
    config = load_model("deepfm").Config
    assert finished[0].params == {key: getattr(config(), key) for key in config.search_space()}

    path = tmp_path / "configs" / "tuned" / BENCHMARK / "deepfm.yaml"
    tuned = Tuned(**yaml.safe_load(path.read_text()))
    best = max(finished, key=lambda trial: trial.value)
    fixed_config = config.parse(FIXED, "the test").model_dump(mode="json", include=set(FIXED))
    assert (tuned.trials, tuned.value, tuned.config) == (4, best.value, fixed_config | best.params)
    assert tuned.default_value == finished[0].value
    assert tuned.tune_s == pytest.approx(sum(trial.user_attrs["seconds"] for trial in finished), abs=0.1)
    assert tuned.command == f"recbench tune {BENCHMARK} deepfm {' '.join(fixed)} --trials 4 --seed 1"

    monkeypatch.chdir(tmp_path)
    used = run(BENCHMARK, "deepfm", out=tmp_path / "out", tracking=False)
    assert used.diagnostics["config_from"] == "tuned"
    assert used.budget.model_dump() == {"trials": 4, "tune_s": tuned.tune_s}
    assert used.config.items() >= tuned.config.items()
    # A trial judges as a run does: on validation, by the benchmark's metric.
    assert used.metrics.valid["auc"] == pytest.approx(tuned.value, abs=1e-6)
    plain = run(BENCHMARK, "deepfm", out=tmp_path / "plain", tracking=False, tuned=False, **FIXED)
    assert plain.budget.trials == 0
    assert plain.diagnostics["config_from"] == "default + given"


def test_a_finished_study_is_not_repeated(search):
    path, tuned, told = search(1)
    assert [trial.finished for trial in told] == [1]
    assert search(1)[1:] == (tuned, [])
    _, more, told = search(2)
    assert [trial.finished for trial in told] == [2]
    assert Tuned(**yaml.safe_load(path.read_text())) == more
    assert more.default_value == tuned.value


def test_what_is_to_be_tried_comes_after_the_default(search, tmp_path):
    tries = [{"learning_rate": 3e-3}, {"dropout": 0.2, "embedding_dim": 16}]
    _, tuned, told = search(3, tries=tries, workers=1)
    default = load_model("deepfm").Config.parse(FIXED, "the test").model_dump()
    searched = [{key: default[key] for key in told[0].params} | values for values in [{}, *tries]]
    assert [trial.params for trial in told] == searched
    assert "--try 'learning_rate=0.003' --try 'dropout=0.2 embedding_dim=16' --trials 3" in tuned.command
    # A study that goes on with them does not try them again.
    _, _, told = search(4, tries=tries)
    assert [trial.finished for trial in told] == [4]
    assert told[0].params not in searched


def test_a_study_of_failures_counts_them_and_writes_nothing(search, tmp_path):
    told = []
    with pytest.raises(RecbenchError, match="no trial of the study finished: the loss of phase 'train' of deepfm"):
        search(2, given={**FIXED, "learning_rate": 1e30}, on_trial=told.append)
    assert [(trial.finished, trial.value) for trial in told] == [(1, None), (2, None)]
    assert all("the loss of phase 'train'" in trial.error for trial in told)
    assert not (tmp_path / "configs").exists()


def test_some_failing_trials_leave_a_result(search, monkeypatch):
    from recbench.running import tune as module

    real = module.run_all

    def lose_first(function, jobs, n_workers, limits):
        for number, outcome in enumerate(real(function, jobs, n_workers, limits)):
            yield outcome if number else module.Outcome(outcome.job, None, "its process was killed by SIGKILL")

    monkeypatch.setattr(module, "run_all", lose_first)
    path, tuned, told = search(3, workers=1)
    assert [trial.error for trial in told] == ["its process was killed by SIGKILL", None, None]
    assert (tuned.trials, tuned.default_value) == (3, None)
    assert tuned.value == max(trial.value for trial in told[1:])
    assert path.is_file()


def test_wrong_requests(search, tmp_path):
    with pytest.raises(UsageError, match="unknown key 'epoch'; did you mean epochs"):
        search(1, given={"epoch": 1})
    space = {"learning_rate": 0.001, "dropout": 0.1, "embedding_l2": 0.0, "embedding_dim": 8}
    with pytest.raises(UsageError, match="nothing to tune"):
        search(1, given={**FIXED, **space})
    with pytest.raises(UsageError, match=r"--try: expected keys that are searched .learning_rate, .*, found epochs"):
        search(2, tries=[{"epochs": 2}])
    with pytest.raises(UsageError, match=r"learning_rate: .* greater than 0, found -1"):
        search(2, tries=[{"learning_rate": -1}])
    with pytest.raises(UsageError, match="--trials: expected at least 2, for the default and what to try, found 1"):
        search(1, tries=[{"learning_rate": 0.1}])
    assert not (tmp_path / "studies.journal").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(RecbenchError, match="storage file/studies cannot be opened"):
        search(1, storage="file/studies")


def test_a_tuned_file_of_the_working_folder_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "configs" / "tuned" / BENCHMARK / "lr.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("value: 1\nmoel: x\n")
    with pytest.raises(UsageError, match=r"lr\.yaml: "):
        find_tuned(BENCHMARK, "lr")
