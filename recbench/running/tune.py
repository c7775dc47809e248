"""Studies: an Optuna search over one model's configuration on one benchmark, on training and validation data only."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbench.errors import RecbenchError, UsageError
from recbench.metrics.names import higher_is_better
from recbench.running.plan import Plan, make_plan
from recbench.running.tuned import FOLDER, Tuned, write_tuned
from recbench.running.workers import Limits, Outcome, default_memory_mb, run_all

if TYPE_CHECKING:
    import optuna

log = logging.getLogger("recbench")

TRIAL_MINUTES = 30
SECONDS = "seconds"
FAILURE = "failure"


@dataclass(frozen=True)
class TrialJob:
    """One trial, as it travels to its process."""

    number: int
    benchmark: str
    model: str
    values: Mapping[str, Any]
    seed: int


@dataclass(frozen=True)
class Finished:
    """How one trial ended."""

    number: int
    params: Mapping[str, Any]
    value: float | None
    error: str | None
    seconds: float
    finished: int
    """Trials that have ended, those of earlier sessions included."""
    wanted: int
    best: float | None


def validation_value(job: TrialJob) -> tuple[float, float, str]:
    """Train on training data and return the best validation value, the seconds, and the digest of the data."""
    from recbench.running.run import fit
    from recbench.tasks.base import Development
    from recbench.training.checkpoint import Checkpoints

    plan = make_plan(job.benchmark, job.model, job.values, job.seed)
    began = time.perf_counter()
    development = Development.of(plan.benchmark.protocol.prepare(plan.card))
    fitted = fit(plan, development, Checkpoints(None), lambda task, data: None, lambda epoch: None)
    value = fitted.valid[plan.benchmark.primary_metric]
    return value, time.perf_counter() - began, development.split_sha256


def tune(
    benchmark: str,
    model: str,
    *,
    trials: int,
    given: Mapping[str, Any],
    seed: int,
    storage: str,
    workers: int,
    timeout: float | None,
    out: Path,
    on_trial: Callable[[Finished], None],
    tries: Sequence[Mapping[str, Any]] = (),
) -> tuple[Path, Tuned]:
    """Search until the study has ``trials`` ended trials in all, and write the best configuration.

    The first trial is the default configuration, the next are those of ``tries``: values of keys that are searched, by
    key, beside defaults. ``given`` values are fixed in every trial. A study in ``storage`` (a journal file, or a
    database URL) goes on where it stopped; a trial that was running when its process was killed is tried again. Returns
    the path written (under ``out``) and its content.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plan = make_plan(benchmark, model, {**given, "tuned": False}, seed)
    space = {
        key: spec
        for key, spec in plan.model.Config.search_space().items()
        if key not in given and plan.config.matters(key)
    }
    if not space:
        raise UsageError(f"model '{model}' has nothing to tune: no key of its configuration declares a search space")
    if trials <= len(tries):
        raise UsageError(
            f"--trials: expected at least {len(tries) + 1}, for the default and what to try, found {trials}"
        )
    first = [_start(plan, space)]
    for values in tries:
        if fixed := [key for key in values if key not in space]:
            raise UsageError(f"--try: expected keys that are searched ({', '.join(space)}), found {', '.join(fixed)}")
        first.append(_start(make_plan(benchmark, model, {**given, **values, "tuned": False}, seed), space))
    name = f"{benchmark}/{plan.model.model_name()}/{plan.identity()[:12]}"
    study = _open(name, storage, plan)
    _requeue_killed(study)
    for values in first:
        study.enqueue_trial(values, skip_if_exists=True)
    deadline = None if timeout is None else time.monotonic() + timeout
    open_trials: dict[int, optuna.Trial] = {}
    split: set[str] = {str(study.user_attrs["split"])} if "split" in study.user_attrs else set()

    def jobs() -> Iterator[TrialJob]:
        while len(_ended(study)) + len(open_trials) < trials:
            if deadline is not None and time.monotonic() > deadline:
                return
            trial = study.ask()
            open_trials[trial.number] = trial
            values = {**given, **_suggest(trial, space), "tuned": False, "threads": 1, "tracking": False}
            yield TrialJob(trial.number, benchmark, model, values, seed)

    limits = Limits(TRIAL_MINUTES * 60, default_memory_mb(workers))
    for outcome in run_all(validation_value, jobs(), workers, limits):
        trial = open_trials.pop(outcome.job.number)
        seconds = _tell(study, trial, outcome, split)
        ended = len(_ended(study))
        value = outcome.value[0] if outcome.value else None
        on_trial(Finished(trial.number, trial.params, value, outcome.error, seconds, ended, trials, _best_value(study)))
    tried = [f"--try '{' '.join(_words(values))}'" for values in tries]
    command = " ".join(
        ["recbench tune", benchmark, model, *_words(given), *tried, "--trials", str(trials), "--seed", str(seed)],
    )
    return _write(study, plan, space, given, out, command, split)


def _open(name: str, storage: str, plan: Plan) -> optuna.Study:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    maximise = higher_is_better(plan.benchmark.primary_metric)
    try:
        if "://" in storage:
            backend: Any = optuna.storages.RDBStorage(storage)
        else:
            Path(storage).parent.mkdir(parents=True, exist_ok=True)
            backend = optuna.storages.JournalStorage(JournalFileBackend(storage))
        study = optuna.create_study(
            study_name=name,
            storage=backend,
            direction="maximize" if maximise else "minimize",
            load_if_exists=True,
        )
        # A session that goes on must not draw again what the ones before it drew.
        study.sampler = optuna.samplers.TPESampler(seed=plan.seed + len(study.trials), n_startup_trials=5)
        return study
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise RecbenchError(
            f"the study's storage {storage} cannot be opened: {type(error).__name__}: {reason}"
        ) from error


def _start(plan: Plan, space: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a plan's configuration for the keys that are searched."""
    values = plan.config.model_dump(mode="json")
    return {key: values[key] for key in space}


def _words(values: Mapping[str, Any]) -> list[str]:
    # Without blanks a list is one word of a command line.
    return [f"{key}={value}".replace(" ", "") for key, value in values.items()]


def _suggest(trial: optuna.Trial, space: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, spec in space.items():
        if "choices" in spec:
            values[key] = trial.suggest_categorical(key, spec["choices"])
        elif isinstance(spec["low"], int) and isinstance(spec["high"], int):
            values[key] = trial.suggest_int(key, spec["low"], spec["high"], log=spec["log"])
        else:
            values[key] = trial.suggest_float(key, spec["low"], spec["high"], log=spec["log"])
    return values


def _ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials that count against the budget: finished ones, and those that failed of themselves."""
    from optuna.trial import TrialState

    failed = [t for t in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)) if FAILURE in t.user_attrs]
    return [*study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)), *failed]


def _requeue_killed(study: optuna.Study) -> None:
    """Try again what was running when an earlier session was killed."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        if trial.params:
            study.enqueue_trial(trial.params)


def _tell(
    study: optuna.Study, trial: optuna.Trial, outcome: Outcome[tuple[float, float, str]], split: set[str]
) -> float:
    from optuna.trial import TrialState

    if outcome.value is None:
        trial.set_user_attr(FAILURE, outcome.error)
        study.tell(trial, state=TrialState.FAIL)
        return 0.0
    value, seconds, digest = outcome.value
    split.add(digest)
    if len(split) > 1:
        raise RecbenchError("the prepared data changed during the study; delete its storage and start again")
    study.set_user_attr("split", digest)
    trial.set_user_attr(SECONDS, seconds)
    study.tell(trial, value)
    return seconds


def _best_value(study: optuna.Study) -> float | None:
    from optuna.trial import TrialState

    return study.best_value if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) else None


def _write(
    study: optuna.Study,
    plan: Plan,
    space: Mapping[str, Any],
    given: Mapping[str, Any],
    out: Path,
    command: str,
    split: set[str],
) -> tuple[Path, Tuned]:
    import optuna

    ended = _ended(study)
    if _best_value(study) is None:
        reasons = {str(trial.user_attrs[FAILURE]) for trial in ended}
        raise RecbenchError(f"no trial of the study finished: {'; '.join(sorted(reasons)) or 'the time was too short'}")
    values = plan.config.model_dump(mode="json")
    default = _start(plan, space)
    tuned = Tuned(
        benchmark=plan.benchmark.name,
        model=plan.model.model_name(),
        model_version=plan.model.version,
        metric=plan.benchmark.primary_metric,
        value=study.best_value,
        default_value=next((trial.value for trial in ended if trial.params == default), None),
        trials=len(ended),
        tune_s=round(sum(float(trial.user_attrs.get(SECONDS, 0.0)) for trial in ended), 1),
        seed=plan.seed,
        split_sha256=next(iter(split)),
        optuna=optuna.__version__,
        command=command,
        config={**{key: values[key] for key in given if key in values}, **study.best_params},
    )
    return write_tuned(out / FOLDER, tuned), tuned
