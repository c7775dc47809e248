"""Every command of the README is run as written, in its order, in one folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
# Run by hand and by continuous integration: one takes minutes, the other would run this test again.
NOT_HERE = {"scripts/quickstart", "scripts/test", "recbench suite quickstart"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(encoding="utf-8"), flags=re.M | re.S)


def commands() -> list[str]:
    return [line for block in blocks("console") for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    for name, text in zip(("cosine.py", "my_model.py"), blocks("python"), strict=True):
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "my_log.csv").write_text(blocks("csv")[0], encoding="utf-8")
    benchmark = folder / "configs" / "benchmarks" / "topn" / "my-log.yaml"
    benchmark.parent.mkdir(parents=True)
    benchmark.write_text(blocks("yaml")[0], encoding="utf-8")
    return folder


def test_commands_run_as_written(folder):
    assert set(commands()) >= NOT_HERE
    store = f"sqlite:///{folder / 'mlflow.db'}"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store, "PYTHONPATH": str(README.parent)}
    for command in commands():
        if command in NOT_HERE:
            continue
        words = shlex.split(command)
        call = {"recbench": ["-m", "recbench"], "python": []}[words[0]] + words[1:]
        done = subprocess.run(
            [sys.executable, *call], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert (folder / "boards" / "index.html").is_file()
    assert (folder / "configs/tuned/topn/ml-100k/itemknn.yaml").is_file()
    assert (folder / "plots/topn-ml-100k-ndcg@10-intervals.svg").is_file()
    assert (folder / "results/topn/ml-100k/cosine/seed-1/result.json").is_file()


def test_files_it_links_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target
