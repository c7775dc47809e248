"""Prepared data on disk: named arrays in parts, built once, memory-mapped, checked by sha256.

``<home>/prepared/<dataset>-<protocol>-<fingerprint>/`` has one folder a part (``shared``, ``train``, ``valid``,
``test``, and ``truth`` where the world is simulated) with one ``.npy`` file an array, and ``manifest.json``. The
fingerprint covers the raw bytes, the protocol and the code that prepares, so nothing stale is ever read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from recbench.errors import RecbenchError

MANIFEST = "manifest.json"

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Built:
    """What a protocol makes: arrays by part and name, and a JSON-serialisable description of them."""

    parts: Mapping[str, Arrays]
    meta: Mapping[str, Any]


@dataclass(frozen=True)
class Prepared:
    """A prepared data set on disk."""

    directory: Path
    meta: Mapping[str, Any]
    split_sha256: str
    """Digest over all arrays: two runs with the same digest saw the same data."""
    _digests: Mapping[str, Mapping[str, str]]

    def part(self, name: str) -> Arrays:
        """Return the arrays of one part, memory-mapped; ``test`` belongs to the evaluator alone."""
        return {array: self._load(name, array, digest) for array, digest in self._digests.get(name, {}).items()}

    def _load(self, part: str, array: str, digest: str) -> NDArray[Any]:
        path = self.directory / part / f"{array}.npy"
        advice = f"delete the folder {self.directory} and it is prepared again"
        if not path.is_file():
            raise RecbenchError(f"the prepared file {path} is missing; {advice}")
        found = _sha256(path)
        if found != digest:
            raise RecbenchError(f"the prepared file {path} is corrupt: sha256 {found}, expected {digest}; {advice}")
        return np.load(path, mmap_mode="r", allow_pickle=False)


def prepared(directory: Path, build: Callable[[], Built]) -> Prepared:
    """Open the prepared data in ``directory``, after building it there if no process has done so.

    Built in a temporary folder under a lock and renamed: a killed preparation leaves nothing that looks usable.
    """
    if not (directory / MANIFEST).is_file():
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(directory.with_name(f".{directory.name}.lock")):
                if not (directory / MANIFEST).is_file():
                    _build(directory, build)
        except OSError as error:
            raise RecbenchError(
                f"cannot prepare data in {directory.parent}: {error.strerror or error}; "
                "set RECBENCH_HOME to a folder with room that can be written to"
            ) from error
    return _open(directory)


def _build(directory: Path, build: Callable[[], Built]) -> None:
    built = build()
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        digests: dict[str, dict[str, str]] = {}
        for part, arrays in built.parts.items():
            (temporary / part).mkdir(parents=True)
            digests[part] = {}
            for name, values in arrays.items():
                path = temporary / part / f"{name}.npy"
                np.save(path, values, allow_pickle=False)
                digests[part][name] = _sha256(path)
        manifest = {"meta": built.meta, "arrays": digests}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True), encoding="utf-8")
        shutil.rmtree(directory, ignore_errors=True)
        temporary.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _open(directory: Path) -> Prepared:
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        digests = manifest["arrays"]
        meta = manifest["meta"]
    except (ValueError, KeyError, TypeError):
        raise RecbenchError(
            f"the manifest {directory / MANIFEST} is corrupt; delete the folder and it is prepared again"
        ) from None
    split = hashlib.sha256(json.dumps([digests, meta], sort_keys=True).encode()).hexdigest()
    return Prepared(directory, meta, split, digests)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
