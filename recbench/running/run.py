"""One run: prepare, train, judge, record."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from recbench.errors import RecbenchError, UsageError
from recbench.models.base import Model, parameter_count
from recbench.running.directory import logged, occupied
from recbench.running.explanation import write_explanation
from recbench.running.plan import Plan
from recbench.running.result import (
    CHECKPOINT,
    LOG,
    PER_USER,
    PREDICTIONS,
    RECORD,
    DatasetRecord,
    EnvironmentRecord,
    LeakageRecord,
    MemoryRecord,
    MetricsRecord,
    ModelRecord,
    ProtocolRecord,
    ReferenceRecord,
    Result,
    TimingRecord,
    write_result,
)
from recbench.running.settings import Settings
from recbench.tasks.base import Development, Evaluation, SealedTest, Task
from recbench.tasks.linting import Report
from recbench.tasks.registry import TASKS
from recbench.tracking.environment import capture
from recbench.tracking.mlflow import Tracker
from recbench.tracking.system import SystemSampler
from recbench.training.checkpoint import Checkpoints
from recbench.training.trainer import Epoch, History, Trainer

log = logging.getLogger("recbench")

FINAL = "final"
"""Folder of the checkpoints of the training that follows the one with validation."""

OnEpoch = Callable[[Epoch], None]
OnStart = Callable[[Task[Any, Any], Development], None]


def execute(
    plan: Plan, out: Path, *, parent_run_id: str | None = None, on_epoch: OnEpoch = lambda epoch: None
) -> Result:
    """Carry a plan out and return its result, which is then also in the plan's directory under ``out``.

    A finished result of the same plan is returned as it is; one of another plan is never overwritten. A run that was
    killed goes on from its checkpoint. A failure is recorded and raised.
    """
    directory = plan.directory(out)
    finished = plan.finished(out)
    if finished is not None:
        return finished
    with occupied(directory), logged(directory / LOG):
        log.info("%s %s seed %d: %s", plan.benchmark.name, plan.model.model_name(), plan.seed, plan.config)
        result = blank_result(plan)
        recorder = _Recorder(plan, result, directory, parent_run_id)

        def tell(epoch: Epoch) -> None:
            recorder.epoch(epoch)
            on_epoch(epoch)

        try:
            began = time.perf_counter()
            prepared = plan.benchmark.protocol.prepare(plan.card)
            opened_s = time.perf_counter() - began
            fitted = fit_for_test(plan, Development.of(prepared), directory / CHECKPOINT, recorder.start, tell)
            recorder.judge(fitted, SealedTest(prepared), opened_s)
            recorder.finish(fitted.task.device)
            Checkpoints(directory / CHECKPOINT).clear()
            return result
        except Exception as error:
            clear = isinstance(error, RecbenchError)
            result.error = str(error) if clear else f"{type(error).__name__}: {error}"
            log.error("failed: %s", result.error, exc_info=not clear)
            if not isinstance(error, UsageError):
                write_result(directory, result)
            raise
        finally:
            recorder.close()


def blank_result(plan: Plan) -> Result:
    """Return the record as far as it is known before the run: what a failure leaves."""
    reference = plan.model.reference
    return Result(
        status="failed",
        task=plan.benchmark.task,
        benchmark=plan.benchmark.name,
        primary_metric=plan.benchmark.primary_metric,
        seed=plan.seed,
        dataset=DatasetRecord(name=plan.card.name, version=plan.card.version, sha256=plan.data_sha256),
        model=ModelRecord(
            name=plan.model.model_name(),
            version=plan.model.version,
            parameters=0,
            deterministic=plan.model.deterministic,
            reference=None if reference is None else ReferenceRecord(**asdict(reference)),
            source=plan.source,
            source_sha256=plan.source_sha256,
        ),
        config=plan.config.model_dump(mode="json"),
        settings=plan.settings.model_dump(mode="json"),
        budget=plan.budget,
        diagnostics={
            "identity": plan.identity(),
            "config_from": plan.config_from,
            "deviations": plan.model.deviations(plan.config),
        },
    )


@dataclass(frozen=True)
class Fitted:
    """A trained model with the task it was trained on."""

    task: Task[Any, Any]
    model: Model
    history: History
    prepare_s: float
    valid: dict[str, float]
    """Its metrics on the validation part."""


def fit(plan: Plan, development: Development, checkpoints: Checkpoints, on_start: OnStart, on_epoch: OnEpoch) -> Fitted:
    """Train on training data, watching validation; ``on_start`` is told of the data before training begins."""
    return _fit(plan, development, checkpoints, on_start, on_epoch, None)


def fit_for_test(
    plan: Plan, development: Development, checkpoints: Path, on_start: OnStart, on_epoch: OnEpoch
) -> Fitted:
    """Train what the test part will judge; checkpoints go to that folder.

    Where the benchmark says ``refit``, it is trained again, on training and validation data, for as many epochs as were
    best before.
    """
    fitted = fit(plan, development, Checkpoints(checkpoints), on_start, on_epoch)
    if not plan.benchmark.refit:
        return fitted
    history, prepare_s, valid = fitted.history, fitted.prepare_s, fitted.valid
    del fitted  # its model may fill half of the memory there is
    final = _fit(
        plan,
        development.joined(),
        Checkpoints(checkpoints / FINAL),
        lambda task, data: None,
        on_epoch,
        history.best_epoch,
    )
    return replace(final, history=history + final.history, prepare_s=prepare_s + final.prepare_s, valid=valid)


def _fit(
    plan: Plan,
    development: Development,
    checkpoints: Checkpoints,
    on_start: OnStart,
    on_epoch: OnEpoch,
    epochs: Mapping[str, int] | None,
) -> Fitted:
    device = choose_device(plan.settings)
    apply(plan.settings, device)
    began = time.perf_counter()
    task = TASKS[plan.benchmark.task](plan.benchmark, development, device)
    prepare_s = time.perf_counter() - began
    torch.manual_seed(plan.seed)
    model = plan.model.create(plan.config, task.data).to(device)
    on_start(task, development)
    trainer = Trainer(
        model,
        task.data,
        lambda: task.watch(model),
        metric=plan.benchmark.primary_metric,
        device=device,
        seed=plan.seed,
        checkpoints=checkpoints.of(plan.identity() + development.split_sha256),
        bfloat16=plan.settings.precision == "bfloat16",
        compiled=plan.settings.compile,
        on_epoch=on_epoch,
        epochs=epochs,
    )
    history = trainer.fit()
    with torch.no_grad():
        valid = {} if epochs is not None else task.validate(model).metrics
    return Fitted(task, model, history, prepare_s, valid)


class _Recorder:
    """Fills in a run's record as it goes on, and mirrors it to the tracking store."""

    def __init__(self, plan: Plan, result: Result, directory: Path, parent_run_id: str | None) -> None:
        self.plan = plan
        self.result = result
        self.directory = directory
        self.parent_run_id = parent_run_id
        self.tracker = Tracker()
        self.sampler: SystemSampler | None = None

    def start(self, task: Task[Any, Any], development: Development) -> None:
        """Record the data and the environment, and open the tracking run."""
        plan, result = self.plan, self.result
        protocol = plan.benchmark.protocol
        result.protocol = ProtocolRecord(
            name=protocol.name, version=protocol.version, split_sha256=development.split_sha256
        )
        result.environment = EnvironmentRecord(**capture(task.device, torch.get_num_threads()))
        name = plan.model.model_name()
        if plan.settings.tracking:
            self.tracker = Tracker.start(
                plan.benchmark.name,
                f"{name} seed {plan.seed}",
                {"model": name, "seed": plan.seed, **result.config, "settings": result.settings},
                {"split_sha256": development.split_sha256, "dataset_sha256": plan.data_sha256},
                self.parent_run_id,
            )
        result.mlflow = {"run_id": self.tracker.run_id}
        self.sampler = SystemSampler(task.device)
        self.sampler.start()

    def epoch(self, epoch: Epoch) -> None:
        """Log an epoch."""
        figures = {f"loss/{epoch.stage}/{name}": loss for name, loss in epoch.losses.items()}
        figures |= {f"valid/{name}": value for name, value in epoch.valid.items()}
        self.tracker.metrics(figures | {"epoch_s": epoch.seconds}, step=epoch.number)
        shown = {name: round(value, 5) for name, value in figures.items()}
        log.info("%s epoch %d: %s", epoch.stage, epoch.number, shown)

    def judge(self, fitted: Fitted, sealed: SealedTest, opened_s: float) -> None:
        """Evaluate on the test part, and write the tables; opening the data took ``opened_s`` seconds."""
        result, task, model = self.result, fitted.task, fitted.model
        with torch.no_grad():
            began = time.perf_counter()
            evaluation, leakage = task.test(model, sealed)
            evaluate_s = time.perf_counter() - began
            explanation = model.explain(task.data)
        if explanation is not None:
            write_explanation(self.directory, explanation)
            result.diagnostics["explanation"] = dict(explanation.figures)
        history = fitted.history
        result.diagnostics["best_epoch"] = history.best_epoch
        record_evaluation(result, self.directory, fitted.valid, evaluation, leakage)
        assert result.model is not None
        result.model.parameters = parameter_count(model)
        result.timing = TimingRecord(
            prepare_s=opened_s + fitted.prepare_s,
            fit_s=history.fit_s,
            epoch_s=history.epoch_s,
            evaluate_s=evaluate_s,
            samples_per_s=history.samples_per_s,
            device_ms_per_step=history.device_ms_per_step,
        )

    def finish(self, device: torch.device) -> None:
        """Write the record: from here on the run is finished."""
        assert self.sampler is not None
        usage = self.sampler.stop()
        on_cuda = device.type == "cuda"
        self.result.memory = MemoryRecord(
            peak_rss_mb=usage.peak_rss_mb,
            peak_device_mb=torch.cuda.max_memory_allocated(device) / 2**20 if on_cuda else None,
        )
        self.result.energy_j = usage.energy_j
        self.result.status = "finished"
        write_result(self.directory, self.result)

    def close(self) -> None:
        """Send the last figures and the files to the tracking store."""
        result, tracker = self.result, self.tracker
        if self.sampler is not None:
            self.sampler.stop()  # a failed run has not come to its end
            tracker.samples(self.sampler.drain())
        if result.status == "finished" and result.metrics and result.timing and result.memory:
            figures = {f"test/{name}": value for name, value in result.metrics.test.items()}
            figures |= {f"device_ms_per_step/{q}": ms for q, ms in (result.timing.device_ms_per_step or {}).items()}
            figures |= {"fit_s": result.timing.fit_s, "evaluate_s": result.timing.evaluate_s}
            figures |= {name: mb for name, mb in result.memory.model_dump().items() if mb is not None}
            tracker.metrics(figures, step=len(result.timing.epoch_s))
        for name in (RECORD, LOG):
            if (self.directory / name).is_file():
                tracker.artifact(self.directory / name)
        tracker.finish("FINISHED" if result.status == "finished" else "FAILED")


def record_evaluation(
    result: Result, directory: Path, valid: dict[str, float], evaluation: Evaluation, leakage: Report
) -> None:
    """Record what judging on the test part gave, and write its tables."""
    for finding in leakage.findings:
        log.log(logging.WARNING if finding.severe else logging.INFO, "leakage: %s", finding.message)
    log.info("test: %s", {name: round(value, 5) for name, value in evaluation.metrics.items()})
    result.metrics = MetricsRecord(valid=valid, test=evaluation.metrics)
    result.diagnostics |= evaluation.diagnostics
    result.leakage = LeakageRecord.model_validate(asdict(leakage))
    tables = evaluation.tables()
    for name, table in {PREDICTIONS: tables.predictions, PER_USER: tables.per_user}.items():
        table.write_parquet(directory / name)
    for name, table in tables.others.items():
        table.write_parquet(directory / f"{name}.parquet")


def choose_device(settings: Settings) -> torch.device:
    """Return the device that the settings name."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device=cuda, but torch finds no CUDA device; see recbench doctor")
    if settings.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def apply(settings: Settings, device: torch.device) -> None:
    """Set torch's global switches."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if settings.deterministic and device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # As use_deterministic_algorithms(warn_only=True), which would import the compiler: a second of every run.
    torch.set_deterministic_debug_mode("warn" if settings.deterministic else "default")
    # Filling fresh memory costs time, and nothing here reads memory it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
