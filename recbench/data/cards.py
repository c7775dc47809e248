"""Cards: what a data set is, where each of its files can be had, and how the files become tables."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    HttpUrl,
    NonNegativeInt,
    PositiveInt,
    Tag,
    ValidationError,
    model_validator,
)

from recbench import errors, resources
from recbench.errors import RecbenchError

Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.+-]*$")]
# A relative POSIX path of plain names: it can be joined to the cache folder and never leaves it.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*$")]
# A path inside an archive: only ever compared with the archive's own list, never used as a path.
Member = Annotated[str, Field(pattern=r"^[^/\\][^\\]*$")]
Separator = Annotated[str, Field(min_length=1, max_length=2)]

ColumnType = Literal["token", "number", "number?", "tokens", "numbers"]
"""``number?`` may be missing; ``tokens`` and ``numbers`` are several a row."""
NUMBERS = frozenset({"rating", "label", "timestamp", "weight", "propensity"})
"""Columns with these names are numbers unless the card says otherwise; all others are tokens."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PackageSource(_Strict):
    """A Python distribution whose wheel carries the files."""

    name: Name
    version: Name


class CardFile(_Strict):
    """One raw file; whatever place it comes from, its bytes are these."""

    bytes: PositiveInt | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Both are given where the bytes were seen, and neither where they were not."""
    urls: tuple[HttpUrl, ...] = ()
    archive: FileName | None = None
    """Another file of the card (zip, tar, or one file compressed with gzip, bzip2 or xz) that holds this one."""
    member: Member | None = None
    """Path inside the archive, or inside the wheel of the card's package if no archive is named."""
    extra: bool = False
    """Fetched only when a table that reads it is asked for, or by name."""

    @model_validator(mode="after")
    def _checksum_with_size(self) -> Self:
        if (self.bytes is None) != (self.sha256 is None):
            raise ValueError("bytes and sha256 are given together or not at all")
        return self


class Column(NamedTuple):
    """A column of a table: its name there and its type."""

    name: str
    type: ColumnType


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class Table(_Strict):
    """One table, read from one file or from several with the same columns, one after the other.

    The names of columns are their roles: ``user``, ``item``, ``rating``, ``timestamp``, ``label``, ``session``,
    ``head``, ``relation``, ``tail``, ``entity``, ``propensity``; any other name is a feature.
    """

    file: Annotated[tuple[FileName, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
    columns: dict[Text, Annotated[str, Field(pattern=r"^\w+(:(token|number\??|tokens|numbers))?$")]]
    """Column of the file -> ``name`` or ``name:type`` in the table; columns not named here are dropped."""
    order: Annotated[str, Field(pattern=r"^\w+$")] | None = None
    """Name of a further column with the row's number, where the order of the rows means something."""

    @property
    def types(self) -> dict[str, Column]:
        """Column of the file -> name and type in the table."""
        parsed = {}
        for source, target in self.columns.items():
            name, _, kind = target.partition(":")
            parsed[source] = Column(name, kind or ("number" if name in NUMBERS else "token"))  # type: ignore[arg-type]
        return parsed

    @property
    def names(self) -> list[str]:
        """Names of the columns in the table."""
        return [column.name for column in self.types.values()] + ([self.order] if self.order else [])


class CsvTable(Table):
    """Lines of separated fields: CSV, TSV, ``::`` and others."""

    reader: Literal["csv"]
    separator: Separator = ","
    quote: Literal['"'] | None = None
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    header: tuple[Text, ...] | None = None
    """Names of the fields where the file's first line does not give them."""
    skip_lines: NonNegativeInt = 0
    """Lines before the header or the first row."""
    list_separator: Separator = " "
    """Between the values of ``tokens`` and ``numbers``."""


class ParquetTable(Table):
    """Parquet."""

    reader: Literal["parquet"]


class JsonLinesTable(Table):
    """One JSON object a line; a key that a line lacks is missing there."""

    reader: Literal["json-lines"]


class AtomicTable(Table):
    """Atomic files of RecBole: the types stand in the header and are not repeated on the card."""

    reader: Literal["recbole-atomic"]
    encoding: Literal["utf-8", "latin-1"] = "utf-8"


class LibsvmTable(Table):
    """LibFM and LibSVM text: ``label id:value id:value ...``.

    Columns: ``label``, ``features`` (the ids), ``values``; and where every line has the same number of pairs, ``1``,
    ``2``, ... the id of each pair.
    """

    reader: Literal["libsvm"]


class AdjacencyTable(Table):
    """One line of whitespace-separated ids a user. Columns: ``user``, ``item``, one row for each item.

    ``first`` says what a line begins with: the user's id, the number of items that follow (the user is then the line's
    number, from 0), or an item (the same).
    """

    reader: Literal["adjacency"]
    first: Literal["user", "count", "item"] = "user"


class JsonTable(Table):
    """One JSON value: a list of lists (columns ``row``, ``value``), or an object (columns ``key``, ``value``).

    An object's value that is a list gives one row for each entry, or with ``fields`` one column for each entry.
    """

    reader: Literal["json"]
    path: tuple[Text, ...] = ()
    """Keys that lead to the value inside the file."""
    fields: tuple[Text, ...] | None = None


class MatrixTable(Table):
    """A matrix of numbers, one line a row. Columns: ``row``, ``column``, ``value``; ``matrix`` leaves 0 out."""

    reader: Literal["matrix", "matrix-dense"]


class NpzTable(Table):
    """One two-dimensional array of an ``.npz`` file. Columns: ``0``, ``1``, ... Pickled arrays are not opened."""

    reader: Literal["npz"]
    array: Text


class PickleTable(Table):
    """A pickle that holds nothing but plain containers, numbers, text, and NumPy and SciPy arrays; no code is run.

    Columns: of lists ``row``, ``value``; of a dict of lists ``key``, ``value``; of a matrix ``row``, ``column``,
    ``value`` without zeros; of a vector ``row``, ``value``.
    """

    reader: Literal["pickle"]
    path: tuple[NonNegativeInt | str, ...] = ()
    """Positions and keys that lead to the value inside the file."""


class Hdf5Table(Table):
    """One matrix of an HDF5 file (MATLAB 7.3). Columns: ``row``, ``column``, ``value``, without zeros."""

    reader: Literal["hdf5"]
    dataset: Text
    transposed: bool = False


class SimplicesTable(Table):
    """Three files: sizes, nodes, times. Columns: ``simplex``, ``node``, ``time``, one row for each node."""

    reader: Literal["simplices"]


class BorrowedTable(_Strict):
    """A table of another card."""

    dataset: Name
    table: Text


FileTable = Annotated[
    CsvTable
    | ParquetTable
    | JsonLinesTable
    | AtomicTable
    | LibsvmTable
    | AdjacencyTable
    | JsonTable
    | MatrixTable
    | NpzTable
    | PickleTable
    | Hdf5Table
    | SimplicesTable,
    Field(discriminator="reader"),
]


_READERS: dict[str, type[Table]] = {
    reader: table
    for table in get_args(get_args(FileTable)[0])
    for reader in get_args(table.model_fields["reader"].annotation)
}


def _kind(table: Any) -> str:
    """Return the tag of a table: what a table is checked against is what it looks like, and nothing else."""
    if isinstance(table, Mapping):
        return "borrowed" if "dataset" in table and "reader" not in table else "file"
    return "borrowed" if isinstance(table, BorrowedTable) else "file"


class Card(_Strict):
    """A named, versioned raw data set (``datasets/<name>.yaml``)."""

    name: Name
    version: Name
    title: Text
    licence: Text
    citation: Text
    homepage: HttpUrl | None = None
    verified: Literal["counted", "described"]
    """``counted``: checksums and statistics were computed from the bytes. ``described``: the bytes were never seen."""
    basis: Text
    """What was compared with what, where the figures come from, and what is odd about the data."""
    access: Literal["open", "login", "agreement"] = "open"
    obtain: Text | None = None
    """How to get the files by hand, where no program can fetch them."""
    package: PackageSource | None = None
    files: dict[FileName, CardFile] = Field(min_length=1)
    tables: dict[
        Text,
        Annotated[
            Annotated[FileTable, Tag("file")] | Annotated[BorrowedTable, Tag("borrowed")],
            Discriminator(_kind),
        ],
    ] = Field(min_length=1)
    statistics: dict[Annotated[str, Field(pattern=r"^[\w-]+(\.\w+)?$")], PositiveInt] = {}
    """``table``: its rows; ``table.column``: the distinct values of a column."""

    @property
    def sha256(self) -> str:
        """Digest over the files' names and sha256; where these are known, equal digests mean equal bytes."""
        listing = "".join(f"{name} {self.files[name].sha256}\n" for name in sorted(self.files))
        return hashlib.sha256(listing.encode()).hexdigest()

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        for name, file in self.files.items():
            if file.archive and file.archive not in self.files:
                raise ValueError(f"file '{name}' is in the archive '{file.archive}', which is not among the files")
            if file.member and not (file.archive or self.package):
                raise ValueError(f"file '{name}' names a member, but neither an archive nor the card's package")
        for name, table in self.tables.items():
            for file_name in () if isinstance(table, BorrowedTable) else table.file:
                if file_name not in self.files:
                    raise ValueError(f"table '{name}' reads '{file_name}', which is not among the files")
        for name in self.statistics:
            table_name, _, column = name.partition(".")
            if table_name not in self.tables:
                raise ValueError(f"statistics name '{name}', which is not among the tables")
            counted = self.tables[table_name]
            if column and not isinstance(counted, BorrowedTable) and column not in counted.names:
                raise ValueError(f"statistics name '{name}', which is not among the columns of that table")
        return self

    @model_validator(mode="after")
    def _verified_as_it_says(self) -> Self:
        read = {f for table in self.tables.values() if not isinstance(table, BorrowedTable) for f in table.file}
        unknown = sorted(name for name in read if self.files[name].sha256 is None)
        if self.verified == "counted" and unknown:
            raise ValueError(f"a counted card needs the sha256 of every file that is read; '{unknown[0]}' has none")
        if self.access != "open" and not self.obtain:
            raise ValueError("a dataset behind a login or an agreement needs 'obtain', how to get its files")
        return self


def _folders() -> list[Path]:
    """Return the folders that hold cards: the working folder's own go before the shipped ones."""
    return [Path("datasets"), resources.shipped("datasets")]


def card_names() -> list[str]:
    """Return the names of all data sets that have a card, sorted."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.yaml")})


def load_card(name: str) -> Card:
    """Read and check the card of the data set ``name``: ``datasets/<name>.yaml`` here, else the one shipped.

    Raises:
        UsageError: no such data set, or a key that a card does not have.
        RecbenchError: the file is not YAML, or a value is missing or impossible.
    """
    if name not in card_names():
        raise errors.unknown("dataset", name, card_names(), hint="recbench data list shows them")
    path = next(path for folder in _folders() if (path := folder / f"{name}.yaml").is_file())
    try:
        card = Card.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecbenchError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise _explained(path, error) from error
    if card.name != name:
        raise RecbenchError(f"{path}: name is '{card.name}', expected '{name}' as the file is called")
    return card


_PARTS: dict[str, type[_Strict]] = {"package": PackageSource, "files": CardFile}


def _explained(path: Path, error: ValidationError) -> RecbenchError:
    """Turn the first finding of pydantic into one sentence that names file and key.

    An unknown key goes before all others: where a key is misspelt, the right one is missing.
    """
    findings = error.errors()
    finding = next((finding for finding in findings if finding["type"] == "extra_forbidden"), findings[0])
    location = [str(part) for part in finding["loc"]]
    model: type[_Strict] = Card
    if location[:1] == ["tables"] and len(location) > 2:
        # Behind the name of the table stand the tags of the unions, which are not in the file.
        model = BorrowedTable
        if location.pop(2) == "file" and len(location) > 2:
            model = _READERS[location.pop(2)]
    elif location:
        model = _PARTS.get(location[0], Card)
    place = f"{path}: {'.'.join(location) or 'the card'}"
    match finding["type"]:
        case "extra_forbidden":
            place = f"{path}: {'.'.join(location[:-1]) or 'top level'}"
            return errors.unknown("key", location[-1], model.model_fields, hint=place)
        case "union_tag_invalid":
            return errors.unknown("reader", finding["ctx"]["tag"], _READERS, hint=place)
        case "union_tag_not_found":
            return RecbenchError(f"{place}: expected 'reader', or 'dataset' and 'table' of another card's table")
    return RecbenchError(f"{place}: {finding['msg'].removeprefix('Value error, ')}")
