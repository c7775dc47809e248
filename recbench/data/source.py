"""A dataset's tables, its files fetched when a table is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from recbench.data.cards import BorrowedTable, Card, FileTable, load_card
from recbench.data.files.fetch import checksums, fetch
from recbench.errors import RecbenchError

if TYPE_CHECKING:
    import polars as pl


class Source:
    """The tables of a card."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self._files: dict[str, dict[str, Path]] = {}

    def has(self, table: str) -> bool:
        """Say whether the dataset has a table of that name."""
        return table in self.card.tables

    def columns(self, table: str) -> list[str]:
        """Return the names of a table's columns."""
        _, spec = self.resolve(table)
        return spec.names

    def table(self, name: str) -> pl.DataFrame:
        """Return a whole table."""
        from recbench.data.readers import read_table  # polars is heavy, and prepared data need none

        owner, spec = self.resolve(name)
        return read_table(owner, self._name(name), self._fetched(owner, spec.file))

    def batches(self, name: str, columns: Collection[str]) -> Iterator[pl.DataFrame]:
        """Yield the wanted columns of a table in pieces of bounded size."""
        from recbench.data.readers import read_batches

        owner, spec = self.resolve(name)
        return read_batches(owner, self._name(name), self._fetched(owner, spec.file), columns)

    def resolve(self, table: str) -> tuple[Card, FileTable]:
        """Return the card and the definition of a table, which may be borrowed from another card, which reads files."""
        if table not in self.card.tables:
            raise RecbenchError(
                f"the dataset {self.card.name} has no table '{table}', which the protocol needs; "
                f"it has {', '.join(self.card.tables)}"
            )
        found = self.card.tables[table]
        if not isinstance(found, BorrowedTable):
            return self.card, found
        lender = load_card(found.dataset)
        lent = lender.tables.get(found.table)
        if lent is None or isinstance(lent, BorrowedTable):
            raise RecbenchError(
                f"the table {table} of the dataset {self.card.name} is borrowed from the table {found.table} of "
                f"{lender.name}, which reads no file; borrow one that does"
            )
        return lender, lent

    def sha256(self, tables: Collection[str]) -> str:
        """Digest over the raw files of some tables: equal digests mean equal raw bytes.

        Files whose checksum neither the card nor an earlier fetch knows are fetched first.
        """
        listing = set()
        for table in tables:
            owner, spec = self.resolve(table)
            if any(checksums(owner)[file] is None for file in spec.file):
                self._fetched(owner, spec.file)
            listing |= {f"{owner.name}/{file} {checksums(owner)[file]}" for file in spec.file}
        return hashlib.sha256("\n".join(sorted(listing)).encode()).hexdigest()

    def _fetched(self, owner: Card, files: tuple[str, ...]) -> dict[str, Path]:
        """Return the paths of files; each is compared with its checksum once, since that reads all of it."""
        found = self._files.setdefault(owner.name, {})
        if missing := [file for file in files if file not in found]:
            found |= fetch(owner, missing)
        return found

    def _name(self, table: str) -> str:
        found = self.card.tables[table]
        return found.table if isinstance(found, BorrowedTable) else table
