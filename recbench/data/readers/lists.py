"""Lists of ids and values: LibSVM text, adjacency lists, JSON, and simplices."""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recbench.data.cards import AdjacencyTable, JsonTable, LibsvmTable, SimplicesTable
from recbench.data.readers.block import Block, require
from recbench.data.readers.text import TextBlock, text_blocks
from recbench.errors import RecbenchError

_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_PAIR = rf"[0-9]+:{_NUMBER}"
_LIBSVM_LINE = rf"^{_NUMBER}(?:[ \t]+{_PAIR})*[ \t]*(?:#.*)?$"

# The types of single values that make a column of a type; the first that fits is taken.
_SCALARS: list[tuple[type[pl.DataType], frozenset[type]]] = [
    (pl.Boolean, frozenset({bool, type(None)})),
    (pl.String, frozenset({str, type(None)})),
    (pl.Int64, frozenset({int, type(None)})),
    (pl.Float64, frozenset({float, int, type(None)})),
]


def split_lines(block: TextBlock) -> pl.Series:
    """Return the lines of a block as text."""
    return pl.Series([block.data[:-1].decode()]).str.split("\n").explode()


def read_libsvm(paths: Sequence[Path], spec: LibsvmTable) -> Iterator[Block]:
    """Read LibSVM or libFM text: ``label id:value id:value ... # comment``.

    Columns: ``label`` and ``features`` (text as it stands), ``values`` (numbers), and ``1``, ``2``, ... the id of each
    pair where all lines have the same number of pairs. Source: Chang & Lin, ACM TIST 2011; Rendle, ACM TIST 2012.

    Raises:
        RecbenchError: as ``text_blocks``; a line of another form; where the id of a pair is wanted, a line that has not
            as many pairs as the first one.
    """
    positions = [name for name in spec.columns if name.isdecimal()]
    for path in paths:
        width = None
        for block in text_blocks(path):
            lines = split_lines(block)
            valid = lines.str.contains(_LIBSVM_LINE)
            if not valid.all():
                row = _first(~valid)
                raise RecbenchError(f"{path}, line {block.first_line + row}: {_libsvm_fault(lines[row])}")
            if b"#" in block.data:
                lines = lines.str.replace("#.*", "")
            if positions:
                width = _check_pairs(path, block.first_line, lines, width)
            names = ["label", "features", "values", *(str(number) for number in range(1, (width or 0) + 1))]
            require(f"{path}, line {block.first_line}", spec.columns, names)
            yield Block(_libsvm_columns(lines, spec.columns), block.first_line, path)


def _libsvm_columns(lines: pl.Series, wanted: Collection[str]) -> pl.DataFrame:
    # The form of the lines is known: a colon stands between an id and a value, and nowhere else.
    line = pl.col("line")
    columns = {"label": line.str.extract(r"^(\S+)")}
    columns["values"] = line.str.extract_all(r":\S+").list.eval(pl.element().str.slice(1).cast(pl.Float64))
    columns["features"] = line.str.extract_all("[0-9]+:").list.eval(pl.element().str.strip_suffix(":"))
    pairs = {name: pl.col("features").list.get(int(name) - 1) for name in wanted if name.isdecimal()}
    frame = lines.to_frame("line").lazy().with_columns(**columns)
    return frame.with_columns(**pairs).select(*wanted).collect()


def _check_pairs(path: Path, first_line: int, lines: pl.Series, width: int | None) -> int:
    """Check that every line has ``width`` pairs, or as many as the first line; return how many."""
    pairs = lines.str.count_matches(":", literal=True)
    expected = int(pairs[0]) if width is None else width
    wrong = pairs != expected
    if wrong.any():
        row = _first(wrong)
        raise RecbenchError(
            f"{path}, line {first_line + row}: {pairs[row]} pairs, expected {expected} as in line 1; where the number "
            "changes, the card takes the columns features and values"
        )
    return expected


def _libsvm_fault(line: str) -> str:
    """Say what is wrong with a line."""
    fields = line.partition("#")[0].split()
    if not fields:
        return "no label, expected `label id:value ...`"
    if not re.fullmatch(_NUMBER, fields[0]):
        return f"the label is '{fields[0]}', expected a number"
    wrong = next((field for field in fields[1:] if not re.fullmatch(_PAIR, field)), line)
    if wrong.startswith("qid:"):
        return f"'{wrong}': query ids are not read; remove them"
    return f"'{wrong}', expected `id:value` with a whole number and a number"


def read_adjacency(paths: Sequence[Path], spec: AdjacencyTable) -> Iterator[Block]:
    """Read adjacency lists, one user a line: columns ``user``, ``item``, one row for each item.

    The first entry of a line is the user, the number of items that follow, or an item (``spec.first``); in the last
    two cases the user is the line's number in its file, from 0. A user without items gives no rows.

    Raises:
        RecbenchError: as ``text_blocks``; a line without entries, or a number of items that is not the one announced.
    """
    for path in paths:
        require(path, spec.columns, ("user", "item"))
        for block in text_blocks(path):
            entries = split_lines(block).str.extract_all(r"\S+")
            empty = entries.list.len() == 0
            if empty.any():
                line = block.first_line + _first(empty)
                what = {"user": "a user and items", "count": "a number and as many items", "item": "items"}[spec.first]
                raise RecbenchError(f"{path}, line {line}: an empty line, expected {what}")
            items = entries if spec.first == "item" else entries.list.slice(1)
            if spec.first == "count":
                _check_counts(path, block.first_line, entries.list.first(), items.list.len())
            lines = np.arange(block.first_line, block.first_line + block.lines)
            users = entries.list.first() if spec.first == "user" else pl.Series(lines - 1)
            sizes = items.list.len().to_numpy()
            frame = pl.DataFrame({"user": users, "item": items}).filter(sizes > 0).explode("item")
            yield Block(frame.select(*spec.columns), None, path, np.repeat(lines, sizes))


def _check_counts(path: Path, first_line: int, announced: pl.Series, found: pl.Series) -> None:
    wrong = (announced.cast(pl.UInt32, strict=False) != found).fill_null(True)
    if wrong.any():
        row = _first(wrong)
        raise RecbenchError(
            f"{path}, line {first_line + row}: {found[row]} items follow, but the line begins with '{announced[row]}'"
        )


def read_json(paths: Sequence[Path], spec: JsonTable) -> Iterator[Block]:
    """Read files of one JSON value each; numbers stay the text that they are in the file.

    Columns: ``row`` and ``value`` of a list, ``key`` and ``value`` of an object, one row for each value or, where the
    values are lists, for each of their entries; with ``spec.fields`` one row for each key, and columns for the entries.

    Raises:
        RecbenchError: as ``text_blocks``; text that is not JSON (RFC 8259) or has a key twice in one object, or a value
            of another structure.
    """
    for path in paths:
        text = b"".join(block.data for block in text_blocks(path)).decode()
        value = _parsed_json(path, text)
        for depth, key in enumerate(spec.path):
            if not isinstance(value, dict) or key not in value:
                raise RecbenchError(f"{path}: {_at(spec.path[:depth])} has no key '{key}', expected an object with it")
            value = value[key]
        columns = nested(path, value, len(text)) if spec.fields is None else _json_fields(path, value, spec.fields)
        require(path, spec.columns, columns)
        yield Block(pl.DataFrame(columns).select(*spec.columns), None, path)


def _parsed_json(path: Path, text: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise RecbenchError(f"{path}: {constant}, expected a number of JSON, which is finite")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise RecbenchError(f"{path}: the key '{twice}' is twice in one object")
        return value

    try:
        return json.loads(text, parse_int=str, parse_float=str, parse_constant=refuse, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise RecbenchError(f"{path}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from error
    except RecursionError as error:
        raise RecbenchError(f"{path}: lists or objects inside each other without end, expected a few levels") from error


def _at(keys: Sequence[str]) -> str:
    return f"the value at {'.'.join(keys)}" if keys else "the file"


def _json_fields(path: Path, value: Any, fields: Sequence[str]) -> dict[str, pl.Series]:
    if not isinstance(value, dict):
        raise RecbenchError(f"{path}: {_named(value)}, expected an object of lists of {len(fields)} entries")
    wrong = next((key for key, entry in value.items() if type(entry) is not list or len(entry) != len(fields)), None)
    if wrong is not None:
        raise RecbenchError(f"{path}: '{wrong}' has {_named(value[wrong])}, expected a list of {len(fields)} entries")
    entries = zip(*value.values(), strict=True) if value else [()] * len(fields)
    columns = {"key": scalars(path, list(value))}
    return columns | {field: scalars(path, list(column)) for field, column in zip(fields, entries, strict=True)}


def nested(path: Path, value: Any, size: int) -> dict[str, pl.Series]:
    """Return the columns of a list (``row``, ``value``) or of a dict (``key``, ``value``).

    Args:
        path: the file, for messages.
        value: a list, tuple or dict, whose values are all lists (one row for each entry) or all single values.
        size: bytes of the file. A file that refers to one list over and over could stand for more values than fit
            anywhere; one with more values than bytes is refused.

    Raises:
        RecbenchError: a value of another structure.
    """
    if isinstance(value, dict):
        name, keys, values = "key", scalars(path, list(value)), tuple(value.values())
    elif isinstance(value, (list, tuple)):
        name, keys, values = "row", pl.Series(np.arange(len(value))), tuple(value)
    else:
        raise RecbenchError(f"{path}: {_named(value)}, expected a list or an object")
    types = set(map(type, values))
    if not types & {list, tuple}:
        return {name: keys, "value": scalars(path, values)}
    if not types <= {list, tuple}:
        wrong = next(position for position, entry in enumerate(values) if not isinstance(entry, (list, tuple)))
        raise RecbenchError(
            f"{path}: the {name} '{keys[wrong]}' has {_named(values[wrong])}, expected a list as others"
        )
    sizes = np.fromiter(map(len, values), dtype=np.int64, count=len(values))
    if sizes.sum() > size:
        raise RecbenchError(
            f"{path}: {sizes.sum()} values in {size} bytes: the same list many times, expected each once"
        )
    owners: NDArray[np.int64] = np.repeat(np.arange(len(values)), sizes)
    return {name: keys[owners], "value": scalars(path, list(chain.from_iterable(values)))}


def scalars(path: Path, values: Sequence[Any]) -> pl.Series:
    """Return single values as a column: text, truth values, whole numbers, or numbers; None is null.

    Raises:
        RecbenchError: values of different kinds, or of another kind; whole numbers of more than 64 bits.
    """
    types = set(map(type, values))
    for dtype, kinds in _SCALARS:
        if types <= kinds:
            try:
                return pl.Series(values, dtype=dtype)
            except (ValueError, TypeError, OverflowError) as error:
                raise RecbenchError(
                    f"{path}: a value that is no text in UTF-8 or number of 64 bits: {error}"
                ) from error
    names = ", ".join(sorted(kind.__name__ for kind in types))
    raise RecbenchError(f"{path}: values of the types {names} in one column, expected all text or all numbers")


def _named(value: Any) -> str:
    """Say what a value is, in few words."""
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    return "an object" if isinstance(value, dict) else f"a single value ({type(value).__name__})"


def read_simplices(paths: Sequence[Path], spec: SimplicesTable) -> Iterator[Block]:
    """Read time-stamped simplices: columns ``simplex`` (number from 0), ``node``, ``time``, one row for each node.

    Source: Benson et al., PNAS 2018, arXiv:1802.06916.

    Args:
        paths: the number of nodes of each simplex, the nodes of all simplices one after the other, and the time of
            each simplex; all with one whole number a line.
        spec: the table.

    Raises:
        RecbenchError: as ``text_blocks``; a line that is no whole number, or files that do not fit together.
    """
    if len(paths) != len(_SIMPLICES):
        raise RecbenchError(f"{paths[0]}: {len(paths)} files of simplices, expected {len(_SIMPLICES)}: {_SIMPLICES}")
    require(paths[0], spec.columns, ("simplex", "node", "time"))
    sizes, nodes, times = (_whole_numbers(path) for path in paths)
    wrong = (sizes < 1) | (sizes > nodes.len())
    if wrong.any():
        row = _first(wrong)
        raise RecbenchError(f"{paths[0]}, line {row + 1}: a simplex of {sizes[row]} nodes, expected 1 to {nodes.len()}")
    if sizes.sum() != nodes.len():
        raise RecbenchError(f"{paths[1]}: {nodes.len()} nodes, expected {sizes.sum()}, the sum of {paths[0].name}")
    if times.len() != sizes.len():
        raise RecbenchError(f"{paths[2]}: {times.len()} times, expected {sizes.len()} as in {paths[0].name}")
    simplices = np.repeat(np.arange(sizes.len()), sizes.to_numpy())
    frame = pl.DataFrame({"simplex": simplices, "node": nodes, "time": times[simplices]})
    yield Block(frame.select(*spec.columns), 1, paths[1])


_SIMPLICES = "sizes", "nodes", "times"


def _whole_numbers(path: Path) -> pl.Series:
    """Read a file of one whole number a line."""
    parts = [pl.Series(dtype=pl.Int64)]
    for block in text_blocks(path):
        lines = split_lines(block)
        numbers = lines.cast(pl.Int64, strict=False)
        if numbers.has_nulls():
            row = _first(numbers.is_null())
            raise RecbenchError(f"{path}, line {block.first_line + row}: '{lines[row]}', expected a whole number")
        parts.append(numbers)
    return pl.concat(parts)


def _first(mask: pl.Series) -> int:
    """Return the position of the first true value; there is one."""
    return int(mask.arg_true()[0])
