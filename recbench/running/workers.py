"""Processes: every run of a suite and every trial of a study has its own, with its own memory and time limit."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

import psutil

from recbench.errors import RecbenchError

# Imported once by the server that the processes are forked from, so that each starts in milliseconds.
PRELOADED = ["recbench.running.run", "mlflow"]
POLL_SECONDS = 0.2

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """What one process may use."""

    seconds: float
    memory_mb: float


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """How a job ended: the value its function returned, or the sentence that says why there is none."""

    job: Any
    value: T | None
    error: str | None


@dataclass
class _Worker:
    job: Any
    process: Any
    receiver: Connection
    deadline: float
    stopped: str | None = None


def run_all(function: Callable[[Any], T], jobs: Iterable[Any], n_workers: int, limits: Limits) -> Iterator[Outcome[T]]:
    """Yield the outcome of ``function(job)`` for every job as it ends, at most ``n_workers`` at a time.

    ``jobs`` is drawn from only when a worker is free, so it may depend on earlier outcomes. Function, jobs and values
    travel between processes. Leaving the iteration early kills what is running.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    queue = iter(jobs)
    workers: list[_Worker] = []
    exhausted = False
    try:
        while True:
            while not exhausted and len(workers) < n_workers:
                try:
                    job = next(queue)
                except StopIteration:
                    exhausted = True
                    break
                workers.append(_start(context, function, job, limits))
            if not workers:
                return
            wait([worker.receiver for worker in workers], timeout=POLL_SECONDS)
            for worker in list(workers):
                outcome = _poll(worker, limits)
                if outcome is not None:
                    workers.remove(worker)
                    yield outcome
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.join()


def _start(context: Any, function: Callable[[Any], Any], job: Any, limits: Limits) -> _Worker:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(function, job, sender, dict(os.environ)), daemon=True)
    process.start()
    sender.close()
    return _Worker(job, process, receiver, time.monotonic() + limits.seconds)


def _work(function: Callable[[Any], Any], job: Any, sender: Connection, environment: Mapping[str, str]) -> None:
    """Run one job in its own process and send back its value or the sentence of its failure."""
    os.environ.update(environment)  # the server it is forked from may have been started under another one
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    threading.Thread(target=_die_with_parent, daemon=True).start()
    logging.getLogger("recbench").propagate = False
    try:
        sender.send((function(job), None))
    except RecbenchError as error:
        sender.send((None, str(error)))
    except MemoryError:
        sender.send((None, "out of memory"))
    except Exception as error:
        sender.send((None, f"{type(error).__name__}: {error}"))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)  # the parent was killed, and nobody is left to take a result


def _poll(worker: _Worker, limits: Limits) -> Outcome[Any] | None:
    process = worker.process
    if worker.receiver.poll():
        with contextlib.suppress(EOFError):
            value, error = worker.receiver.recv()
            process.join()
            return Outcome(worker.job, value, error)
    if not process.is_alive():
        process.join()
        return Outcome(worker.job, None, worker.stopped or _death(process.exitcode))
    if worker.stopped is None:
        if time.monotonic() > worker.deadline:
            worker.stopped = f"stopped at its time limit of {limits.seconds:g} s"
        elif (used := _rss_mb(process.pid)) > limits.memory_mb:
            worker.stopped = f"stopped at {used:.0f} MB of memory, over its limit of {limits.memory_mb:.0f} MB"
        if worker.stopped is not None:
            process.kill()
    return None


def _death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        hint = " (the system may have run out of memory)" if name == "SIGKILL" else ""
        return f"its process was killed by {name}{hint}"
    return f"its process ended with exit status {exitcode} and no result"


def _rss_mb(pid: int) -> float:
    try:
        return float(psutil.Process(pid).memory_info().rss) / 2**20
    except psutil.Error:
        return 0.0


def default_jobs() -> int:
    """Return how many runs go on at once by default: one a CPU core."""
    return os.cpu_count() or 1


def default_memory_mb(n_workers: int) -> float:
    """Return an equal share of the machine's memory."""
    return float(psutil.virtual_memory().total) / 2**20 / n_workers
