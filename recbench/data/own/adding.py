"""Make a card for files of the user's own: infer their form, count them through the readers, keep them in the cache."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import polars as pl
import yaml
from pydantic import TypeAdapter, ValidationError

from recbench import errors, resources
from recbench.data.cards import Card, ColumnType, Name, card_names
from recbench.data.own.guessing import ROLES, Guess, guess
from recbench.data.protocols.encoding import Dictionary
from recbench.data.readers import read_batches
from recbench.data.statistics import TRIPLE, VALUES
from recbench.errors import RecbenchError, UsageError

_IDS = ROLES.keys() - {"timestamp", *VALUES}
"""Columns whose distinct values are counted."""
_CHUNK = 1 << 20
_TABLE_OF_SUFFIX = {".inter": "interactions", ".user": "users", ".item": "items", ".kg": "triples", ".link": "links"}
_PARTS = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid", "test": "test"}
_COLUMN = rf"\w+(:({'|'.join(map(re.escape, get_args(ColumnType)))}))?"
# What every card has to have and own data have not.
_OWN = {"citation": "own data"}


@dataclass(frozen=True)
class AddedColumn:
    """How one column of a file is read; ``table``, ``name`` and ``type`` are empty where it is left out."""

    file: str
    source: str
    table: str
    name: str
    type: str


@dataclass(frozen=True)
class Added:
    """A new card, the file it was written to, and the columns it was made of."""

    card: Card
    path: Path
    columns: list[AddedColumn]


def parse_columns(assignments: Iterable[str]) -> dict[str, str]:
    """Return column of the file -> ``name`` or ``name:type`` from texts such as ``uid=user`` and ``age=age:number``.

    Raises:
        UsageError: a text of another form.
    """
    columns = {}
    for assignment in assignments:
        raw, _, target = assignment.rpartition("=")
        if not raw or not re.fullmatch(_COLUMN, target):
            raise UsageError(
                f"'{assignment}' is not understood; expected FILECOLUMN=NAME or FILECOLUMN=NAME:TYPE, the type one of "
                f"{', '.join(get_args(ColumnType))}"
            )
        columns[raw] = target
    return columns


def add(
    paths: Sequence[Path],
    *,
    name: str | None = None,
    title: str | None = None,
    licence: str | None = None,
    columns: Mapping[str, str] | None = None,
    force: bool = False,
) -> Added:
    """Make ``datasets/<name>.yaml`` in the working folder, and put the files where ``fetch`` finds them.

    The card's version is a digest of the files, so other bytes never take the place of those that something was made
    of. If anything fails, neither the card nor any file is there.

    Args:
        paths: the files.
        name: of the dataset; default what all files are called without their suffix, else their folder's name.
        title: default the name.
        licence: default "not stated".
        columns: column of a file -> ``name`` or ``name:type``, for every file that has it; all others are guessed.
        force: replace a card of that name.

    Raises:
        UsageError: a name that is not allowed or is taken, a file that is not there, columns that cannot be told apart.
        RecbenchError: a file cannot be read as what it seems to be, or something cannot be written.
    """
    given = columns or {}
    stored = _stored(paths)
    name = _name(paths, name)
    if name in card_names() and not force:
        raise UsageError(f"there is a card of the dataset '{name}'; give another --name, or --force to replace it here")
    with _explained():
        guesses = {file: guess(path, given) for file, path in stored.items()}
        for column in given:
            if not any(column in guessed.columns for guessed in guesses.values()):
                known = {raw for guessed in guesses.values() for raw in guessed.columns}
                raise errors.unknown("column", column, known, hint="of the files, named by --column")
        tables = _tables(guesses)
        content = {
            "name": name,
            "version": "0",
            "title": title or name,
            "licence": licence or "not stated",
            **_OWN,
            "verified": "described",
            "basis": "Sizes, checksums and counts are those of the files added; their form was inferred from them.",
            "obtain": "The files added, each put into the cache folder; or add them again: recbench data add",
            "files": {file: {} for file in stored},
            "tables": {
                table: {"file": file, **guesses[file].reader, "columns": guesses[file].columns}
                for table, file in tables.items()
            },
        }
        statistics = _counted(Card.model_validate(content), stored)
        card, path = _kept(content, stored, statistics)
    return Added(card, path, list(_columns(card, tables, guesses)))


def _stored(paths: Sequence[Path]) -> dict[str, Path]:
    """Return the name in the cache -> path of each file."""
    stored: dict[str, Path] = {}
    for path in paths:
        if not path.is_file():
            raise UsageError(f"{path} {'is not a file' if path.exists() else 'does not exist'}")
        if not path.stat().st_size:
            raise UsageError(f"{path} is empty")
        file = re.sub(r"[^\w.-]+", "_", path.name).lstrip("._-") or "data"
        if file in stored:
            raise UsageError(f"{stored[file]} and {path} have the same name; rename one of them")
        stored[file] = path
    return stored


def _name(paths: Sequence[Path], given: str | None) -> str:
    stems = {path.name.lstrip(".").partition(".")[0] for path in paths}
    name = given or (stems.pop() if len(stems) == 1 else paths[0].resolve().parent.name)
    name = name if given else re.sub(r"[^\w+-]+", "-", name).strip("-_+").lower()
    try:
        return TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise UsageError(
            f"'{name}' cannot be the name of a dataset; expected letters, digits and . _ + -, a letter or digit first: "
            "give one with --name"
        ) from None


def _tables(guesses: Mapping[str, Guess]) -> dict[str, str]:
    """Return table -> file: by what the columns are, by train/valid/test in the names of several logs."""
    kinds = {file: _TABLE_OF_SUFFIX.get(guessed.suffix) or _kind(guessed) for file, guessed in guesses.items()}
    tables: dict[str, str] = {}
    for file, kind in kinds.items():
        alike = [other for other in kinds if kinds[other] == kind]
        words = re.split(r"[^a-z]+", file.lower())
        part = next((_PARTS[word] for word in words if word in _PARTS), None)
        table = kind
        if len(alike) > 1:
            table = part if part and part not in tables else re.sub(r"[^\w-]+", "_", file)
        tables[table] = file
    return tables


def _kind(guessed: Guess) -> str:
    names = {target.partition(":")[0] for target in guessed.columns.values()}
    if set(TRIPLE) <= names:
        return "triples"
    if "entity" in names:
        return "links"
    if "label" in names or len(names & {"user", "session", "item"}) > 1 or "session" in names:
        return "interactions"
    return "users" if "user" in names else "items"


def _counted(card: Card, files: Mapping[str, Path]) -> dict[str, int]:
    """Read all tables, and count their rows and the distinct ids in them."""
    statistics = {}
    for table in card.tables:
        dictionaries: dict[str, Dictionary] = {}
        statistics[table] = 0
        for batch in read_batches(card, table, files):
            statistics[table] += batch.height
            for name in [name for name in batch.columns if name in _IDS]:
                ids = batch[name].explode().drop_nulls() if isinstance(batch.schema[name], pl.List) else batch[name]
                dictionaries.setdefault(name, Dictionary()).encode(ids)
        if not statistics[table]:
            raise RecbenchError(f"the table {table} has no rows")
        statistics |= {f"{table}.{name}": len(ids.values()) for name, ids in dictionaries.items()}
    return statistics


def _kept(content: dict[str, Any], files: Mapping[str, Path], statistics: dict[str, int]) -> tuple[Card, Path]:
    """Copy the files into the cache and write the card; what can fail is done in places that nothing reads."""
    cache = resources.home() / "datasets"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".add-", dir=cache) as scratch:
        entries = {file: _copy(path, Path(scratch, file)) for file, path in files.items()}
        content = content | {"verified": "counted", "files": entries, "statistics": statistics}
        content["version"] = Card.model_validate(content).sha256[:12]
        card = Card.model_validate(content)
        path = Path("datasets", f"{card.name}.yaml")
        path.parent.mkdir(exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            part.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100), encoding="utf-8")
            folder = cache / card.name / card.version
            folder.mkdir(parents=True, exist_ok=True)
            for file in files:
                Path(scratch, file).replace(folder / file)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    return card, path


def _copy(source: Path, target: Path) -> dict[str, Any]:
    """Copy a file, and return its size and checksum."""
    digest = hashlib.sha256()
    with source.open("rb") as reading, target.open("wb") as writing:
        while chunk := reading.read(_CHUNK):
            digest.update(chunk)
            writing.write(chunk)
    return {"bytes": target.stat().st_size, "sha256": digest.hexdigest()}


def _columns(card: Card, tables: Mapping[str, str], guesses: Mapping[str, Guess]) -> Iterator[AddedColumn]:
    for table, file in tables.items():
        types = card.tables[table].types  # type: ignore[union-attr]  # no table of an own card is borrowed
        for raw, column in types.items():
            yield AddedColumn(file, raw, table, column.name, column.type)
        for raw in guesses[file].left_out:
            yield AddedColumn(file, raw, "", "", "")


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what the disk refuses into a sentence."""
    try:
        yield
    except OSError as error:
        raise RecbenchError(
            f"cannot add the dataset: {error.filename or 'the disk'}: {error.strerror or error}; the cache is "
            f"{resources.home()}, the card is written to the folder datasets here"
        ) from error
