"""Checkpoints of a run: written by renaming, often enough to lose little, seldom enough to cost little."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# A checkpoint is written when at least this many times its own writing time has passed since the last one, so that
# writing takes no more than about one part in twenty of a run.
SPACING = 20.0


class Checkpoints:
    """The folder ``checkpoint/`` of a run that has not finished.

    ``identity`` says which configuration, data and code it belongs to: a checkpoint of another one is thrown away.
    """

    def __init__(self, directory: Path | None, identity: str = "") -> None:
        self._directory = directory
        self._identity = identity
        self._next = 0.0

    def of(self, identity: str) -> Checkpoints:
        """Return the same folder, for that identity."""
        return Checkpoints(self._directory, identity)

    def latest(self) -> dict[str, Any] | None:
        """Return the last saved state, or None."""
        if self._directory is None or not (file := self._directory / "state.pt").is_file():
            return None
        state: dict[str, Any] = torch.load(file, weights_only=True)
        if state.pop("identity") != self._identity:
            self.clear()
            return None
        return state

    def finished_stage(self, number: int) -> dict[str, Tensor] | None:
        """Return the model's weights at the end of an earlier stage; None for one so short that it is run again."""
        if self._directory is None or not (file := self._directory / f"stage-{number}.pt").is_file():
            return None
        weights: dict[str, Tensor] = torch.load(file, weights_only=True)
        return weights

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Save the state if enough time has passed since the last one."""
        if self._directory is None or time.monotonic() < self._next:
            return
        began = time.monotonic()
        self._write("state.pt", {"identity": self._identity, **state()})
        now = time.monotonic()
        self._next = now + SPACING * (now - began)

    def save_stage(self, number: int, weights: Callable[[], dict[str, Tensor]]) -> None:
        """Save the weights at the end of a stage, where a checkpoint of that stage was saved."""
        if self._directory is not None and (self._directory / "state.pt").is_file():
            self._write(f"stage-{number}.pt", weights())

    def clear(self) -> None:
        """Remove all checkpoints."""
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _write(self, name: str, content: Any) -> None:
        assert self._directory is not None
        self._directory.mkdir(parents=True, exist_ok=True)
        temporary = self._directory / f".{name}"
        torch.save(content, temporary)
        temporary.replace(self._directory / name)
