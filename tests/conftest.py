"""What tests of more than one layer share: one cache for the whole session, prepared tasks, the command line."""

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# The suite runs on every core at once already. Before torch is imported, which reads it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from filelock import FileLock

from recbench import resources

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Return a folder that all worker processes of this session share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def _session_home(shared):
    """Keep caches, prepared data and tracking in a folder of the session; raw files come from the user's cache."""
    home, ambient = shared / "recbench-home", resources.home() / "datasets"
    with FileLock(shared / "recbench-home.lock"):
        if not home.is_dir():
            home.mkdir()
            if ambient.is_dir():
                shutil.copytree(ambient, home / "datasets")
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECBENCH_HOME", str(home))
        patch.setenv("PYTHONPATH", path)
        patch.delenv("RECBENCH_OFFLINE", raising=False)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(scope="session")
def task_of():
    """Return the task of a benchmark, on the CPU, with its data prepared."""
    import torch

    from recbench.data.cards import load_card
    from recbench.tasks.base import Development, load_benchmark
    from recbench.tasks.registry import TASKS

    @cache
    def make(name: str):
        benchmark = load_benchmark(name)
        prepared = benchmark.protocol.prepare(load_card(benchmark.dataset))
        return TASKS[benchmark.task](benchmark, Development.of(prepared), torch.device("cpu"))

    return make


@pytest.fixture(scope="session")
def parts_of():
    """Return the arrays of one part of a benchmark's prepared data."""
    from recbench.data.cards import load_card
    from recbench.tasks.base import load_benchmark

    def read(name: str, part: str):
        benchmark = load_benchmark(name)
        return benchmark.protocol.prepare(load_card(benchmark.dataset)).part(part)

    return read


@pytest.fixture(scope="session")
def finished_run(shared):
    """Return the result and the directory of a finished run, untracked and with the default configuration."""
    from recbench import run
    from recbench.running.result import result_dir

    def get(benchmark: str, model: str, **values):
        out = shared / "results"
        # Worker processes may want the same run; whoever comes second finds it finished.
        with FileLock(shared / f"{benchmark.replace('/', '-')}-{model}.lock"):
            result = run(benchmark, model, out=out, tracking=False, tuned=False, **values)
        return result, result_dir(out, benchmark, model, 1)

    return get


@pytest.fixture(scope="session")
def mirrored():
    """Skip where no folder of datasets is given."""
    place = resources.mirror()
    if place is None or not Path(place).is_dir():
        pytest.skip("RECBENCH_MIRROR names no folder with datasets")


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The failure's one sentence."""
        assert "Traceback" not in self.err, self.err
        lines = [line for line in self.err.splitlines() if line.startswith("recbench: ")]
        assert len(lines) == 1, self.err
        assert self.status in (1, 2)
        return lines[0]


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    """Call the command line as its entry point does, in an empty working folder."""
    from recbench import cli

    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["recbench", *map(str, arguments)])
        log = logging.getLogger("recbench")
        handlers = list(log.handlers)
        capsys.readouterr()
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            log.handlers[:] = handlers
        out, err = capsys.readouterr()
        return Answer(status, out, err)

    return call


@pytest.fixture
def start(tmp_path):
    """Start ``python -m recbench`` in a process group of its own, with its output in ``output.txt``."""
    running = []

    def popen(*arguments: object) -> subprocess.Popen:
        with (tmp_path / "output.txt").open("a") as output:
            words = [sys.executable, "-m", "recbench", *map(str, arguments)]
            process = subprocess.Popen(words, cwd=tmp_path, stdout=output, stderr=output, start_new_session=True)
        running.append(process)
        return process

    yield popen
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(condition: Callable[[], object], process: subprocess.Popen | None = None, seconds: float = 120) -> None:
    """Wait until the condition holds; fail if the process ends before, or the time is over."""
    until = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, "the process ended before it could be killed"
        assert time.monotonic() < until, "nothing happened in time"
        time.sleep(0.02)


@pytest.fixture(scope="session", name="wait_for")
def _wait_for():
    return wait_for
