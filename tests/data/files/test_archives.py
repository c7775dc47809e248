import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile

import pytest

from recbench.data.files import archives
from recbench.data.files.archives import extract
from recbench.errors import RecbenchError

CONTENT = b"".join(b"%d %d\n" % (n, n * n) for n in range(20_000))
MEMBERS = {"data/a.txt": CONTENT, "data/b.txt": b"other"}


def tar_member(name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, io.BytesIO(content)


def make_tar(path, *extra, mode="w"):
    with tarfile.open(path, mode) as file:
        for name, content in MEMBERS.items():
            file.addfile(*tar_member(name, content))
        for info, content in extra:
            file.addfile(info, content)
    return path


def make_zip(path, *extra):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in [*MEMBERS.items(), *extra]:
            file.writestr(name, content)
    return path


def refused(archive, tmp_path, match, member="data/a.txt", limit=None):
    with pytest.raises(RecbenchError, match=match) as caught:
        extract(archive, member, tmp_path / "out", limit=limit)
    assert "\n" not in str(caught.value)
    assert str(archive) in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {archive.name}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar(tmp_path, mode):
    extract(make_tar(tmp_path / "archive", mode=mode), "data/a.txt", tmp_path / "out", limit=len(CONTENT))
    assert (tmp_path / "out").read_bytes() == CONTENT


def test_tar_with_leading_dots_and_folders(tmp_path):
    folder = tar_member("./more", type=tarfile.DIRTYPE)
    archive = make_tar(tmp_path / "archive", folder, folder, tar_member("./more/c.txt", b"third"))
    extract(archive, "more/c.txt", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"third"


def test_zip(tmp_path):
    extract(make_zip(tmp_path / "archive"), "data/a.txt", tmp_path / "out", limit=len(CONTENT))
    assert (tmp_path / "out").read_bytes() == CONTENT


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_one_compressed_file(tmp_path, compress):
    archive = tmp_path / "archive"
    archive.write_bytes(compress(CONTENT))
    extract(archive, None, tmp_path / "out", limit=len(CONTENT))
    assert (tmp_path / "out").read_bytes() == CONTENT


HOSTILE_NAMES = [
    "../out",
    "data/../../out",
    "/etc/out",
    "C:/out",
    "C:out",
    "..\\out",
    "data\\out",
    "//server/share/out",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_that_leave_the_folder(tmp_path, name):
    match = "has a path that leaves the folder; the archive is not used"
    archive = make_tar(tmp_path / "archive.tar", tar_member(name, b"x"))
    refused(archive, tmp_path, match)
    archive.unlink()
    refused(make_zip(tmp_path / "archive.zip", (name, b"x")), tmp_path, match)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_tar(tmp_path, kind):
    bad = tar_member("data/c.txt", type=kind, linkname="data/a.txt")
    refused(make_tar(tmp_path / "archive", bad), tmp_path, "'data/c.txt' is a link or a device")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_in_zip(tmp_path, kind):
    info = zipfile.ZipInfo("data/c.txt")
    info.create_system = 3
    info.external_attr = (kind | 0o777) << 16
    refused(make_zip(tmp_path / "archive", (info, "/etc/passwd")), tmp_path, "'data/c.txt' is a link or a device")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_members(tmp_path):
    refused(make_tar(tmp_path / "tar", tar_member("./data/b.txt", b"x")), tmp_path, "is there twice")
    (tmp_path / "tar").unlink()
    refused(make_zip(tmp_path / "zip", ("data/a.txt", b"x")), tmp_path, "is there twice")


def test_encrypted_member(tmp_path):
    archive = make_zip(tmp_path / "archive")
    content = bytearray(archive.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 8] |= 1  # the general purpose flags of the central directory
    archive.write_bytes(content)
    refused(archive, tmp_path, "'data/b.txt' is encrypted")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_wrong_member_names_what_is_there(tmp_path, make):
    refused(make(tmp_path / "archive"), tmp_path, r"no member 'a.txt'; it has data/a.txt, data/b.txt", member="a.txt")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_member_longer_than_expected(tmp_path, make):
    match = f"data/a.txt unpacks to more than {len(CONTENT) - 1} bytes"
    refused(make(tmp_path / "archive"), tmp_path, match, limit=len(CONTENT) - 1)


@pytest.mark.parametrize("kind", ["zip", "tar", "gz"])
def test_bomb_ends_at_the_bound(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(archives, "_MIN_BOUND", 1 << 20)
    monkeypatch.setattr(archives, "_BETWEEN_MEMBERS", 1 << 20)
    monkeypatch.setattr(archives, "_CHUNK", 1 << 16)
    zeros = bytes(64 << 20)
    archive = tmp_path / "archive"
    if kind == "zip":
        make_zip(archive, ("bomb", zeros))
    elif kind == "tar":
        make_tar(archive, tar_member("bomb", zeros), mode="w:xz")
    else:
        archive.write_bytes(gzip.compress(zeros))
    refused(archive, tmp_path, "unpacks to more than", member=None if kind == "gz" else "bomb")
    if kind == "tar":  # also where another member is wanted: all of a compressed tar must be read
        refused(archive, tmp_path, "unpacks to more than")


def test_endless_name_in_tar_is_not_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_CHUNK", 1 << 16)
    monkeypatch.setattr(archives, "_BETWEEN_MEMBERS", 1 << 20)
    archive = make_tar(
        tmp_path / "archive", tar_member("x", bytes(32 << 20), type=tarfile.GNUTYPE_LONGNAME), mode="w:xz"
    )
    refused(archive, tmp_path, "unpacks to more than")


def test_too_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_MAX_MEMBERS", 2)
    refused(make_tar(tmp_path / "archive", tar_member("c", b"x")), tmp_path, "'c' is beyond the 2 members")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz", "gz", "bz2", "xz"])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_broken_archives(tmp_path, kind, damage):
    archive = tmp_path / "archive"
    member = "data/a.txt"
    if kind == "zip":
        make_zip(archive)
    elif kind.startswith("tar"):
        make_tar(archive, mode=kind.replace("tar.", "w:").replace("tar", "w"))
    else:
        member = None
        archive.write_bytes({"gz": gzip, "bz2": bz2, "xz": lzma}[kind].compress(CONTENT))
    content = bytearray(archive.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    elif kind == "tar":
        content[3] ^= 0xFF  # a plain tar has checksums in its headers alone
    else:
        content[len(content) // 3] ^= 0xFF
    archive.write_bytes(content)
    refused(archive, tmp_path, "is not a whole archive|has no member", member=member)


def test_not_an_archive(tmp_path):
    archive = tmp_path / "archive"
    archive.write_bytes(b"user,item\n1,2\n" * 100)
    refused(archive, tmp_path, "is not a whole archive")
    refused(archive, tmp_path, "is not compressed with gzip, bzip2 or xz; a member of it must be named", member=None)
    archive.write_bytes(b"")
    refused(archive, tmp_path, "is not a whole archive|has no member")


def test_lying_size_in_zip(tmp_path):
    archive = make_zip(tmp_path / "archive")
    content = bytearray(archive.read_bytes())
    entry = content.index(b"PK\x01\x02")
    struct.pack_into("<I", content, entry + 24, 10)  # the uncompressed size in the central directory
    archive.write_bytes(content)
    refused(archive, tmp_path, "is not a whole archive")
