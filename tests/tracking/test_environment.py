import hashlib
import subprocess
import sys
import time

import pytest
import torch

from recbench.running.result import EnvironmentRecord
from recbench.tracking import environment


def git(folder, *arguments):
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    done = subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with one commit, in the place of recbench's own."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "model.py").write_text("one\n")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "constraints.txt").write_text("torch==2.13.0\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    monkeypatch.setattr(environment, "shipped", tmp_path.joinpath)
    return tmp_path


def test_fills_the_record_of_a_result():
    record = EnvironmentRecord(**environment.capture("cpu", threads=2))
    assert record.torch == torch.__version__
    assert record.threads == 2
    assert record.device == "cpu"
    assert record.driver is None
    assert record.cpu
    assert record.packages["numpy"]


def test_is_cheap():
    environment.capture("cpu", threads=1)
    start = time.process_time()
    environment.capture("cpu", threads=1)
    assert time.process_time() - start < 0.05


def test_names_the_commit_and_the_lock(checkout):
    record = environment.capture("cpu", threads=1)
    assert record["git_commit"] == git(checkout, "rev-parse", "HEAD")
    assert record["lock_sha256"] == hashlib.sha256(b"torch==2.13.0\n").hexdigest()


@pytest.mark.parametrize("changed", ["model.py", "another.py"])
def test_marks_a_checkout_that_differs_from_its_commit(checkout, changed):
    (checkout / changed).write_text("two\n")
    assert environment.capture("cpu", threads=1)["git_commit"] == git(checkout, "rev-parse", "HEAD") + "-dirty"


def test_has_no_commit_outside_a_checkout(checkout):
    """An installed package inside somebody else's checkout must not claim that one's commit."""
    installed = checkout / "site-packages"
    installed.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "shipped", installed.joinpath)
        record = environment.capture("cpu", threads=1)
    assert record["git_commit"] is None
    assert record["lock_sha256"] is None


def test_goes_on_without_git(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert environment.capture("cpu", threads=1)["git_commit"] is None


def test_has_no_commit_before_the_first(tmp_path, monkeypatch):
    git(tmp_path, "init", "--quiet")
    monkeypatch.setattr(environment, "shipped", tmp_path.joinpath)
    assert environment.capture("cpu", threads=1)["git_commit"] is None


def test_peak_grows_with_what_is_allocated_and_starts_anew():
    before = environment.peak_rss_mb()
    held = bytearray(b"x") * (64 << 20)
    grown = environment.peak_rss_mb()
    del held
    assert grown >= before
    assert environment.peak_rss_mb() >= 64
    if sys.platform == "linux":
        environment.reset_peak_rss()
        assert environment.peak_rss_mb() < grown
