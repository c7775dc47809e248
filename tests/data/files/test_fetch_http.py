"""Fetching from servers that fail in every way, and what the cache holds afterwards."""

import gzip
import hashlib
import http.server
import io
import json
import logging
import lzma
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import zipfile

import pytest

from recbench.data.cards import Card, CardFile
from recbench.data.files import download as module
from recbench.data.files.fetch import cached, checksums, fetch, verify
from recbench.errors import RecbenchError, UsageError

CONTENT = b"".join(b"%d %d\n" % (n, n * n) for n in range(20_000))
HALF = len(CONTENT) // 2
PAGE = b"\n <!DOCTYPE html><html><body>Please log in</body></html>"
LOCK = {"datasets/sample/1.lock"}


def described(**fields):
    return CardFile(**fields)


def known(content=CONTENT, **fields):
    return CardFile(bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), **fields)


def make_card(files=None, *, read=None, **fields):
    counted = {"verified": "described", "basis": "made by the test", "licence": "none", "citation": "none"}
    table = {"file": read or next(iter(files)), "reader": "matrix", "columns": {"row": "user"}}
    return Card(
        name="sample", version="1", title="Sample", homepage="https://example.org", files=files,
        tables={"cells": table}, **{**counted, **fields},
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch):
    monkeypatch.setattr(module, "_WAIT_SECONDS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(module, "_TIMEOUT_SECONDS", 0.5)


class Handler(http.server.BaseHTTPRequestHandler):
    """``/<behaviour>/<anything>``: what the server does wrong is the first part of the path."""

    def do_GET(self):
        self.server.seen.append((self.path, self.headers.get("Range")))
        behaviour = self.path.split("/")[1]
        content = self.server.bodies.get(self.path, CONTENT)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        getattr(self, f"serve_{behaviour}")(content, start)

    def answer(self, body, status=200, length=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def part(self, content, start, stop=None, shift=0):
        span = f"bytes {start + shift}-{len(content) - 1}/{len(content)}"
        self.answer(content[start:stop], 206, len(content) - start, Content_Range=span)

    def serve_whole(self, content, start):
        self.answer(content)

    def serve_ranges(self, content, start):
        self.part(content, start) if start else self.answer(content)

    def serve_drops(self, content, start):
        """Drop the connection half-way; from there on serve the rest."""
        self.part(content, start) if start else self.answer(content[:HALF], length=len(content))

    def serve_drops_ranges_ignored(self, content, start):
        """Drop the first connection; then ignore what is asked for and send all."""
        again = sum(path == self.path for path, _ in self.server.seen) > 1
        self.answer(content if again else content[:HALF], length=len(content))

    def serve_cuts(self, content, start):
        self.answer(content[:HALF], length=len(content))

    def serve_shifted(self, content, start):
        """Say, and send, another range than the one asked for."""
        self.part(content, start, shift=1) if start else self.answer(content[:HALF], length=len(content))

    def serve_corrupt_rest(self, content, start):
        """Resume with other bytes; whole, the file is right."""
        if start:
            self.part(content[::-1], start)
        else:
            whole = (self.path, None) in self.server.seen[:-1]
            self.answer(content if whole else content[:HALF], length=len(content))

    def serve_stalls(self, content, start):
        self.answer(content[:HALF], length=len(content))
        self.server.release.wait(60)

    def serve_stalls_once(self, content, start):
        if start:
            self.part(content, start)
        else:
            self.serve_stalls(content, start)

    def serve_silent(self, content, start):
        self.server.release.wait(60)

    def serve_corrupt(self, content, start):
        self.answer(b"x" + content[1:])

    def serve_longer(self, content, start):
        self.answer(content + b"more")

    def serve_endless(self, content, start):
        """Send without end and without saying how much."""
        self.send_response(200)
        self.end_headers()
        while not self.server.release.is_set():
            self.wfile.write(content)

    def serve_shorter(self, content, start):
        self.answer(content[:HALF])

    def serve_empty(self, content, start):
        self.answer(b"")

    def serve_page(self, content, start):
        self.answer(PAGE, Content_Type="text/html; charset=utf-8")

    def serve_unmarked_page(self, content, start):
        self.answer(PAGE, Content_Type="application/octet-stream")

    def serve_marked_page(self, content, start):
        self.answer(b"Please log in", Content_Type="text/html")

    def serve_absent(self, content, start):
        self.send_error(404)

    def serve_forbidden(self, content, start):
        self.send_error(403)

    def serve_unavailable(self, content, start):
        """Be there at the second request."""
        again = sum(path == self.path for path, _ in self.server.seen) > 1
        self.answer(content) if again else self.send_error(503)

    def serve_no_range(self, content, start):
        self.send_error(416) if start else self.answer(content)

    def serve_moved(self, content, start):
        self.answer(b"", 302, Location=f"{self.server.url}/drops/moved")

    def serve_to_file(self, content, start):
        self.answer(b"", 302, Location=self.server.secret)

    def serve_to_ftp(self, content, start):
        self.answer(b"", 302, Location=f"ftp://127.0.0.1:{self.server.server_port}/whole")

    def serve_loop(self, content, start):
        self.answer(b"", 302, Location=f"{self.server.url}{self.path}")

    def serve_garbage(self, content, start):
        self.wfile.write(b"\x00\xff no HTTP\r\n\r\n")

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that hangs up is what some tests are about."""


@pytest.fixture
def server(tmp_path):
    with Server(("127.0.0.1", 0), Handler) as running:
        running.seen, running.bodies, running.release = [], {}, threading.Event()
        running.url = f"http://127.0.0.1:{running.server_port}"
        (tmp_path / "secret").write_bytes(CONTENT)
        running.secret = (tmp_path / "secret").as_uri()
        threading.Thread(target=running.serve_forever, args=[0.01], daemon=True).start()
        yield running
        running.release.set()
        running.shutdown()


def files_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def card_at(server, *behaviours, entry=known):
    return make_card({"a.txt": entry(urls=[f"{server.url}/{name}/a.txt" for name in behaviours])})


FAILURES = {
    "absent": "HTTP Error 404",
    "forbidden": "HTTP Error 403",
    "page": "",
    "unmarked_page": "",
    "marked_page": "",
    "empty": "",
    "cuts": f"broke off after {HALF} of {len(CONTENT)} bytes",
    "stalls": "timed out",
    "silent": "timed out",
    "to_file": "not allowed",
    "to_ftp": "unknown url type: ftp",
    "loop": "infinite loop",
    "garbage": "",
}
WRONG_BYTES = {
    "corrupt": "has sha256",
    "longer": f"has {len(CONTENT) + 4} bytes, expected {len(CONTENT)}",
    "shorter": f"has {HALF} bytes, expected {len(CONTENT)}",
    "endless": f"has {len(CONTENT) + 1} bytes, expected {len(CONTENT)}",
}


@pytest.mark.parametrize(("behaviour", "message"), (FAILURES | WRONG_BYTES).items())
def test_failures_end_in_a_clear_error_and_an_unharmed_cache(server, home, behaviour, message):
    with pytest.raises(
        RecbenchError, match=f"cannot get a.txt .*/{behaviour}/a.txt \\(.*{re.escape(message)}"
    ) as caught:
        fetch(card_at(server, behaviour))
    assert "\n" not in str(caught.value)
    # A good beginning may stay under its temporary name, nothing else.
    beginning = {"datasets/sample/1/a.txt.part"} if behaviour in {"cuts", "stalls"} else set()
    assert files_in(home) == LOCK | beginning
    assert verify(card_at(server, behaviour))[0].endswith("a.txt is missing")


@pytest.mark.parametrize("behaviour", FAILURES | WRONG_BYTES)
def test_next_source_after_a_failure(server, home, behaviour):
    card = card_at(server, behaviour, "whole")
    assert fetch(card)["a.txt"].read_bytes() == CONTENT
    assert files_in(home) == LOCK | {"datasets/sample/1/a.txt"}
    assert verify(card) == []


@pytest.mark.parametrize("behaviour", FAILURES)
def test_failures_where_no_checksum_is_known(server, home, behaviour):
    with pytest.raises(RecbenchError, match=r"cannot get a\.txt"):
        fetch(card_at(server, behaviour, entry=described))
    assert files_in(home) == LOCK


def test_sources_that_would_pass_without_a_checksum_are_named_pages(server):
    for behaviour in ("page", "unmarked_page", "marked_page"):
        with pytest.raises(RecbenchError, match="is a web page, not the file"):
            fetch(card_at(server, behaviour, entry=described))
    with pytest.raises(RecbenchError, match="is empty"):
        fetch(card_at(server, "empty", entry=described))


@pytest.mark.parametrize(
    ("behaviour", "ranges"),
    [
        ("ranges", [None]),
        ("drops", [None, HALF]),
        ("stalls_once", [None, HALF]),
        ("drops_ranges_ignored", [None, HALF]),
        ("unavailable", [None, None]),
    ],
)
@pytest.mark.parametrize("entry", [known, described])
def test_interrupted_downloads_go_on(server, home, behaviour, ranges, entry):
    assert fetch(card_at(server, behaviour, entry=entry))["a.txt"].read_bytes() == CONTENT
    assert [asked for _, asked in server.seen] == [None if start is None else f"bytes={start}-" for start in ranges]
    assert not [name for name in files_in(home) if name.endswith(".part")]


def test_pieces_that_do_not_fit_are_downloaded_once_more_from_zero(server, home):
    assert fetch(card_at(server, "corrupt_rest"))["a.txt"].read_bytes() == CONTENT
    assert [asked for _, asked in server.seen] == [None, f"bytes={HALF}-", None]
    assert files_in(home) == LOCK | {"datasets/sample/1/a.txt"}


def test_wrong_content_range_is_not_appended(server):
    with pytest.raises(RecbenchError, match=r"shifted/a.txt \((sent another part|broke off)"):
        fetch(card_at(server, "shifted"))
    assert [asked for _, asked in server.seen] == [None, f"bytes={HALF}-", None]
    assert fetch(card_at(server, "shifted", "whole"))["a.txt"].read_bytes() == CONTENT


def test_redirects_are_followed_with_the_range(server):
    assert fetch(card_at(server, "moved"))["a.txt"].read_bytes() == CONTENT
    assert server.seen == [
        ("/moved/a.txt", None), ("/drops/moved", None), ("/moved/a.txt", f"bytes={HALF}-"),
        ("/drops/moved", f"bytes={HALF}-"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("left", "behaviour", "asked"),
    [
        (CONTENT[:1000], "ranges", ["bytes=1000-"]),
        (CONTENT[:1000], "no_range", ["bytes=1000-", None]),
        (CONTENT[:1000], "whole", ["bytes=1000-"]),
        (b"x" * 1000, "ranges", ["bytes=1000-", None]),
        (CONTENT, "absent", []),
        (CONTENT + b"more", "ranges", [None]),
        (b"", "ranges", [None]),
    ],
)
def test_what_a_killed_process_left_is_used_if_it_is_good(server, home, left, behaviour, asked):
    folder = home / "datasets/sample/1"
    folder.mkdir(parents=True)
    (folder / "a.txt.part").write_bytes(left)
    assert fetch(card_at(server, behaviour))["a.txt"].read_bytes() == CONTENT
    assert [header for _, header in server.seen] == asked
    assert files_in(home) == LOCK | {"datasets/sample/1/a.txt"}


def test_what_a_killed_process_left_outlives_sources_without_the_file(server, home, monkeypatch):
    monkeypatch.setenv("RECBENCH_MIRROR", str(home.parent))
    folder = home / "datasets/sample/1"
    folder.mkdir(parents=True)
    (folder / "a.txt.part").write_bytes(CONTENT[:1000])
    assert fetch(card_at(server, "absent", "page", "ranges"))["a.txt"].read_bytes() == CONTENT
    assert server.seen[-1] == ("/ranges/a.txt", "bytes=1000-")


def test_what_a_killed_process_left_is_not_used_without_a_checksum(server, home):
    folder = home / "datasets/sample/1"
    folder.mkdir(parents=True)
    (folder / "a.txt.part").write_bytes(b"x" * 1000)
    assert fetch(card_at(server, "ranges", entry=described))["a.txt"].read_bytes() == CONTENT
    assert server.seen == [("/ranges/a.txt", None)]


def start(card, timeout=30):
    code = (
        "import sys; from recbench.data import cards; from recbench.data.files import download, fetch; "
        "download._TIMEOUT_SECONDS = float(sys.argv[2]); "
        "fetch.fetch(cards.Card.model_validate_json(sys.argv[1]))"
    )
    words = [sys.executable, "-c", code, card.model_dump_json(), str(timeout)]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True)


def test_a_killed_process_is_resumed(server, home, wait_for):
    card = card_at(server, "stalls_once")
    process = start(card)
    part = home / "datasets/sample/1/a.txt.part"
    wait_for(lambda: part.exists() and part.stat().st_size > 0, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    have = part.stat().st_size
    assert fetch(card)["a.txt"].read_bytes() == CONTENT
    assert server.seen == [("/stalls_once/a.txt", None), ("/stalls_once/a.txt", f"bytes={have}-")]


@pytest.mark.parametrize("entry", [known, described])
def test_processes_download_once(server, home, entry):
    # The stall makes sure that the second process comes while the first is at it.
    card = card_at(server, "stalls_once", entry=entry)
    processes = [start(card, timeout=3), start(card, timeout=3)]
    for process in processes:
        _, complaint = process.communicate(timeout=60)
        assert process.returncode == 0, complaint
    assert server.seen == [("/stalls_once/a.txt", None), ("/stalls_once/a.txt", f"bytes={HALF}-")]
    assert verify(card) == []


# Checksums that the card does not know.


def test_recorded_checksum_is_compared_later(server, home, caplog):
    card = card_at(server, "whole", entry=described)
    assert checksums(card) == {"a.txt": None}
    with caplog.at_level(logging.WARNING, "recbench"):
        path = fetch(card)["a.txt"]
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    (record,) = caplog.records
    assert "a.txt of the dataset sample: the card knows no checksum" in record.getMessage()
    assert sha256 in record.getMessage()
    assert json.loads((path.parent / "checksums.json").read_text()) == {
        "a.txt": {"bytes": len(CONTENT), "sha256": sha256}
    }
    assert checksums(card) == {"a.txt": sha256}
    assert verify(card) == []
    caplog.clear()
    fetch(card)
    assert caplog.records == []
    assert len(server.seen) == 1

    path.write_bytes(CONTENT[::-1])
    (finding,) = verify(card)
    assert finding.startswith(f"{path} has sha256 ")
    with pytest.raises(RecbenchError, match=r"a.txt has sha256 .*`recbench data fetch sample --force`"):
        fetch(card)
    assert fetch(card, force=True)["a.txt"].read_bytes() == CONTENT
    assert verify(card) == []


def test_another_file_than_the_recorded_one_is_not_taken_unasked(server):
    card = card_at(server, "whole", entry=described)
    fetch(card)["a.txt"].unlink()
    server.bodies["/whole/a.txt"] = b"a new edition"
    with pytest.raises(RecbenchError, match=rf"has 13 bytes, expected {len(CONTENT)}"):
        fetch(card)
    assert fetch(card, force=True)["a.txt"].read_bytes() == b"a new edition"
    assert verify(card) == []


def test_corrupt_record(server, home):
    card = card_at(server, "whole", entry=described)
    fetch(card)
    (home / "datasets/sample/1/checksums.json").write_text("{")
    with pytest.raises(RecbenchError, match=r"checksums.json is corrupt; delete it"):
        fetch(card)


@pytest.mark.parametrize("access", ["login", "agreement", "open"])
def test_files_that_only_the_user_can_get(home, monkeypatch, access):
    card = make_card({"a.txt": CardFile()}, access=access, obtain="ask the authors for data.zip.")
    folder = home / "datasets/sample/1"
    match = rf"to get it by hand: ask the authors for data.zip; put a.txt in the folder {folder} or <mirror>/sample$"
    with pytest.raises(RecbenchError, match=match):
        fetch(card)
    monkeypatch.setenv("RECBENCH_MIRROR", str(home.parent / "mirror"))
    with pytest.raises(RecbenchError, match=rf"in the folder {folder} or {home.parent}/mirror/sample$"):
        fetch(card)


def test_files_placed_by_hand(home, caplog):
    card = make_card({"a.txt": CardFile()}, access="login", obtain="log in")
    path = home / "datasets/sample/1/a.txt"
    path.parent.mkdir(parents=True)
    for content, message in ((b"", "is empty"), (PAGE, "is a web page, not the file")):
        path.write_bytes(content)
        with pytest.raises(RecbenchError, match=f"the cached file {path} {message}; put the right file there"):
            fetch(card)
        assert verify(card) == [f"{path} {message}"]
    path.write_bytes(CONTENT)
    assert fetch(card, offline=True) == {"a.txt": path}
    assert "knows no checksum" in caplog.text
    path.write_bytes(b"a new edition")
    with pytest.raises(RecbenchError, match=r"put the right file there, or .* --force`, which accepts it as it is now"):
        fetch(card)
    fetch(card, force=True)
    assert verify(card) == []
    assert path.read_bytes() == b"a new edition"


def test_wrong_file_placed_by_hand_is_never_accepted(home):
    card = make_card({"a.txt": known()}, access="login", obtain="log in")
    path = home / "datasets/sample/1/a.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[::-1])
    for force in (False, True):
        with pytest.raises(RecbenchError, match="has sha256"):
            fetch(card, force=force)
    path.write_bytes(CONTENT)
    assert fetch(card) == {"a.txt": path}


# Files in archives.


def zipped(**members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name, value in members.items():
            file.writestr(f"data/{name}.txt", value)
    return content.getvalue()


def tarred():
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as file:
        info = tarfile.TarInfo("data/a.txt")
        info.size = len(CONTENT)
        file.addfile(info, io.BytesIO(CONTENT))
    return content.getvalue()


ZIP = zipped(a=CONTENT, b=b"other")


def in_archive(urls=(), *, archive=described, member=known):
    files = {
        "data.zip": archive(urls=urls),
        "a.txt": member(archive="data.zip", member="data/a.txt"),
        "b.txt": known(b"other", archive="data.zip", member="data/b.txt"),
    }
    return make_card(files, read="a.txt")


def test_archive_is_fetched_once_and_goes_when_all_is_out(server, home):
    server.bodies["/whole/data.zip"] = ZIP
    card = in_archive([f"{server.url}/whole/data.zip"])
    assert set(fetch(card, ["a.txt"])) == {"a.txt"}
    # One more file of the card is in it.
    assert files_in(home) == LOCK | {"datasets/sample/1/a.txt", "datasets/sample/1/data.zip"}
    assert verify(card) == [f"{home}/datasets/sample/1/b.txt is missing"]
    for path in fetch(card, force=True).values():
        assert path.read_bytes() == (CONTENT if path.name == "a.txt" else b"other")
    assert files_in(home) == LOCK | {"datasets/sample/1/a.txt", "datasets/sample/1/b.txt"}
    assert verify(card) == []
    assert len(server.seen) == 2
    assert set(fetch(card)) == {"a.txt", "b.txt"}
    assert len(server.seen) == 2


def test_archive_that_is_asked_for_stays(server):
    server.bodies["/whole/data.zip"] = ZIP
    paths = fetch(in_archive([f"{server.url}/whole/data.zip"]), ["a.txt", "b.txt", "data.zip"])
    assert all(path.is_file() for path in paths.values())


def test_archive_placed_by_hand_stays(home):
    folder = home / "datasets/sample/1"
    folder.mkdir(parents=True)
    (folder / "data.zip").write_bytes(ZIP)
    card = in_archive()
    assert fetch(card, offline=True)["a.txt"].read_bytes() == CONTENT
    fetch(card, force=True)
    assert (folder / "data.zip").read_bytes() == ZIP
    assert cached(card)


@pytest.mark.parametrize("packed", [False, True])
def test_archive_in_the_mirror_goes_before_urls(server, monkeypatch, tmp_path, packed):
    folder = tmp_path / "mirror/sample"
    folder.mkdir(parents=True)
    if packed:
        (folder / "data.zip.xz").write_bytes(lzma.compress(ZIP))
    else:
        (folder / "data.zip").write_bytes(ZIP)
    monkeypatch.setenv("RECBENCH_MIRROR", str(folder.parent))
    assert fetch(in_archive([f"{server.url}/whole/data.zip"]))["a.txt"].read_bytes() == CONTENT
    (folder / "a.txt").write_bytes(b"not the file, so the archive is tried")
    assert fetch(in_archive([f"{server.url}/whole/data.zip"]), force=True)["a.txt"].read_bytes() == CONTENT
    assert server.seen == []


HOSTILE = {
    "broken": ZIP[:-30],
    "other": zipped(a=CONTENT[::-1], b=b"other"),
    "without": zipped(b=b"other"),
    "bomb": zipped(a=CONTENT + b"x", b=b"other"),
    "escape": zipped(a=CONTENT, b=b"other", **{"../../../escaped": b"x"}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_bad_archive_is_dropped_for_the_next_one(server, home, name):
    server.bodies |= {f"/whole/{name}": HOSTILE[name], "/whole/good": ZIP}
    card = in_archive([f"{server.url}/whole/{name}", f"{server.url}/whole/good"])
    assert fetch(card)["a.txt"].read_bytes() == CONTENT
    assert files_in(home) == LOCK | {"datasets/sample/1/a.txt", "datasets/sample/1/b.txt"}
    assert not list(home.parent.rglob("escaped*"))


@pytest.mark.parametrize("name", HOSTILE)
def test_bad_archive_alone_is_an_error(server, home, name):
    server.bodies[f"/whole/{name}"] = HOSTILE[name]
    with pytest.raises(RecbenchError, match=r"cannot get a.txt .*its archive data.zip \("):
        fetch(in_archive([f"{server.url}/whole/{name}"]))
    assert files_in(home) == LOCK


def test_archive_with_a_known_checksum_is_downloaded_once(server):
    server.bodies |= {"/whole/1": HOSTILE["without"], "/whole/2": HOSTILE["without"]}
    card = in_archive(
        [f"{server.url}/whole/1", f"{server.url}/whole/2"], archive=lambda **f: known(HOSTILE["without"], **f)
    )
    with pytest.raises(RecbenchError, match=r"has no member 'data/a\.txt'"):
        fetch(card)
    assert len(server.seen) == 1


def test_nested_and_single_compressed_archives(server, home):
    server.bodies |= {"/whole/x": gzip.compress(CONTENT), "/whole/y": zipped(inner=tarred())}
    files = {
        "a.gz": CardFile(urls=[f"{server.url}/whole/x"]),
        "a.txt": known(archive="a.gz"),
        "outer.zip": CardFile(urls=[f"{server.url}/whole/y"]),
        "inner.tar.gz": CardFile(archive="outer.zip", member="data/inner.txt"),
        "b.txt": CardFile(archive="inner.tar.gz", member="data/a.txt"),
    }
    card = make_card(files, read="a.txt")
    paths = fetch(card)
    assert {name: path.read_bytes() for name, path in paths.items()} == {"a.txt": CONTENT, "b.txt": CONTENT}
    assert checksums(card)["b.txt"] == known().sha256
    assert files_in(home) == LOCK | {f"datasets/sample/1/{name}" for name in ("a.txt", "b.txt", "checksums.json")}


def test_only_named_files_are_fetched(server):
    files = {name: known(urls=[f"{server.url}/whole/{name}"]) for name in ("a.txt", "b.txt")}
    assert set(fetch(make_card(files), ["b.txt"])) == {"b.txt"}
    assert server.seen == [("/whole/b.txt", None)]
    with pytest.raises(UsageError, match=r"unknown file 'c.txt'.*of the dataset sample"):
        fetch(make_card(files), ["c.txt"])


def test_interrupt_by_the_user_keeps_the_beginning(server, home, monkeypatch):
    read, chunks = module._read, []

    def interrupted(response, size):
        chunks.append(read(response, 1000))
        if len(chunks) == 5:
            raise KeyboardInterrupt
        return chunks[-1]

    monkeypatch.setattr(module, "_read", interrupted)
    card = card_at(server, "ranges")
    with pytest.raises(KeyboardInterrupt):
        fetch(card)
    monkeypatch.setattr(module, "_read", read)
    have = (home / "datasets/sample/1/a.txt.part").stat().st_size
    assert have > 0
    assert fetch(card)["a.txt"].read_bytes() == CONTENT
    assert server.seen[-1] == ("/ranges/a.txt", f"bytes={have}-")


def test_full_disk_is_not_the_sources_fault(server, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_receive", full)
    with pytest.raises(RecbenchError, match=r"cannot use the cache folder .*No space left.*free space on its disk"):
        fetch(card_at(server, "whole"))
