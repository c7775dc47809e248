"""Tuned configurations: ``configs/tuned/<task>/<name>/<model>.yaml``, written by ``recbench tune``, used by runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from recbench.resources import shipped
from recbench.running.result import write_atomic
from recbench.tasks.base import read_config

FOLDER = Path("configs", "tuned")


class Tuned(BaseModel):
    """A configuration found by a study, and what finding it cost."""

    model_config = ConfigDict(extra="forbid")

    benchmark: str
    model: str
    model_version: str
    metric: str
    value: float
    """Of the best trial, on validation."""
    default_value: float | None
    """Of the first trial, which is the default configuration; None where it failed."""
    trials: int
    """Finished trials, failed ones included."""
    tune_s: float
    """Seconds of all trials together."""
    seed: int
    split_sha256: str
    optuna: str
    command: str
    config: dict[str, Any]
    """The tuned keys, and those that were held fixed at given values; all others are defaults."""


def find_tuned(benchmark: str, model: str) -> tuple[Path, Tuned] | None:
    """Return the tuned configuration of a model: the working folder's own, else the one shipped."""
    relative = FOLDER / benchmark / f"{model}.yaml"
    for path in (Path.cwd() / relative, shipped(*relative.parts)):
        if path.is_file():
            return path, read_config(path, lambda content: Tuned(**content))
    return None


def write_tuned(folder: Path, tuned: Tuned) -> Path:
    """Write a tuned configuration under ``folder`` and return its path."""
    path = folder / tuned.benchmark / f"{tuned.model}.yaml"
    write_atomic(path, yaml.safe_dump(tuned.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    return path
