"""Cards: what a data set is, where each of its files can be had, and how the files become tables."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, PositiveInt, ValidationError, model_validator

from recbench import errors, resources
from recbench.errors import RecbenchError

Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.+-]*$")]
# A relative POSIX path of plain names: it can be joined to the cache folder and never leaves it.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*$")]
ReaderName = Literal["recbole-atomic", "matrix", "matrix-dense"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PackageSource(_Strict):
    """A Python distribution whose wheel carries the files."""

    name: Name
    version: Name


class CardFile(_Strict):
    """One raw file; whatever place it comes from, its bytes are these."""

    bytes: PositiveInt
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    urls: list[HttpUrl] = []
    member: FileName | None = None
    """Path inside the wheel of the card's package."""


class Table(_Strict):
    """One table, read from one file."""

    file: str
    reader: ReaderName
    columns: dict[Text, Text]
    """Column of the file -> name in the table; columns not named here are dropped."""


class Card(_Strict):
    """A named, versioned raw data set (``datasets/<name>.yaml``)."""

    name: Name
    version: Name
    title: Text
    licence: Text
    citation: Text
    homepage: HttpUrl
    verified: Text
    """On what basis the checksums below are believed to be those of the original data."""
    package: PackageSource | None = None
    files: dict[FileName, CardFile] = Field(min_length=1)
    tables: dict[Text, Table] = Field(min_length=1)
    statistics: dict[str, PositiveInt] = {}
    """Rows of each table."""

    @property
    def sha256(self) -> str:
        """Digest over the sorted file names and their sha256: equal digests mean equal raw bytes."""
        listing = "".join(f"{name} {self.files[name].sha256}\n" for name in sorted(self.files))
        return hashlib.sha256(listing.encode()).hexdigest()

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        for name, file in self.files.items():
            if file.member and self.package is None:
                raise ValueError(f"file '{name}' names a package member, but the card has no package")
        for name, table in self.tables.items():
            if table.file not in self.files:
                raise ValueError(f"table '{name}' reads '{table.file}', which is not among the files")
        for name in self.statistics:
            if name not in self.tables:
                raise ValueError(f"statistics name '{name}', which is not among the tables")
        return self


def card_names() -> list[str]:
    """Return the names of all data sets that have a card, sorted."""
    return sorted(path.stem for path in resources.shipped("datasets").glob("*.yaml"))


def load_card(name: str) -> Card:
    """Read and check the card of the data set ``name``.

    Raises:
        UsageError: no such data set, or a key that a card does not have.
        RecbenchError: the file is not YAML, or a value is missing or impossible.
    """
    if name not in card_names():
        raise errors.unknown("dataset", name, card_names(), hint="recbench data list shows them")
    path = resources.shipped("datasets", f"{name}.yaml")
    try:
        card = Card.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise RecbenchError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise _explained(path, error) from error
    if card.name != name:
        raise RecbenchError(f"{path}: name is '{card.name}', expected '{name}' as the file is called")
    return card


def _explained(path: Path, error: ValidationError) -> RecbenchError:
    """Turn the first finding of pydantic into one sentence that names file and key."""
    finding = error.errors()[0]
    location = [str(part) for part in finding["loc"]]
    if finding["type"] == "extra_forbidden":
        parts: dict[str, type[_Strict]] = {"package": PackageSource, "files": CardFile, "tables": Table}
        *above, key = location
        known = parts.get(location[0], Card).model_fields
        return errors.unknown("key", key, known, hint=f"{path}: {'.'.join(above) or 'top level'}")
    return RecbenchError(f"{path}: {'.'.join(location) or 'the card'}: {finding['msg']}")
