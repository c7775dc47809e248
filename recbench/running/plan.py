"""Plans: everything a run will do, resolved and checked before any work begins."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from recbench.data.cards import Card, load_card
from recbench.errors import RecbenchError, UsageError, unknown
from recbench.models.registry import load_model, model_names
from recbench.resources import file_sha256
from recbench.running.directory import finished_result
from recbench.running.result import SCORED, BudgetRecord, Result, read_result, result_dir
from recbench.running.settings import Settings
from recbench.running.tuned import find_tuned
from recbench.tasks.base import Benchmark, load_benchmark

if TYPE_CHECKING:
    from recbench.models.base import Model, ModelConfig


@dataclass(frozen=True)
class Plan:
    """One run, resolved."""

    benchmark: Benchmark
    card: Card
    model: type[Model]
    source: str | None
    """The model's file or import path, where it is not the package's own."""
    source_sha256: str | None
    """Of the model's file, where it is one."""
    config: ModelConfig
    config_from: str
    """``default``, ``tuned``, ``given`` or a mixture: what the configuration started from and what changed it."""
    settings: Settings
    budget: BudgetRecord
    seed: int

    @cached_property
    def data_sha256(self) -> str:
        """Digest of the raw files that the run rests on; ``unknown`` where they cannot be had."""
        try:
            return self.benchmark.protocol.raw_sha256(self.card)
        except RecbenchError:
            return "unknown"  # preparing them will say why, and that failure is recorded

    def directory(self, out: Path) -> Path:
        """Return the result directory under ``out``."""
        return result_dir(out, self.benchmark.name, self.model.model_name(), self.seed)

    def finished(self, out: Path) -> Result | None:
        """Return the finished result of this very plan under ``out``, or None.

        A finished result of another plan in its place is never overwritten: UsageError.
        """
        directory = self.directory(out)
        result = finished_result(directory)
        if result is None or result.diagnostics.get("identity") == self.identity():
            return result
        now = self.config.model_dump(mode="json")
        differing = [
            f"{key}={result.config.get(key)} there, {now.get(key)} now"
            for key in sorted({*now, *result.config})
            if now.get(key) != result.config.get(key)
        ]
        raise UsageError(
            f"{directory} holds a finished result of another run ({'; '.join(differing) or 'other data or code'}); "
            "give another --out, or delete it"
        )

    def identity(self) -> str:
        """Return a digest of what decides the numbers: two runs of one identity are the same run."""
        content = {
            "benchmark": self.benchmark.model_dump(mode="json"),
            "data": self.data_sha256,
            "model": [self.model.model_name(), self.model.version, self.source_sha256],
            "config": self.config.model_dump(mode="json"),
            "settings": self.settings.model_dump(include={"precision", "compile"}),
            "seed": self.seed,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Turn ``key=value`` words into a mapping; values are read as YAML (``hidden=[64,32]``, ``tracking=off``)."""
    values: dict[str, Any] = {}
    for word in assignments:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UsageError(f"'{word}' is not understood; expected key=value, as in learning_rate=0.01")
        try:
            values[key] = _number(yaml.safe_load(text))
        except yaml.YAMLError:
            raise UsageError(f"the value of '{key}' is not readable: {text!r}") from None
    return values


def _number(value: Any) -> Any:
    """Read ``1e-3``, which YAML 1.1 takes for text, as the number it is meant to be."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def make_plan(benchmark: str, model: str, values: Mapping[str, Any], seed: int) -> Plan:
    """Resolve names, configuration and settings; defaults < tuned configuration < ``values``."""
    definition = load_benchmark(benchmark)
    model_class = load_model(model)
    if definition.task not in model_class.tasks:
        raise UsageError(
            f"model '{model}' is for {', '.join(model_class.tasks)} benchmarks; "
            f"{benchmark} is a {definition.task} benchmark (recbench benchmarks list)"
        )
    settings_keys = set(Settings.model_fields)
    for key in values:
        if key not in settings_keys and key not in model_class.Config.model_fields:
            keys = model_class.Config.model_fields
            elsewhere = "; the backbone's go into backbone_config" if "backbone_config" in keys else ""
            raise unknown("key", key, [*keys, *settings_keys], f"of {model}{elsewhere}")
    settings = Settings.parse({key: value for key, value in values.items() if key in settings_keys})
    given = {key: value for key, value in values.items() if key not in settings_keys}
    base: dict[str, Any] = {}
    budget = BudgetRecord()
    origins = ["default"]
    if settings.tuned and (found := find_tuned(benchmark, model_class.model_name())):
        path, tuned = found
        base = model_class.Config.parse(tuned.config, str(path)).model_dump(include=set(tuned.config))
        # A tuned value may belong to a loss or sampler that the given values replace.
        mixed = model_class.Config.model_construct(**{**base, **given})
        base = {key: value for key, value in base.items() if mixed.matters(key)}
        budget = BudgetRecord(trials=tuned.trials, tune_s=tuned.tune_s)
        origins = ["tuned"]
    if given:
        origins.append("given")
    return Plan(
        benchmark=definition,
        card=load_card(definition.dataset),
        model=model_class,
        source=None if model in model_names() else model,
        source_sha256=_file_sha256(model),
        config=model_class.Config.parse({**base, **given}, "the given values"),
        config_from=" + ".join(origins),
        settings=settings,
        budget=budget,
        seed=seed,
    )


def _file_sha256(model: str) -> str | None:
    file = Path(model.partition(":")[0])
    return file_sha256(file) if file.suffix == ".py" else None


def plan_again(record: Path) -> tuple[Plan, Result]:
    """Return the plan of exactly what a result records, and that result."""
    result = read_result(record)
    if result.model is None:
        raise UsageError(f"{record} records a run that failed before its model was known; nothing can be run again")
    if result.model.version == SCORED:
        raise UsageError(
            f"{record} records the scores of a prediction file, {result.model.source}; recbench score makes them again"
        )
    values = {**result.config, **result.settings, "tuned": False}
    plan = make_plan(result.benchmark, result.model.source or result.model.name, values, result.seed)
    return plan, result
