"""Bring bytes from elsewhere: over HTTP, going on where a download broke off, and from packages, through pip."""

import importlib.metadata
import re
import subprocess
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import cast
from urllib import request
from urllib.error import HTTPError, URLError

from recbench.data.cards import CardFile, PackageSource
from recbench.data.progress import progress, status

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 30.0
_WAIT_SECONDS = (0.0, 1.0, 2.0, 4.0)
"""Before each attempt at one URL."""
HTML = (b"<!doctype html", b"<html")


class SourceError(Exception):
    """One place did not give the file; the next one is tried."""


class BrokenOffError(SourceError):
    """A download did not come to its end; it may be asked for again."""


def may_be_html(name: str) -> bool:
    """Say whether a web page is what is wanted."""
    return name.endswith((".html", ".htm"))


def installed(package: PackageSource, member: str) -> str | None:
    """Return the member's path in the installed distribution, if that is there in the very version named."""
    try:
        distribution = importlib.metadata.distribution(package.name)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = str(distribution.locate_file(member))
    return path if distribution.version == package.version and Path(path).is_file() else None


def download_wheel(package: PackageSource, scratch: Path) -> Path:
    """Download the wheel through pip with the user's own settings; no source archive, for that would run code."""
    requirement = f"{package.name}=={package.version}"
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary=:all:", "--no-input"]
    with status(f"Downloading {requirement}"):
        done = subprocess.run(
            [*pip, "-q", "-d", str(scratch), requirement], capture_output=True, text=True, errors="replace", check=False
        )
    wheel = next(scratch.glob("*.whl"), None)
    if done.returncode or wheel is None:
        complaints = [line for line in done.stderr.splitlines() if line.strip()] or ["pip gave no wheel"]
        raise SourceError(complaints[-1])
    return wheel


def download(url: str, part: Path, expected: CardFile) -> bool:
    """Download to ``part``, going on after what is there; say whether the file was put together from pieces."""
    with progress(url.rpartition("/")[2], expected.bytes) as show:
        for wait in _WAIT_SECONDS:
            time.sleep(wait)
            try:
                return _receive(url, part, expected, show)
            except BrokenOffError as error:
                broken = error
    raise broken


def _receive(url: str, part: Path, expected: CardFile, show: Callable[[int], None]) -> bool:
    """Ask once for what is missing in ``part``; say whether that was appended to what was there."""
    have = part.stat().st_size if part.is_file() else 0
    if have == expected.bytes:
        return True
    if expected.bytes is not None and have > expected.bytes:
        have = 0
    with _opened(url, part, have) as response:
        start, total = _span(response)
        if start not in {0, have}:
            part.unlink(missing_ok=True)
            raise BrokenOffError("sent another part of the file than was asked for")
        if expected.bytes is not None and total not in {None, expected.bytes}:
            raise SourceError(f"has {total} bytes, expected {expected.bytes}")
        if not expected.sha256 and response.headers.get_content_type() == "text/html" and not may_be_html(url):
            raise SourceError("is a web page, not the file")
        total = expected.bytes if total is None else total
        with part.open("ab" if start else "wb") as file:
            # One byte more than expected shows that there is too much; an endless source cannot fill the disk.
            while chunk := _read(response, _CHUNK if total is None else min(_CHUNK, total + 1 - file.tell())):
                file.write(chunk)
                show(file.tell())
            if total is not None and file.tell() < total:
                raise BrokenOffError(f"broke off after {file.tell()} of {total} bytes")
    return start != 0


def _opened(url: str, part: Path, have: int) -> HTTPResponse:
    """Ask for the file from byte ``have`` on; redirections are followed to http and https only."""
    opener = request.OpenerDirector()
    for handler in (
        *(request.ProxyHandler, request.HTTPHandler, request.HTTPSHandler, request.UnknownHandler),
        *(request.HTTPRedirectHandler, request.HTTPErrorProcessor, request.HTTPDefaultErrorHandler),
    ):
        opener.add_handler(handler())
    headers = {"User-Agent": "recbench"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        return cast(HTTPResponse, opener.open(request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS))
    except HTTPError as error:
        error.close()
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            part.unlink()
        elif error.code < 500 and error.code != HTTPStatus.TOO_MANY_REQUESTS:
            raise SourceError(str(error)) from error
        raise BrokenOffError(str(error)) from error
    except URLError as error:
        raise SourceError(str(error.reason)) from error
    except (OSError, HTTPException, ValueError) as error:
        raise BrokenOffError(str(error) or type(error).__name__) from error


def _span(response: HTTPResponse) -> tuple[int | None, int | None]:
    """Return the first byte that is sent and the length of the whole file, None where the server does not say."""
    if response.status != HTTPStatus.PARTIAL_CONTENT:
        return 0, response.length
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    return (int(found[1]), None if found[2] == "*" else int(found[2])) if found else (None, None)


def _read(response: HTTPResponse, size: int) -> bytes:
    try:
        return response.read1(size)
    except (OSError, HTTPException, ValueError) as error:
        raise BrokenOffError(str(error) or type(error).__name__) from error
