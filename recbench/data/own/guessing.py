"""Guess the form of a user's own file: reader, separator, header, encoding, and what its columns are."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import polars as pl

from recbench.data.cards import NUMBERS, LibsvmTable
from recbench.data.readers.lists import read_libsvm
from recbench.data.readers.separated import header, rows
from recbench.data.readers.text import TextBlock, text_blocks
from recbench.errors import RecbenchError, UsageError

ROLES = {
    "user": "user userid uid username reviewerid customerid visitorid",
    "item": "item itemid iid movieid asin parentasin productid bookid artistid videoid newsid articleid isbn",
    "rating": "rating ratings stars score overall",
    "timestamp": "timestamp time ts date unixtime unixreviewtime",
    "label": "label click clicked isclick target",
    "session": "session sessionid",
    "head": "head headid",
    "relation": "relation relationid",
    "tail": "tail tailid",
    "entity": "entity entityid",
}
"""Role -> names of columns that have it, in lower case, letters and digits alone."""
_ROLE_OF = {name: role for role, names in ROLES.items() for name in names.split()}
_TELLING = ROLES.keys() - {"rating", "timestamp"}
"""Roles of which a table has at least one."""

Kind = Literal["whole", "number?", "token", "tokens", "numbers"]
"""The type of a column; ``whole`` numbers are tokens unless the column's role is a number: most are ids and codes."""

_ATOMIC_KINDS: dict[str, Kind] = {"token": "token", "float": "number?", "token_seq": "tokens", "float_seq": "numbers"}
_ATOMIC_SUFFIXES = frozenset({".inter", ".user", ".item", ".kg", ".link", ".net"})
_COMPRESSED = frozenset({".gz", ".bz2", ".xz"})
# Of equally many fields the first wins: within fields the later ones are the more usual.
_SEPARATORS = ("\t", "::", ",", ";", "|", " ")
_WHOLE = r"^\s*[+-]?\d+\s*$"
_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
_LIBSVM_LINE = rb"[^\s:]+([ \t]+\d+:\S+)+\s*"
_PARQUET_MAGIC = b"PAR1"


class Guess(NamedTuple):
    """What a file seems to be."""

    reader: dict[str, Any]
    """The table's keys on the card but for ``file`` and ``columns``."""
    columns: dict[str, str]
    """Column of the file -> ``name`` or ``name:type`` in the table."""
    left_out: list[str]
    """Columns of the file that no reader takes."""
    suffix: str
    """Of the file's name, without that of a compression."""


class _Form(NamedTuple):
    reader: dict[str, Any]
    kinds: dict[str, Kind | None]
    """Of each column; None for one that no reader takes."""
    example: tuple[str, ...] = ()
    """The first row, where the columns have no names but numbers."""


def guess(path: Path, given: Mapping[str, str]) -> Guess:
    """Guess how a file is read.

    Args:
        path: the file. Its beginning is looked at (a block of a text, the schema of Parquet); a text is read whole,
            once, for its encoding.
        given: column of the file -> ``name`` or ``name:type``; goes before any guess.

    Raises:
        UsageError: two columns have the same role, or no column says what the table is about.
        RecbenchError: the file cannot be read, or is in no form that is known here.
    """
    suffix = next((suffix.lower() for suffix in reversed(path.suffixes) if suffix.lower() not in _COMPRESSED), "")
    form = _form(path, suffix, given)
    kinds = {raw: kind for raw, kind in form.kinds.items() if raw and (kind or raw in given)}
    columns = _named(path, kinds, given)
    if not {name.partition(":")[0] for name in columns.values()} & _TELLING:
        shown = (
            [f"{raw} ('{value}')" for raw, value in zip(kinds, form.example, strict=True)] if form.example else kinds
        )
        some = " ".join(f"--column {raw}={role}" for raw, role in zip(kinds, ("user", "item"), strict=False))
        raise UsageError(
            f"{path}: no column is known to be a user, an item or a label; it has {', '.join(shown)}; say "
            f"what they are, as in {some}"
        )
    return Guess(form.reader, columns, [raw or "(no name)" for raw in form.kinds if raw not in kinds], suffix)


def _named(path: Path, kinds: Mapping[str, Kind | None], given: Mapping[str, str]) -> dict[str, str]:
    """Return column of the file -> name and type in the table."""
    columns = {raw: given[raw] for raw in kinds if raw in given}
    taken = {name.partition(":")[0] for name in columns.values()}
    roles = {raw: role for raw, kind in kinds.items() if raw not in given and (role := _role(raw, kind)) not in taken}
    for role, count in Counter(filter(None, roles.values())).items():
        if count > 1:
            same = [raw for raw, other in roles.items() if other == role]
            raise UsageError(
                f"{path}: {' and '.join(same)} may each be the {role}; say which, as in --column {same[0]}={role}"
            )
    taken |= {role for role in roles.values() if role}
    for raw, kind in kinds.items():
        if raw in given:
            continue
        name = roles.get(raw) or _free(_plain(raw, kind), taken)
        taken.add(name)
        columns[raw] = name if kind in {"whole", "token"} or name in NUMBERS else f"{name}:{kind}"
    return {raw: columns[raw] for raw in kinds}


def _role(raw: str, kind: Kind | None) -> str | None:
    """Return the role that a column's name says, if its type allows it."""
    role = _ROLE_OF.get(re.sub(r"[\W_]", "", raw).lower())
    return None if role in NUMBERS and kind not in {"whole", "number?"} else role


def _plain(raw: str, kind: Kind | None) -> str:
    """Return the name of a feature: letters, digits and underscores."""
    name = re.sub(r"\W+", "_", raw).strip("_").lower() or "column"
    if name.isdecimal():
        return f"field_{name}"
    return f"{name}_text" if name in NUMBERS and kind not in {"whole", "number?"} else name


def _free(name: str, taken: Collection[str]) -> str:
    """Return the name, with a number behind it if another column has it."""
    names = [name, *(f"{name}_{number}" for number in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken)


def _form(path: Path, suffix: str, given: Mapping[str, str]) -> _Form:
    with path.open("rb") as file:
        magic = file.read(len(_PARQUET_MAGIC))
    if magic == _PARQUET_MAGIC:
        return _parquet(path)
    encoding, head = _text(path)
    first = head.data.partition(b"\n")[0]
    if suffix in _ATOMIC_SUFFIXES:
        return _atomic(path, encoding, head)
    if first.startswith(b"{"):
        return _json_lines(path, head)
    if first.startswith(b"["):
        raise RecbenchError(f"{path}: a JSON list, expected JSON lines: one object a line")
    if re.fullmatch(_LIBSVM_LINE, first):
        return _libsvm(path)
    return _csv(path, encoding, head, given)


def _text(path: Path) -> tuple[str, TextBlock]:
    """Read a text whole, and return its encoding and its first block."""
    for encoding in ("utf-8", "latin-1"):
        try:
            blocks = text_blocks(path, encoding=encoding)
            head = next(blocks, None)
            if head is None:
                raise RecbenchError(f"{path} is empty")
            for _ in blocks:
                pass
        except RecbenchError as error:
            # What is not UTF-8 is Latin-1 or no text at all, which shows in its NUL bytes.
            if not isinstance(error.__cause__, UnicodeDecodeError):
                raise
        else:
            return encoding, head
    raise AssertionError("every byte is Latin-1")


def _parquet(path: Path) -> _Form:
    try:
        schema = pl.read_parquet_schema(path)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise RecbenchError(f"{path}: cannot be read as Parquet ({error}); is it complete?") from error
    return _Form({"reader": "parquet"}, {name: _kind_of(dtype) for name, dtype in schema.items()})


def _json_lines(path: Path, head: TextBlock) -> _Form:
    try:
        schema = pl.read_ndjson(io.BytesIO(head.data), infer_schema_length=None).schema
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise RecbenchError(f"{path}: expected one JSON object a line ({error})") from error
    return _Form({"reader": "json-lines"}, {name: _kind_of(dtype) for name, dtype in schema.items()})


def _kind_of(dtype: pl.DataType) -> Kind | None:
    if dtype.is_integer():
        return "whole"
    if dtype.is_float():
        return "number?"
    if dtype in {pl.String, pl.Boolean, pl.Categorical, pl.Enum, pl.Null}:
        return "token"
    entry = _kind_of(dtype.inner) if isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.DataType) else None
    lists: dict[Kind | None, Kind] = {"whole": "tokens", "token": "tokens", "number?": "numbers"}
    return lists.get(entry)


def _atomic(path: Path, encoding: str, head: TextBlock) -> _Form:
    fields = [field.rpartition(":") for field in header(path, head, "\t")[0]]
    # A type that there is not is the reader's error.
    kinds: dict[str, Kind | None] = {name: _ATOMIC_KINDS.get(kind, "token") for name, _, kind in fields}
    return _Form({"reader": "recbole-atomic"} | _unless_utf8(encoding), kinds)


def _libsvm(path: Path) -> _Form:
    """Where each line has as many pairs and all values are 1, a pair is a field; else features and values are lists."""
    wanted = LibsvmTable(
        reader="libsvm", file=(path.name,), columns={"features": "features:tokens", "values": "values:numbers"}
    )
    head = next(read_libsvm([path], wanted)).frame
    widths = head["features"].list.len().unique()
    if len(widths) == 1 and widths[0] and (head["values"].explode() == 1).all():
        kinds: dict[str, Kind | None] = {"label": "whole"}
        kinds |= {str(position): "token" for position in range(1, widths[0] + 1)}
    else:
        kinds = {"label": "whole", "features": "tokens", "values": "numbers"}
    return _Form({"reader": "libsvm"}, kinds)


def _csv(path: Path, encoding: str, head: TextBlock, given: Mapping[str, str]) -> _Form:
    """Take the separator, with quotes if they hold, that makes the most fields, as many in each line of the head."""
    best: tuple[tuple[str, ...], pl.DataFrame, dict[str, str]] | None = None
    errors: list[tuple[int, RecbenchError]] = []
    for separator in _SEPARATORS:
        occurrences = head.data.partition(b"\n")[0].count(separator.encode())
        for quoted in (True, False) if b'"' in head.data else (False,):
            try:
                first, frame = _parsed(path, encoding, separator, quoted)
            except RecbenchError as error:
                errors.append((occurrences, error))
                continue
            if len(first) > (len(best[0]) if best else 1):
                best = first, frame, {"separator": separator} | ({"quote": '"'} if quoted else {})
            break
    if best is None:
        # The separator that is most in the first line is the one that was meant.
        most, fault = max(errors, key=lambda error: error[0], default=(0, None))
        raise (most and fault) or RecbenchError(f"{path}: one column, expected a table with tabs, commas or the like")
    first, frame, dialect = best
    reader = {"reader": "csv"} | dialect | _unless_utf8(encoding)
    if not _is_header(first, frame, given):
        names = tuple(str(number) for number in range(1, len(first) + 1))
        frame = pl.concat([pl.DataFrame([first], schema=frame.schema, orient="row"), frame])
        return _Form(reader | {"header": list(names)}, _kinds(names, frame), first)
    if twice := [name for name, count in Counter(first).items() if count > 1 and name]:
        raise RecbenchError(f"{path}, line 1: the header has the column '{twice[0]}' more than once")
    return _Form(reader, _kinds(first, frame))


def _parsed(path: Path, encoding: str, separator: str, quoted: bool) -> tuple[tuple[str, ...], pl.DataFrame]:
    """Return the fields of the first line, and the rows of the first block after it as text.

    Raises:
        RecbenchError: the lines have not as many fields each, or quotes are misplaced.
    """
    head = next(text_blocks(path, encoding=encoding, quoted=quoted))
    first, body = header(path, head, separator, quoted)
    if not body.lines:
        raise RecbenchError(f"{path} has one line, expected a header and rows")
    positions = [str(position) for position in range(len(first))]
    return first, rows(path, body, positions, positions, separator, quoted).frame


def _is_header(first: tuple[str, ...], frame: pl.DataFrame, given: Mapping[str, str]) -> bool:
    """Say whether the first line names the columns: no numbers; and a known name, or numbers under a name."""
    if any(not name.isdecimal() and name in first for name in given):
        return True
    if pl.Series(first).str.contains(_NUMBER).any():
        return False
    named = any(re.sub(r"[\W_]", "", field).lower() in _ROLE_OF for field in first)
    return named or any(kind != "token" for kind in _kinds(first, frame).values())


def _kinds(names: tuple[str, ...], frame: pl.DataFrame) -> dict[str, Kind | None]:
    return {name: _kind(values) for name, values in zip(names, frame.iter_columns(), strict=True)}


def _kind(values: pl.Series) -> Kind:
    """Return what all texts are that are not empty."""
    texts = values.filter(values.str.strip_chars() != "")
    if texts.is_empty() or not texts.str.contains(_NUMBER).all():
        return "token"
    return "whole" if texts.str.contains(_WHOLE).all() else "number?"


def _unless_utf8(encoding: str) -> dict[str, str]:
    return {} if encoding == "utf-8" else {"encoding": encoding}
