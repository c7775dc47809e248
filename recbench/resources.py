"""Where files live: the cards and configs shipped with the package, the user's cache, the mirror."""

import hashlib
import os
from pathlib import Path

import platformdirs

_PACKAGE = Path(__file__).parent


def shipped(*parts: str) -> Path:
    """Return a path under the shipped ``configs`` or ``datasets``.

    A wheel carries them in ``recbench/_data``; a checkout (also an editable install) has them beside the package.
    """
    packaged = _PACKAGE / "_data"
    root = packaged if packaged.is_dir() else _PACKAGE.parent
    return root.joinpath(*parts)


def home() -> Path:
    """Return the cache folder: ``RECBENCH_HOME``, else the platform's user cache folder."""
    chosen = os.environ.get("RECBENCH_HOME")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("recbench")


def mirror() -> str | None:
    """Return the folder or URL that is looked in before upstream (``RECBENCH_MIRROR``), if one is set."""
    return os.environ.get("RECBENCH_MIRROR") or None


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
