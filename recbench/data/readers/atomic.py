"""Atomic files of RecBole: tab-separated, with a header of ``name:type``, sequences separated by spaces.

Source: Zhao et al., CIKM 2021, arXiv:2011.01731.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from recbench.data.cards import AtomicTable, Column, ColumnType
from recbench.data.readers.block import Block, require
from recbench.data.readers.separated import header, rows
from recbench.data.readers.text import TextBlock, text_blocks
from recbench.errors import RecbenchError

_TYPES: dict[str, ColumnType] = {
    "token": "token",
    "float": "number",
    "token_seq": "tokens",
    "float_seq": "numbers",
}


def read(paths: Sequence[Path], spec: AtomicTable) -> Iterator[Block]:
    """Read atomic files; all columns are text.

    Raises:
        RecbenchError: as ``text_blocks``; a broken header, or a line that has not as many fields as the header.
    """
    for path in paths:
        names: list[str] = []
        for block in text_blocks(path, encoding=spec.encoding):
            body = block
            if not names:
                kinds, body = _header(path, block)
                names = list(kinds)
            if body.lines:
                yield rows(path, body, names, spec.columns, "\t")
        if not names:
            raise _empty(path)


def types(paths: Sequence[Path], spec: AtomicTable) -> dict[str, Column]:
    """Return column of the file -> name on the card and type in the header, which must be the same in all files.

    A ``float`` of the header may be a ``number?`` of the card.

    Raises:
        RecbenchError: a broken header, a missing column, or another type on the card or in another file.
    """
    found: dict[str, Column] = {}
    for path in paths:
        block = next(text_blocks(path, encoding=spec.encoding), None)
        if block is None:
            raise _empty(path)
        kinds, _ = _header(path, block)
        require(f"{path}, line 1", spec.columns, kinds)
        for raw, target in spec.columns.items():
            name, _, declared = target.partition(":")
            kind = _TYPES[kinds[raw]]
            if (declared, kind) == ("number?", "number"):
                kind = "number?"
            column = Column(name, kind)
            if declared not in {"", kind} or found.setdefault(raw, column) != column:
                raise RecbenchError(
                    f"{path}, line 1: {raw} is {kinds[raw]}, which the card or another file of the table contradicts"
                )
    return found


def _header(path: Path, block: TextBlock) -> tuple[dict[str, str], TextBlock]:
    """Return name -> type as in the header, in order, and the lines after it."""
    fields, body = header(path, block, "\t")
    kinds: dict[str, str] = {}
    for field in fields:
        name, _, kind = field.rpartition(":")
        if kind not in _TYPES or name in kinds:
            raise RecbenchError(
                f"{path}, line 1: the header has '{field}', expected tab-separated name:type with each name once and "
                f"the types {', '.join(_TYPES)}"
            )
        kinds[name] = kind
    return kinds, body


def _empty(path: Path) -> RecbenchError:
    return RecbenchError(f"{path}, line 1: the file is empty, expected a header of name:type")
