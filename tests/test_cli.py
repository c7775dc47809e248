"""The command line as a user meets it: what it answers, and how it refuses."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from recbench import resources
from recbench.running.result import read_result

HEAVY = ("torch", "polars", "pandas", "mlflow", "optuna", "scipy", "sklearn", "matplotlib")
QUICK = ("epochs=1", "tracking=off", "tuned=off")


def finished_records(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("result.json") if read_result(path).status == "finished"]


def leftovers(folder: Path) -> list[Path]:
    """Return temporary files: every one of the package's starts with a dot or ends with .part."""
    locks = set(folder.rglob("*.lock"))
    return [p for p in folder.rglob("*") if (p.name.startswith(".") or p.suffix == ".part") and p not in locks]


@pytest.mark.parametrize(
    "code", ["import recbench", "import recbench.cli", "sys.argv = ['recbench', '--help']; main()"]
)
def test_starts_without_heavy_imports(code):
    program = f"""
import sys
from importlib import import_module
if "main" in {code!r}:
    from recbench.cli import main
try:
    {code}
except SystemExit as end:
    assert not end.code
heavy = sorted(set({HEAVY!r}) & set(sys.modules))
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ("Usage" in done.stdout) == ("--help" in code)


def test_is_a_module_and_has_a_version():
    done = subprocess.run([sys.executable, "-m", "recbench", "--version"], capture_output=True, text=True, check=False)
    from recbench import __version__

    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, __version__, "")


WRONG_REQUESTS = [
    ("run topn/ml-100 ease", "unknown benchmark 'topn/ml-100'; did you mean .*topn/ml-100k"),
    ("run topn/ml-100k eas", "unknown model 'eas'; did you mean .*ease"),
    ("run topn/ml-100k zzzzzz", "unknown model 'zzzzzz'; known: .*ease"),
    ("run ctr/ml-100k deepfm learning_rat=0.1", "unknown key 'learning_rat'; did you mean learning_rate"),
    ("run ctr/ml-100k deepfm trackin=off", "unknown key 'trackin'; did you mean tracking"),
    ("run ctr/ml-100k deepfm epochs=many", "epochs: .*integer.* found 'many'"),
    ("run ctr/ml-100k deepfm hidden=64", "hidden: .*tuple.* found 64"),
    ("run ctr/ml-100k deepfm dropout=1.5", "dropout: .*less than 1.* found 1.5"),
    ("run ctr/ml-100k deepfm epochs=0", "epochs: .*greater than 0.* found 0"),
    ("run ctr/ml-100k deepfm learning_rate=-1e-3", "learning_rate: .*greater than 0.* found -0.001"),
    ("run ctr/ml-100k deepfm threads=-1", "threads: .*greater than or equal to 0.* found -1"),
    ("run ctr/ml-100k deepfm device=tpu", "device: .*'cpu'.* found 'tpu'"),
    ("run ctr/ml-100k deepfm epochs", "'epochs' is not understood; expected key=value"),
    ("run ctr/ml-100k deepfm =1", "'=1' is not understood"),
    ("tune ctr/ml-100k deepfm --try dropout", "'dropout' is not understood; expected key=value"),
    (
        "tune ctr/ml-100k deepfm --try epochs=1",
        "--try: expected keys that are searched .learning_rate, .*, found epochs",
    ),
    ("run ctr/ml-100k deepfm hidden=[64", "the value of 'hidden' is not readable"),
    ("run topn/ml-100k deepfm", "model 'deepfm' is for ctr benchmarks; topn/ml-100k is a topn benchmark"),
    ("run nothing-here", "'nothing-here' is not a result"),
    ("tune topn/ml-100k multva", "unknown model 'multva'; did you mean multvae"),
    ("tune topn/ml-100k popularity", "model 'popularity' has nothing to tune"),
    ("suite quickstar", "unknown suite 'quickstar'; did you mean quickstart"),
    ("suite none.yaml", "suite file none.yaml does not exist"),
    ("compare nowhere", "nowhere does not exist"),
    ("run ctr/ml-100k optfs optimizer=adam", r"'optimizer'; .*\(of optfs; the backbone's go into backbone_config\)"),
    ("explain nowhere", "nowhere holds no result.json"),
    ("run ctr/ml-100k fm optimizer=lazy-adam max_norm=10", "max_norm: expected none with optimizer=lazy-adam"),
    ("score none.parquet --benchmark topn/ml-100", "unknown benchmark 'topn/ml-100'; did you mean .*topn/ml-100k"),
    ("score none.parquet --benchmark topn/ml-100k", "prediction file none.parquet does not exist"),
    ("data export topn/ml-100 split", "unknown benchmark 'topn/ml-100'; did you mean .*topn/ml-100k"),
    ("data info ml-100", "unknown data ?set 'ml-100'; did you mean ml-100k"),
    ("models info multva", "unknown model 'multva'; did you mean multvae"),
    ("benchmarks info ctr/ml", "unknown benchmark 'ctr/ml'; did you mean ctr/ml-1m, ctr/ml-100k"),
]


@pytest.mark.parametrize(("words", "sentence"), WRONG_REQUESTS, ids=[words for words, _ in WRONG_REQUESTS])
def test_a_wrong_request_is_refused_before_any_work(command, tmp_path, words, sentence):
    import re

    answer = command(*words.split())
    assert answer.status == 2
    assert re.search(sentence, answer.complaint), answer.complaint
    assert answer.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words", ["run", "suite", "nothing", "run ctr/ml-100k lr --sed 1", "run ctr/ml-100k lr --seed x"]
)
def test_wrong_usage(command, words):
    answer = command(*words.split())
    assert answer.status == 2
    assert "Traceback" not in answer.err
    assert "Usage" in answer.err + answer.out


SUITES = {
    "title: x\nseeds: [1]\nruns: [": "not readable as YAML",
    "- a": "expected a mapping of keys, found list",
    "title: x\nruns: []\nseeds: [1]": "runs: ",
    "title: x\nseeds: []\nruns: [{benchmark: ctr/ml-100k, models: [lr]}]": "seeds: ",
    "title: x\nseeds: [1]\nrunz: []": "runs: Field required",
    "title: x\nseeds: [one]\nruns: [{benchmark: ctr/ml-100k, models: [lr]}]": r"seeds\.0: .*integer",
    "title: x\nseeds: [1]\nruns: [{benchmark: ctr/ml-100k, models: [lr], wat: 1}]": r"runs\.0\.wat: ",
    "title: x\nseeds: [1]\nruns: [{benchmark: ctr/ml-100k, models: [lx]}]": "unknown model 'lx'",
    "title: x\nseeds: [1]\nruns: [{benchmark: ctr/ml-100k, models: [ease]}]": "is for topn, kg, sequential benchmarks",
    "title: x\nseeds: [1]\nruns: [{benchmark: ctr/ml-100k, models: [lr], values: {epoch: 1}}]": "unknown key 'epoch'",
}


@pytest.mark.parametrize(("text", "sentence"), SUITES.items(), ids=SUITES.values())
def test_a_broken_suite_is_refused_whole(command, tmp_path, text, sentence):
    import re

    (tmp_path / "some.yaml").write_text(text)
    answer = command("suite", "some.yaml", "--no-tracking")
    assert answer.status == 2
    assert re.search(sentence, answer.complaint), answer.complaint
    assert [path.name for path in tmp_path.iterdir()] == ["some.yaml"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"config": {"learning_rat": 0.1}}, "unknown key 'learning_rat'; did you mean learning_rate.*lr.yaml"),
        ({"config": {"learning_rate": -1}}, "learning_rate: .*lr.yaml"),
        ({"more": 1}, "lr.yaml: more: "),
    ],
)
def test_a_tuned_file_is_checked(command, tmp_path, change, sentence):
    import re

    tuned = {
        "benchmark": "ctr/ml-100k", "model": "lr", "model_version": "1", "metric": "auc", "value": 0.7,
        "default_value": 0.7, "trials": 1, "tune_s": 1.0, "seed": 1, "split_sha256": "0" * 64, "optuna": "5",
        "command": "recbench tune", "config": {},
    }  # fmt: skip
    file = tmp_path / "configs" / "tuned" / "ctr" / "ml-100k" / "lr.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(tuned | change))
    answer = command("run", "ctr/ml-100k", "lr", "tracking=off")
    assert answer.status == 2
    assert re.search(sentence, answer.complaint), answer.complaint
    assert not (tmp_path / "results").exists()


def test_a_missing_dataset_offline(command, tmp_path, monkeypatch):
    monkeypatch.setenv("RECBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RECBENCH_OFFLINE", "1")
    monkeypatch.delenv("RECBENCH_MIRROR", raising=False)
    answer = command("run", "rating/coat", "naivemf", *QUICK)
    assert answer.status == 1
    assert "of the dataset coat: offline, so nothing was downloaded" in answer.complaint
    assert "set RECBENCH_MIRROR" in answer.complaint
    assert finished_records(tmp_path) == leftovers(tmp_path) == []
    assert read_result(tmp_path / "results/rating/coat/naivemf/seed-1").error in answer.complaint


def test_data_behind_an_agreement_say_how_to_get_them(command, tmp_path, monkeypatch):
    monkeypatch.delenv("RECBENCH_MIRROR", raising=False)
    answer = command("run", "rating/yahoo-r3", "naivemf", *QUICK)
    assert answer.status == 1
    assert "to get it by hand: Ask for" in answer.complaint
    assert "in the folder" in answer.complaint
    failed = read_result(tmp_path / "results/rating/yahoo-r3/naivemf/seed-1")
    assert failed.status == "failed"
    assert failed.dataset.sha256 == "unknown"


@pytest.fixture
def own_home(command, tmp_path, monkeypatch):
    """A cache of this test's own, with the raw files and the prepared click data."""
    monkeypatch.setenv("RECBENCH_OFFLINE", "0")
    command("run", "ctr/ml-100k", "lr", *QUICK, "--out", tmp_path / "first")  # the session has it from here on
    home = tmp_path / "home"
    for part in ("datasets", "prepared"):
        shutil.copytree(resources.home() / part, home / part)
    monkeypatch.setenv("RECBENCH_HOME", str(home))
    return home


def test_corrupt_files_are_told_and_nothing_is_written(command, tmp_path, own_home):
    (prepared,) = (path for path in (own_home / "prepared").glob("ml-100k-random-rows-*") if path.is_dir())
    labels = prepared / "train" / "labels.npy"
    content = labels.read_bytes()
    labels.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "1 prepared arrays differ" in command("data", "verify").complaint
    labels.write_bytes(content[:-1])
    answer = command("run", "ctr/ml-100k", "lr", *QUICK)
    assert answer.status == 1
    assert f"the prepared file {labels} is corrupt" in answer.complaint
    assert f"delete the folder {prepared}" in answer.complaint

    labels.unlink()
    assert f"the prepared file {labels} is missing" in command("run", "ctr/ml-100k", "lr", *QUICK).complaint
    (prepared / "manifest.json").write_text("{")
    assert "manifest.json is corrupt" in command("run", "ctr/ml-100k", "lr", *QUICK).complaint

    shutil.rmtree(own_home / "prepared")
    raw = max((own_home / "datasets" / "ml-100k").rglob("*.inter"), key=lambda path: path.stat().st_size)
    whole = raw.read_bytes()
    raw.write_bytes(whole[:-1])
    answer = command("run", "ctr/ml-100k", "lr", *QUICK)
    assert answer.status == 1
    assert f"the cached file {raw} has {len(whole) - 1} bytes, expected {len(whole)}" in answer.complaint
    assert "recbench data fetch ml-100k --force" in answer.complaint
    verified = command("data", "verify", "ml-100k")
    assert verified.status == 1
    assert str(raw) in verified.out
    assert finished_records(tmp_path / "results") == leftovers(tmp_path) == []
    assert [p for p in (own_home / "prepared").iterdir() if p.is_dir()] == []

    raw.write_bytes(whole)
    mended = command("run", "ctr/ml-100k", "lr", *QUICK)
    assert mended.status == 0, mended.err
    assert len(finished_records(tmp_path / "results")) == 1


@pytest.mark.parametrize("where", ["out", "out/ctr", "out/ctr/ml-100k/lr/seed-1"])
def test_a_file_in_the_way_of_the_output(command, tmp_path, where):
    blocked = tmp_path / where
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("mine")
    answer = command("run", "ctr/ml-100k", "lr", *QUICK, "--out", "out")
    assert answer.status == 1
    assert "cannot write in" in answer.complaint
    assert "give an --out" in answer.complaint
    assert blocked.read_text() == "mine"


def test_a_file_in_the_way_of_a_suites_output(command, tmp_path):
    (tmp_path / "some.yaml").write_text(
        "title: x\nseeds: [1]\nruns: [{benchmark: topn/ml-100k, models: [popularity], values: {tuned: false}}]"
    )
    (tmp_path / "out").write_text("mine")
    answer = command("suite", "some.yaml", "--out", "out", "--jobs", 1, "--no-tracking")
    assert answer.status == 1
    assert "cannot write" in answer.complaint
    assert (tmp_path / "out").read_text() == "mine"


def test_a_loss_that_is_no_number(command, tmp_path):
    answer = command("run", "ctr/ml-100k", "deepfm", "learning_rate=1e30", *QUICK, "batch_size=20000")
    assert answer.status == 1
    assert "the loss of phase 'train' of deepfm is " in answer.complaint
    assert "lower learning_rate" in answer.complaint
    folder = tmp_path / "results" / "ctr" / "ml-100k" / "deepfm" / "seed-1"
    assert read_result(folder).status == "failed"
    assert not list(folder.glob("*.parquet"))
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    "words",
    [
        "data list", "data info ml-100k", "models list", "models list --task ctr", "models info deepfm",
        "benchmarks list", "benchmarks info topn/ml-100k", "doctor",
    ],
)  # fmt: skip
def test_lists_for_people_and_for_programs(command, words):
    text, data = command(*words.split()), command(*words.split(), "--json")
    assert (text.status, data.status) == (0, 0), text.err + data.err
    content = json.loads(data.out)
    assert content
    assert len(text.out.splitlines()) >= 3
    if words.endswith("list"):
        assert all(row["name"] in text.out for row in content)


def test_a_model_is_shown_in_a_terminal(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = command("models", "info", "optfs").out
    assert max(map(len, text.splitlines())) <= 80
    rows = {words[0]: words[1:] for line in text.splitlines() if (words := line.split())}
    # Defaults as they are written on the command line.
    assert rows["backbone_config"] == ["{}"]
    assert rows["gate_learning_rate"] == ["null"]
    assert " ".join(rows["temperature"]) == "2000.0 100 to 10000 (log)"


@pytest.fixture
def three_models(finished_run, command, tmp_path):
    """Results of two models and, as a file of other seeds, of the lists of one of them."""
    out = tmp_path / "out"
    for model in ("ease", "popularity"):
        _, directory = finished_run("topn/ml-100k", model)
        shutil.copytree(directory, out / "topn" / "ml-100k" / model / "seed-1")
    lists = out / "topn" / "ml-100k" / "ease" / "seed-1" / "predictions.parquet"
    for seed in (1, 2):
        words = ("--benchmark", "topn/ml-100k", "--name", "theirs", "--seed", seed, "--out", out)
        assert command("score", lists, *words).status == 0
    return out


def test_a_comparison_fits_a_terminal_and_is_whole_in_json(command, three_models, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = command("compare", three_models, "--baseline", "popularity")
    assert text.status == 0
    assert max(map(len, text.out.splitlines())) <= 80
    data = command("compare", three_models, "--baseline", "popularity", "--json")
    (table,) = json.loads(data.out)["tables"]
    assert (table["benchmark"], table["metric"]) == ("topn/ml-100k", "ndcg@10")
    rows = {row["label"]: row for row in table["rows"]}
    assert rows["theirs"]["summary"]["mean"] == rows["ease"]["summary"]["mean"]
    assert [row["rank_interval"] for row in table["rows"]] == [[1, 2], [1, 2], [3, 3]]
    assert rows["theirs"]["seeds"].keys() == {"1", "2"}
    assert rows["theirs"]["fit_s"] is None
    assert [pair["first"] for pair in table["versus"]] == ["ease", "theirs"]
    assert all(pair["p_holm"] < 0.001 for pair in table["versus"])
    for label in rows:
        assert label in text.out
    assert table["verdict"] in " ".join(text.out.split())


def test_plots_of_real_runs(command, three_models, tmp_path):
    answer = command("compare", three_models, "--plots", tmp_path / "plots")
    assert answer.status == 0
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        "topn-ml-100k-ndcg@10-cost.svg",
        "topn-ml-100k-ndcg@10-intervals.svg",
    ]
    (tmp_path / "file").write_text("mine")
    refused = command("compare", three_models, "--plots", tmp_path / "file")
    assert refused.status == 1
    assert "choose a folder that can be written to" in refused.complaint


def test_a_board_knows_no_costs_of_a_scored_file(command, three_models, tmp_path):
    assert command("leaderboard", "build", three_models, "--boards", tmp_path / "boards").status == 0
    lines = (tmp_path / "boards" / "README.md").read_text(encoding="utf-8").splitlines()
    (theirs,) = (line for line in lines if line.startswith("| theirs |"))
    assert theirs.endswith(" | 2 | - | - | - | - | - |")
    assert any(line.startswith("| ease |") and line.endswith(" | 2.8M | 0 |") for line in lines)


def test_models_of_one_task(command):
    every = {row["name"] for row in json.loads(command("models", "list", "--json").out)}
    ctr = {row["name"] for row in json.loads(command("models", "list", "--task", "ctr", "--json").out)}
    assert {"lr", "deepfm"} <= ctr < every
    assert "ease" not in ctr


def test_debug_shows_where(command):
    from recbench.errors import UsageError

    with pytest.raises(UsageError):
        command("--debug", "run", "topn/ml-100k", "eas")
    assert command("run", "topn/ml-100k", "eas").status == 2


def test_every_command_has_help(command):
    for words in (
        "run", "suite", "score", "compare", "tune", "leaderboard build", "data export", "data fetch", "data verify",
        "doctor",
    ):  # fmt: skip
        answer = command(*words.split(), "--help")
        assert answer.status == 0
        assert "Usage" in answer.out
