"""A result directory before work in it and while it goes on: what is finished there, a lock, and a log of its own."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from recbench.errors import RecbenchError
from recbench.running.result import RECORD, Result, read_result

log = logging.getLogger("recbench")


def finished_result(directory: Path) -> Result | None:
    """Return the finished result in a directory, or None; a failed run may be run again in its place."""
    result = read_result(directory) if (directory / RECORD).is_file() else None
    return result if result is not None and result.status == "finished" else None


@contextlib.contextmanager
def occupied(directory: Path) -> Iterator[None]:
    """Make the directory, and hold it against a second process doing the same run."""
    lock = directory / ".lock"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=0):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
    except Timeout:
        raise RecbenchError(f"another process is at work in {directory}; wait for it or give another --out") from None
    except OSError as error:
        raise RecbenchError(
            f"cannot write in {error.filename or directory}: {error.strerror or error}; "
            "give an --out that can be written to and has room"
        ) from error


@contextlib.contextmanager
def logged(file: Path) -> Iterator[None]:
    """Send the package's log to a file beside wherever it goes already."""
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
        handler.close()
