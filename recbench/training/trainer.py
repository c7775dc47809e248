"""The trainer: runs a model's procedure with early stopping, timing, checkpoints and exact resume.

Timing: ``epoch_s`` is the seconds of an epoch's training steps, ``fit_s`` all of training with its validations and
checkpoints. On CUDA the milliseconds between the steps' events are kept; the step loop itself never synchronises.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from recbench.errors import RecbenchError
from recbench.metrics.names import higher_is_better
from recbench.models.base import Model
from recbench.models.procedure import Phase, Stage, Sweep
from recbench.training.checkpoint import Checkpoints
from recbench.training.optimizers import make_optimizer

log = logging.getLogger("recbench")

# As in FuxiCTR, whose schedule this is (Zhu et al., CIKM 2021).
LEAST_LEARNING_RATE = 1e-6

# Steps of an epoch whose device time is kept: enough for percentiles, and a bounded number of events.
TIMED_STEPS = 2000

Validate = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Epoch:
    """What is known at the end of an epoch."""

    stage: str
    number: int
    """From 1 within the stage."""
    of: int
    losses: dict[str, float]
    """Mean loss of each phase."""
    valid: dict[str, float]
    """Validation metrics; empty where the stage is not validated."""
    best: float | None
    seconds: float


@dataclass
class History:
    """What training has cost and reached so far; carried through checkpoints."""

    fit_s: float = 0.0
    epoch_s: list[float] = field(default_factory=list)
    n_samples: int = 0
    step_ms: list[float] = field(default_factory=list)
    best_epoch: dict[str, int] = field(default_factory=dict)
    """Stage -> epoch whose weights were kept."""

    def __add__(self, other: History) -> History:
        """Return what both trainings have cost; what the first has reached."""
        return History(
            self.fit_s + other.fit_s,
            self.epoch_s + other.epoch_s,
            self.n_samples + other.n_samples,
            self.step_ms + other.step_ms,
            self.best_epoch,
        )

    @property
    def samples_per_s(self) -> float | None:
        """Training samples a second of the gradient phases; None for models without any."""
        seconds = sum(self.epoch_s)
        return self.n_samples / seconds if self.n_samples and seconds else None

    @property
    def device_ms_per_step(self) -> dict[str, float] | None:
        """Median and 95th percentile of the milliseconds between steps; None where not on CUDA."""
        if not self.step_ms:
            return None
        times = torch.tensor(self.step_ms)
        return {"p50": float(times.quantile(0.5)), "p95": float(times.quantile(0.95))}


@dataclass
class _Progress:
    """Where a stage stands; the part of a checkpoint that is not tensors."""

    stage: int = 0
    epoch: int = 0
    best: float | None = None
    stale: int = 0


class Trainer:
    """Trains one model.

    ``validate`` judges the model on validation data and ``metric`` is what early stopping watches. ``seed`` starts the
    generator of batch order and sampling. ``on_epoch`` is told of every epoch. With ``epochs``, by the name of a stage,
    there is no validation: each stage takes that many, or all of its own.
    """

    def __init__(
        self,
        model: Model,
        data: Any,
        validate: Validate,
        *,
        metric: str,
        device: torch.device,
        seed: int,
        checkpoints: Checkpoints,
        bfloat16: bool = False,
        compiled: bool = False,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
        epochs: Mapping[str, int] | None = None,
    ) -> None:
        self.model = model
        self.data = data
        self.validate = validate
        self.metric = metric
        self.device = device
        self.checkpoints = checkpoints
        self.bfloat16 = bfloat16
        self.compiled = compiled
        self.on_epoch = on_epoch
        self.epochs = epochs
        self.generator = torch.Generator(device).manual_seed(seed)
        self.history = History()
        self.progress = _Progress()

    def fit(self) -> History:
        """Run all stages, from the last checkpoint where there is one, and leave the model with its final weights."""
        saved = self.checkpoints.latest()
        resumed = None if saved is None else _Progress(**saved["progress"])
        began = time.perf_counter()
        for number, planned in enumerate(self.model.procedure(self.data)):
            stage = self._without_validation(planned)
            if resumed is not None and number < resumed.stage:
                weights = self.checkpoints.finished_stage(number)
                if weights is not None:
                    self.model.load_state_dict(weights)
                    continue
            self.progress = _Progress(stage=number)
            if saved is not None and resumed is not None and number == resumed.stage:
                log.info("resumed from a checkpoint: stage '%s', epoch %d", stage.name, resumed.epoch)
                self.progress = resumed
                self.history = History(**saved["history"])
                began = time.perf_counter() - self.history.fit_s
                self._run(stage, began, saved)
            else:
                self._run(stage, began, None)
            self.checkpoints.save_stage(number, self.model.state_dict)
        self.history.fit_s = time.perf_counter() - began
        self.model.eval()
        return self.history

    def _without_validation(self, stage: Stage) -> Stage:
        if self.epochs is None:
            return stage
        if stage.lr_decay < 1:
            raise RecbenchError("lr_decay follows validation, and the final training of this benchmark has none; use 1")
        epochs = self.epochs.get(stage.name, stage.epochs)
        return replace(stage, name=f"final {stage.name}", epochs=epochs, patience=None)

    def _run(self, stage: Stage, began: float, saved: dict[str, Any] | None) -> None:
        steps = [step if isinstance(step, Sweep) else _Runner(step, self) for step in stage.steps]
        runners = [step for step in steps if isinstance(step, _Runner)]
        best_state: dict[str, Tensor] | None = None
        if saved is not None:
            self.model.load_state_dict(saved["model"])
            best_state = saved["best"]
            for runner, state in zip(runners, saved["optimizers"], strict=True):
                runner.optimizer.load_state_dict(state)
            self._restore_random_state(saved["random"])
        progress = self.progress
        while progress.epoch < stage.epochs and (stage.patience is None or progress.stale < stage.patience):
            progress.epoch += 1
            losses, seconds = self._epoch(stage, steps, runners)
            self.history.epoch_s.append(seconds)
            valid: dict[str, float] = {}
            if stage.patience is not None:
                valid = self._validated()
                if self._better(valid[self.metric]):
                    progress.best, progress.stale = valid[self.metric], 0
                    self.history.best_epoch[stage.name] = progress.epoch
                    best_state = {name: value.clone() for name, value in self.model.state_dict().items()}
                else:
                    progress.stale += 1
                    for runner in runners:
                        runner.slow_down(stage.lr_decay)
            self.on_epoch(Epoch(stage.name, progress.epoch, stage.epochs, losses, valid, progress.best, seconds))
            if stage.epochs > 1:
                self.history.fit_s = time.perf_counter() - began
                self.checkpoints.save(partial(self._state, runners, best_state))
        if best_state is not None:
            self.model.load_state_dict(best_state)

    def _epoch(
        self, stage: Stage, steps: list[Sweep | _Runner], runners: list[_Runner]
    ) -> tuple[dict[str, float], float]:
        began = time.perf_counter()
        self.model.train()
        for runner in runners:
            runner.start()
        if stage.alternate:
            deque(zip_longest(*(runner.steps() for runner in runners)), maxlen=0)
        for step in steps:
            if isinstance(step, Sweep):
                with torch.no_grad():
                    step.run()
            elif not stage.alternate:
                deque(step.steps(), maxlen=0)
        losses = {runner.phase.name: runner.finish() for runner in runners}
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = time.perf_counter() - began
        for runner in runners:
            self.history.n_samples += runner.phase.batches.n_samples
            self.history.step_ms += runner.step_ms()
        for name, loss in losses.items():
            if not math.isfinite(loss):
                raise RecbenchError(
                    f"the loss of phase '{name}' of {self.model.model_name()} is {loss} in epoch "
                    f"{self.progress.epoch}, expected a finite number; lower learning_rate"
                )
        return losses, seconds

    def _validated(self) -> dict[str, float]:
        self.model.eval()
        with torch.no_grad():
            return dict(self.validate())

    def _better(self, value: float) -> bool:
        if self.progress.best is None:
            return True
        return value > self.progress.best if higher_is_better(self.metric) else value < self.progress.best

    def _state(self, runners: list[_Runner], best: dict[str, Tensor] | None) -> dict[str, Any]:
        random = {"generator": self.generator.get_state(), "cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "progress": asdict(self.progress),
            "history": asdict(self.history),
            "model": self.model.state_dict(),
            "best": best,
            "optimizers": [runner.optimizer.state_dict() for runner in runners],
            "random": random,
        }

    def _restore_random_state(self, random: dict[str, Tensor]) -> None:
        self.generator.set_state(random["generator"])
        torch.set_rng_state(random["cpu"])
        if "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"], self.device)


class _Runner:
    """Steps of one phase: its optimiser, its running loss, its step times."""

    def __init__(self, phase: Phase, trainer: Trainer) -> None:
        self.phase = phase
        self._trainer = trainer
        self._loss = torch.compile(phase.loss) if trainer.compiled else phase.loss
        self.optimizer = make_optimizer(phase)
        self._parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def start(self) -> None:
        """Begin an epoch."""
        self._total = torch.zeros((), device=self._trainer.device)
        self._steps = 0
        self._events: list[torch.cuda.Event] = []

    def steps(self) -> Iterator[None]:
        """Make one optimiser step a batch."""
        trainer = self._trainer
        on_cuda = trainer.device.type == "cuda"
        precision: Any = contextlib.nullcontext()
        if trainer.bfloat16:
            precision = torch.autocast(trainer.device.type, dtype=torch.bfloat16)
        for batch in self.phase.batches.epoch(trainer.generator):
            self.optimizer.zero_grad()
            with precision:
                loss = self._loss(batch)
            loss.backward()
            if self.phase.max_norm is not None:
                torch.nn.utils.clip_grad_norm_(self._parameters, self.phase.max_norm)
            self.optimizer.step()
            if self.phase.project is not None:
                with torch.no_grad():
                    self.phase.project()
            self._total += loss.detach()
            self._steps += 1
            if on_cuda and len(self._events) <= TIMED_STEPS:
                event = torch.cuda.Event(enable_timing=True)
                event.record()
                self._events.append(event)
            yield

    def finish(self) -> float:
        """Return the epoch's mean loss (the one synchronisation of the epoch)."""
        return float(self._total) / max(1, self._steps)

    def slow_down(self, factor: float) -> None:
        """Multiply the learning rates by ``factor``, down to ``LEAST_LEARNING_RATE``."""
        for group in self.optimizer.param_groups:
            group["lr"] = min(group["lr"], max(group["lr"] * factor, LEAST_LEARNING_RATE))

    def step_ms(self) -> list[float]:
        """Return the milliseconds between the epoch's recorded steps."""
        return [a.elapsed_time(b) for a, b in zip(self._events[:-1], self._events[1:], strict=True)]
