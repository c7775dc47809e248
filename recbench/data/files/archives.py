"""Take one file out of an archive that may be broken or hostile: zip, tar, or a single compressed file."""

import bz2
import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from recbench.errors import RecbenchError

_CHUNK = 1 << 20
_MIN_BOUND = 1 << 30
_MAX_RATIO = 200
_MAX_MEMBERS = 200_000
# What may stand between two members of a tar: headers, long names, padding, and what is read ahead.
_BETWEEN_MEMBERS = 4 << 20
# What the readers of the standard library raise for bytes that are no archive.
_BROKEN = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    RuntimeError,
    MemoryError,
    OverflowError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
)
_COMPRESSED: dict[bytes, Callable[[Path], IO[bytes]]] = {
    b"\x1f\x8b": gzip.open,  # type: ignore[dict-item]  # opened for bytes unless asked otherwise
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}


def extract(archive: Path, member: str | None, target: Path, *, limit: int | None = None) -> None:
    """Write one member of the archive to ``target``; where that fails, nothing is left there.

    What kind of archive it is, its first bytes say: zip, tar (plain or compressed), or one file compressed with gzip,
    bzip2 or xz. Every member is looked at before the file counts as extracted, and one bad member condemns the whole
    archive. No path of the archive is ever used as a path.

    Args:
        archive: the archive's path.
        member: path inside the archive; None for a single compressed file.
        target: where to write, a name that means nothing to others yet: a later member may still be a bad one.
        limit: bytes that the member may have; 1 GiB or 200 times the archive, whichever is more, if not given. All
            members of a compressed tar together may have the larger of ``limit`` and that bound.

    Raises:
        RecbenchError: the archive is broken, has no such member, or unpacks to too much; or some member is an absolute
            path, leaves the folder, is a link or a device, is encrypted, or is there twice.
        OSError: ``target`` cannot be written.
    """
    try:
        with target.open("wb") as file:
            for chunk in _chunks(archive, member, limit):
                file.write(chunk)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _chunks(archive: Path, member: str | None, limit: int | None) -> Iterator[bytes]:
    """Read the member; the errors here are the archive's, not those of the file that is written."""
    try:
        bound = max(_MIN_BOUND, _MAX_RATIO * archive.stat().st_size)
        limit = bound if limit is None else limit
        left = limit
        for chunk in _read(archive, member, max(limit, bound)):
            left -= len(chunk)
            if left < 0:
                what = f"{archive}: {member}" if member else str(archive)
                raise RecbenchError(f"{what} unpacks to more than {limit} bytes; the archive is not used")
            yield chunk
    except _BROKEN as error:
        raise RecbenchError(f"{archive} is not a whole archive ({error or type(error).__name__})") from error


def _read(archive: Path, member: str | None, bound: int) -> Iterator[bytes]:
    with archive.open("rb") as file:
        head = file.read(6)
    opener = next((opener for magic, opener in _COMPRESSED.items() if head.startswith(magic)), None)
    if member is None:
        if opener is None:
            raise RecbenchError(f"{archive} is not compressed with gzip, bzip2 or xz; a member of it must be named")
        with opener(archive) as stream:
            yield from _pieces(stream)
    elif head.startswith(b"PK"):
        yield from _read_zip(archive, member)
    else:
        with opener(archive) if opener else archive.open("rb") as stream:
            yield from _read_tar(archive, stream, member, bound)


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK):
        yield chunk


def _read_zip(archive: Path, member: str) -> Iterator[bytes]:
    names = _Names(archive, member)
    with zipfile.ZipFile(archive) as opened:
        chosen = None
        for info in opened.infolist():
            # The file type is 0 where the archive was made on a system without them.
            kind = stat.S_IFMT(info.external_attr >> 16)
            plain = kind in {0, stat.S_IFREG} and not info.is_dir()
            names.check(info.orig_filename, file=plain, folder=info.is_dir() and kind in {0, stat.S_IFDIR})
            if info.flag_bits & 0x1:
                raise RecbenchError(f"{archive}: {info.filename!r} is encrypted; the archive is not used")
            if plain and names.wanted(info.orig_filename):
                chosen = info
        names.check_found()
        if chosen:
            with opened.open(chosen) as stream:
                yield from _pieces(stream)


def _read_tar(archive: Path, stream: IO[bytes], member: str, bound: int) -> Iterator[bytes]:
    """Go through the tar once, from front to back, for a compressed one cannot be read in any other order."""
    names = _Names(archive, member)
    counted = _Counted(archive, stream, min(bound, _BETWEEN_MEMBERS))
    with tarfile.open(fileobj=counted, mode="r|", bufsize=_CHUNK) as opened:  # type: ignore[call-overload]
        for info in opened:
            names.check(info.name, file=info.isreg(), folder=info.isdir())
            # A long name is held in memory, so only the bytes of members may be many.
            counted.limit = min(bound, counted.count + max(info.size, 0) + _BETWEEN_MEMBERS)
            extracted = opened.extractfile(info) if info.isreg() and names.wanted(info.name) else None
            if extracted:
                yield from _pieces(extracted)
    # To the end, where a compressed stream has its own checksum.
    while counted.read(_CHUNK):
        pass
    names.check_found()


class _Counted:
    """A stream that ends in an error once more than ``limit`` bytes were read from it."""

    def __init__(self, archive: Path, stream: IO[bytes], limit: int) -> None:
        self.archive = archive
        self.stream = stream
        self.limit = limit
        self.count = 0

    def read(self, size: int) -> bytes:
        chunk = self.stream.read(size)
        self.count += len(chunk)
        if self.count > self.limit:
            raise RecbenchError(f"{self.archive} unpacks to more than {self.limit} bytes; the archive is not used")
        return chunk


class _Names:
    """The names in an archive, each checked as it is met."""

    def __init__(self, archive: Path, member: str) -> None:
        self.archive = archive
        self.member = member
        self.files: set[str] = set()
        self.n_members = 0

    def wanted(self, name: str) -> bool:
        return str(PurePosixPath(name)) == str(PurePosixPath(self.member))

    def check(self, name: str, *, file: bool, folder: bool) -> None:
        """Refuse what no archive of data has; ``./a`` and ``a`` are the same name."""
        self.n_members += 1
        key = str(PurePosixPath(name))
        path = PureWindowsPath(name)
        if path.anchor or ".." in path.parts or "\\" in name or "\0" in name:
            fault = "has a path that leaves the folder"
        elif not (file or folder):
            fault = "is a link or a device"
        elif file and key in self.files:
            fault = "is there twice"
        elif self.n_members > _MAX_MEMBERS:
            fault = f"is beyond the {_MAX_MEMBERS} members that are read"
        else:
            if file:
                self.files.add(key)
            return
        raise RecbenchError(f"{self.archive}: the member {name!r} {fault}; the archive is not used")

    def check_found(self) -> None:
        if str(PurePosixPath(self.member)) not in self.files:
            some = ", ".join(sorted(self.files)[:5]) or "nothing"
            more = ", ..." if len(self.files) > 5 else ""
            raise RecbenchError(f"{self.archive} has no member '{self.member}'; it has {some}{more}")
