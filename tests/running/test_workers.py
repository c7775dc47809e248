"""Processes of jobs: every way of ending becomes an outcome, and none outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from recbench.errors import RecbenchError
from recbench.running.workers import Limits, Outcome, default_jobs, default_memory_mb, run_all

AMPLE = Limits(seconds=120, memory_mb=20_000)


def act(job):
    """What one job does; named by a word so that it travels between processes."""
    what, *details = job
    if what == "double":
        return 2 * details[0]
    if what == "refuse":
        raise RecbenchError("the file x is broken")
    if what == "break":
        raise ValueError("no such thing")
    if what == "starve":
        raise MemoryError
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "leave":
        os._exit(3)
    if what == "unsendable":
        return lambda: None
    if what == "grow":
        ballast = b"x" * (1500 << 20)
        time.sleep(60)
        return len(ballast)
    if what == "sleep":
        time.sleep(60)
    return os.getpid()


def outcomes(jobs, n_workers=2, limits=AMPLE) -> dict[tuple, Outcome]:
    return {outcome.job: outcome for outcome in run_all(act, jobs, n_workers, limits)}


def test_every_way_of_ending_is_told():
    words = {
        ("double", 21): (42, None),
        ("refuse",): (None, "the file x is broken"),
        ("break",): (None, "ValueError: no such thing"),
        ("starve",): (None, "out of memory"),
        ("die",): (None, "its process was killed by SIGKILL (the system may have run out of memory)"),
        ("leave",): (None, "its process ended with exit status 3 and no result"),
    }
    ended = outcomes([*words, ("unsendable",)])
    assert {job: (ended[job].value, ended[job].error) for job in words} == words
    assert "pickle" in ended["unsendable",].error


def test_limits_stop_a_process_and_nothing_else():
    outcomes([("double", 0)])  # the server that forks has started
    limits = Limits(seconds=6, memory_mb=1200)
    ended = outcomes([("grow",), ("double", 1), ("sleep",), ("double", 2)], limits=limits)
    assert ended["grow",].value is ended["sleep",].value is None
    assert "of memory, over its limit of 1200 MB" in ended["grow",].error
    assert ended["sleep",].error == "stopped at its time limit of 6 s"
    assert (ended["double", 1].value, ended["double", 2].value) == (2, 4)


def test_jobs_are_drawn_when_a_worker_is_free():
    done = []

    def jobs():
        for number in range(4):
            assert number - len(done) < 2  # no more than two under way
            yield ("double", number)

    for outcome in run_all(act, jobs(), 2, AMPLE):
        done.append(outcome.value)
    assert sorted(done) == [0, 2, 4, 6]


def test_leaving_early_kills_what_is_running():
    runs = run_all(act, [("double", 1), ("sleep",)], 2, AMPLE)
    next(runs)
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    runs.close()
    left = [psutil.Process(pid) for pid in children if psutil.pid_exists(pid)]
    # The server that forks, and its tracker of resources, stay for the next call.
    assert not [process for process in left if process.parent() is not None and process.parent().pid != os.getpid()]


def test_no_process_outlives_a_killed_parent(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from recbench.running.workers import run_all
import test_workers
if __name__ == "__main__":
    for outcome in run_all(test_workers.act, [("pid",), ("sleep",)], 2, test_workers.AMPLE):
        print("ready", flush=True)
"""
    script = tmp_path / "parent.py"
    script.write_text(code)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        children = psutil.Process(parent.pid).children(recursive=True)
        assert children
        parent.kill()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def test_defaults_share_the_machine():
    assert default_jobs() == os.cpu_count()
    assert default_memory_mb(4) * 4 * 2**20 <= psutil.virtual_memory().total * 1.01
