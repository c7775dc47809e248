"""Prepared data on disk: named arrays in parts, built once, memory-mapped, with a sha256 each.

``<home>/prepared/<dataset>-<protocol>-<fingerprint>/`` has one folder a part (``shared``, ``train``, ``valid``,
``test``, and ``truth`` where the world is simulated) with one ``.npy`` file an array, raw ids of vocabularies as Arrow
files in ``vocabulary``, and ``manifest.json``. The fingerprint covers the raw bytes, the protocol and the code that
prepares, so nothing stale is ever read.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

from recbench import resources
from recbench.errors import RecbenchError

if TYPE_CHECKING:
    import polars as pl

MANIFEST = "manifest.json"

Arrays = dict[str, NDArray[Any]]
Append = Callable[[NDArray[Any]], None]


class Writer:
    """Writes the arrays of one prepared data set, whole or piece by piece, and keeps their digests."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.tell: Callable[[str], None] = lambda how_far: None
        """Shows how far the building has come."""
        self.digests: dict[str, dict[str, str]] = {}

    def write(self, part: str, name: str, values: NDArray[Any]) -> None:
        """Write a whole array."""
        with self.pieces(part, name, values.shape, values.dtype) as append:
            append(values)

    @contextlib.contextmanager
    def pieces(self, part: str, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> Iterator[Append]:
        """Write an array of that shape piece by piece along its first axis, so that memory holds one piece."""
        header = io.BytesIO()
        description = {"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(header, description)
        digest = hashlib.sha256(header.getvalue())
        written = 0
        with self._path(part, f"{name}.npy").open("wb") as file:
            file.write(header.getvalue())

            def append(values: NDArray[Any]) -> None:
                nonlocal written
                content = np.ascontiguousarray(values, dtype=dtype).view(np.uint8).data if values.size else b""
                file.write(content)
                digest.update(content)
                written += len(values)

            yield append
        if written != shape[0]:
            raise ValueError(f"{part}/{name}: {written} rows written, {shape[0]} announced")
        self.digests.setdefault(part, {})[name] = digest.hexdigest()

    def vocabulary(self, name: str, values: pl.Series) -> None:
        """Write the raw ids of a vocabulary, by position."""
        values.to_frame(name).write_ipc(self._path("vocabulary", f"{name}.arrow"))

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give a folder on the same disk for what is gone when the building ends."""
        folder = self._directory / "scratch"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def _path(self, part: str, name: str) -> Path:
        folder = self._directory / part
        folder.mkdir(exist_ok=True)
        return folder / name


Build = Callable[[Writer], Mapping[str, Any]]
"""Writes all arrays and returns a JSON-serialisable description of them."""


@dataclass(frozen=True)
class Prepared:
    """A prepared data set on disk."""

    directory: Path
    meta: Mapping[str, Any]
    split_sha256: str
    """Digest over all arrays: two runs with the same digest saw the same data."""
    _digests: Mapping[str, Mapping[str, str]]
    _sizes: Mapping[str, int]

    def part(self, name: str) -> Arrays:
        """Return the arrays of one part, memory-mapped; ``test`` belongs to the evaluator alone.

        Opening looks at the files' sizes only, so that it takes no longer for large data; ``verify`` reads them.
        """
        return {array: self._load(f"{name}/{array}.npy") for array in self._digests.get(name, {})}

    def verify(self) -> list[str]:
        """Read every array and return one finding for each that is not what was written."""
        findings = []
        for part, arrays in self._digests.items():
            for array, digest in arrays.items():
                path = self.directory / part / f"{array}.npy"
                if not path.is_file():
                    findings.append(f"{path} is missing")
                elif (found := resources.file_sha256(path)) != digest:
                    findings.append(f"{path} has sha256 {found}, expected {digest}")
        return findings

    def _load(self, name: str) -> NDArray[Any]:
        path = self.directory / name
        advice = f"delete the folder {self.directory} and it is prepared again"
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise RecbenchError(f"the prepared file {path} is missing; {advice}") from None
        if size != self._sizes[name]:
            raise RecbenchError(
                f"the prepared file {path} is corrupt: {size} bytes, expected {self._sizes[name]}; {advice}"
            )
        return np.load(path, mmap_mode="r", allow_pickle=False)


def read_vocabulary(directory: Path, name: str) -> pl.Series:
    """Return the raw ids of a vocabulary of the prepared data in ``directory``, by position."""
    import polars as pl

    return pl.read_ipc(directory / "vocabulary" / f"{name}.arrow").to_series()


def prepared(directory: Path, build: Build) -> Prepared:
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


def verify_all() -> dict[str, list[str]]:
    """Read all prepared data in the cache; return the findings by the name of the folder."""
    folder = resources.home() / "prepared"
    findings = {}
    for manifest in sorted(folder.glob(f"[!.]*/{MANIFEST}")):
        try:
            findings[manifest.parent.name] = _open(manifest.parent).verify()
        except RecbenchError as error:
            findings[manifest.parent.name] = [str(error)]
    return findings


def _build(directory: Path, build: Build) -> None:
    # The caller holds the lock: what a killed process left is nobody's.
    for left in directory.parent.glob(f".{directory.name}.*[0-9]"):
        shutil.rmtree(left, ignore_errors=True)
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}")
    temporary.mkdir()
    try:
        writer = Writer(temporary)
        meta = build(writer)
        sizes = {path.relative_to(temporary).as_posix(): path.stat().st_size for path in temporary.glob("*/*")}
        manifest = {"meta": meta, "arrays": writer.digests, "bytes": sizes}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True), encoding="utf-8")
        shutil.rmtree(directory, ignore_errors=True)
        temporary.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _open(directory: Path) -> Prepared:
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        digests, meta, sizes = manifest["arrays"], manifest["meta"], manifest["bytes"]
    except (ValueError, KeyError, TypeError):
        raise RecbenchError(
            f"the manifest {directory / MANIFEST} is corrupt; delete the folder and it is prepared again"
        ) from None
    split = hashlib.sha256(json.dumps([digests, meta], sort_keys=True).encode()).hexdigest()
    return Prepared(directory, meta, split, digests, sizes)
