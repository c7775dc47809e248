"""MLflow: one run per recbench run, nested under a suite's run.

Tracking is a convenience beside the result, never a condition of it: whatever fails here (a server that does not
answer, a locked database, a full disk) is one warning, tracking goes off, and the run goes on.

Values are buffered and sent in batches, because MLflow takes some 20 ms per call whether it carries one value or 1000.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import sqlite3
import tempfile
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from filelock import FileLock

from recbench.resources import home

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger("recbench")

T = TypeVar("T")
RunStatus = Literal["FINISHED", "FAILED"]

_SQLITE = "sqlite:///"
_METRICS_PER_BATCH = 1000  # these three are MLflow's own limits
_PARAMS_PER_BATCH = 100
_PARAM_LENGTH = 6000
_REASON_LENGTH = 300
_FLUSH_SECONDS = 5.0
_LOCK_SECONDS = 120
_SETTINGS = {  # a server that does not answer must cost seconds, not MLflow's four minutes of retries
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # below that come the tracebacks of errors that are told here in a sentence
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def tracking_uri() -> str:
    """Return the store: ``MLFLOW_TRACKING_URI``, else a SQLite file in recbench's cache folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{home().resolve() / 'mlflow.db'}"


class Tracker:
    """One MLflow run. No method raises; ``Tracker()`` tracks nothing, which is also what a failure turns it into."""

    def __init__(self) -> None:
        self.run_id: str | None = None
        self._client: MlflowClient | None = None
        self._metrics: list[tuple[str, float, int, int]] = []  # name, value, milliseconds since the epoch, step
        self._samples = 0
        self._flushed = time.monotonic()

    @classmethod
    def start(
        cls,
        experiment: str,
        run_name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, object],
        parent_run_id: str | None = None,
    ) -> Tracker:
        """Open a run.

        Args:
            experiment: its experiment, created when there is none of that name.
            run_name: how it is called in MLflow's tables.
            params: settings, nested as they come; logged under dotted names.
            tags: anything to search by.
            parent_run_id: the run it is nested under.
        """
        tracker = cls()
        with tracker._turning_off():
            client = _connect()
            parent = {} if parent_run_id is None else {"mlflow.parentRunId": parent_run_id}
            run = client.create_run(
                _experiment_id(client, experiment),
                run_name=run_name,
                tags={key: str(value) for key, value in tags.items()} | parent,
            )
            tracker.run_id = run.info.run_id
            for batch in _batches(_flat(params), _PARAMS_PER_BATCH):
                _log_params(client, run.info.run_id, batch)
            tracker._client = client
        return tracker

    @classmethod
    def attach(cls, run_id: str) -> Tracker:
        """Go on with a run that was started elsewhere."""
        tracker = cls()
        with tracker._turning_off():
            tracker.run_id = run_id
            tracker._client = _connect()
        return tracker

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Keep ``values`` of ``step`` for the next flush, which happens here when the last was some seconds ago."""
        now = time.time_ns() // 1_000_000
        self._keep((name, value, now, step) for name, value in values.items())

    def samples(self, samples: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Keep system metrics, as ``SystemSampler.drain`` returns them; their step counts the samples of the run."""
        for timestamp, values in samples:
            self._keep((name, value, timestamp, self._samples) for name, value in values.items())
            self._samples += 1

    def flush(self) -> None:
        """Send what is buffered."""
        metrics, self._metrics = self._metrics, []
        self._flushed = time.monotonic()
        if self._client is None:
            return
        with self._turning_off():
            for batch in _batches(metrics, _METRICS_PER_BATCH):
                _log_metrics(self._client, str(self.run_id), batch)

    def artifact(self, path: Path) -> None:
        """Copy a file to the run's artifacts."""
        if self._client is None:
            return
        with self._turning_off():
            self._client.log_artifact(str(self.run_id), str(path))

    def finish(self, status: RunStatus = "FINISHED") -> None:
        """Send what is buffered and close the run; later calls do nothing."""
        self.flush()
        if self._client is None:
            return
        with self._turning_off():
            self._client.set_terminated(str(self.run_id), status)
        self._client = None

    def _keep(self, metrics: Iterable[tuple[str, float, int, int]]) -> None:
        if self._client is None:
            return
        self._metrics.extend(metrics)
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    @contextmanager
    def _turning_off(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # MLflow, SQLAlchemy, sqlite3, requests and the disk each raise their own
            self._client = None
            reason = textwrap.shorten(str(error) or type(error).__name__, _REASON_LENGTH)
            warning = f"tracking in {tracking_uri()} is off for the rest of this run: {reason}"
            logger.warning("%s", re.sub(r"//[^/@\s]*@", "//", warning))  # without user and password


def start_parent(experiment: str, name: str) -> str | None:
    """Open the run that a suite's runs are nested under; return its id, or None when tracking fails."""
    return Tracker.start(experiment, name, params={}, tags={}).run_id


def finish_parent(run_id: str | None, status: RunStatus = "FINISHED") -> None:
    """Close the run that ``start_parent`` opened."""
    if run_id is not None:
        Tracker.attach(run_id).finish(status)


def _connect() -> MlflowClient:
    """Open the store, creating a SQLite file that does not exist yet."""
    uri = tracking_uri()
    if (file := _sqlite_file(uri)) is not None:
        _create_sqlite(file)
        with closing(sqlite3.connect(file)) as database:  # MLflow would retry for minutes on a file that is no database
            database.execute("SELECT count(*) FROM sqlite_master")
    return _client(uri)


def _client(uri: str) -> MlflowClient:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it announces every retry
    with _collector_paused():
        from mlflow import MlflowClient  # a second of CPU, only when tracking is on

        # It reads its level when it is imported, and somebody may have done that before.
        logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"].upper())
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep the garbage collector from searching the mass of lasting objects an import builds, a third of its time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _sqlite_file(uri: str) -> Path | None:
    path = uri.removeprefix(_SQLITE).partition("?")[0]
    return Path(path) if uri.startswith(_SQLITE) and path not in ("", ":memory:") else None


def _create_sqlite(file: Path) -> None:
    """Create MLflow's SQLite ``file`` once, however many processes ask, and whole or not at all.

    MLflow builds its tables in dozens of migrations: two processes at it crash each other, and one that is killed
    leaves a file that cannot be opened again. So a draft is migrated aside, and a copy of it renamed into place.
    """
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock", timeout=_LOCK_SECONDS):
        if file.exists():
            return
        with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder:
            draft, copy = Path(folder, "draft.db"), Path(folder, "copy.db")
            _client(f"{_SQLITE}{draft}").search_experiments(max_results=1)
            with closing(sqlite3.connect(draft)) as database:
                database.execute("VACUUM INTO ?", (str(copy),))
            with closing(sqlite3.connect(copy)) as database:
                database.execute("PRAGMA journal_mode = WAL")  # stays with the file; readers and a writer then coexist
            copy.replace(file)


def _experiment_id(client: MlflowClient, name: str) -> str:
    from mlflow.exceptions import MlflowException  # loaded with the client

    if (experiment := client.get_experiment_by_name(name)) is not None:
        return str(experiment.experiment_id)
    # Left to MLflow, the artifacts of a SQLite store would land in whatever folder the command was called from.
    file = _sqlite_file(tracking_uri())
    artifacts = None if file is None else (file.resolve().parent / "mlartifacts").as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=artifacts))
    except MlflowException:
        if (experiment := client.get_experiment_by_name(name)) is None:
            raise
        return str(experiment.experiment_id)  # another process was first


def _log_params(client: MlflowClient, run_id: str, params: list[tuple[str, str]]) -> None:
    from mlflow.entities import Param  # loaded with the client

    client.log_batch(run_id, params=[Param(_name(key), value[:_PARAM_LENGTH]) for key, value in params])


def _log_metrics(client: MlflowClient, run_id: str, metrics: list[tuple[str, float, int, int]]) -> None:
    from mlflow.entities import Metric  # loaded with the client

    client.log_batch(
        run_id, metrics=[Metric(_name(name), float(value), time_ms, step) for name, value, time_ms, step in metrics]
    )


def _name(name: str) -> str:
    """Return ``name`` without what MLflow refuses: ``ndcg@10`` becomes ``ndcg_at_10``, its own spelling for cutoffs."""
    return re.sub(r"[^/\w.\- ]", "_", name.replace("@", "_at_"))


def _flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
