"""What all protocols share: their key, the fingerprint of what they make, ids, and parts."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from recbench.data.cards import Card
from recbench.data.progress import status
from recbench.data.protocols import splits
from recbench.data.protocols.splits import AnySplit, Log, Split
from recbench.data.source import Source
from recbench.data.store import Prepared, Writer, prepared
from recbench.errors import RecbenchError
from recbench.resources import home

if TYPE_CHECKING:
    import polars as pl

Share = Annotated[float, Field(gt=0, lt=1)]
PART_NAMES = {splits.TRAIN: "train", splits.VALID: "valid", splits.TEST: "test"}


class Spec(BaseModel):
    """Base of everything that a benchmark's YAML describes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


TableNames = Annotated[tuple[str, ...], BeforeValidator(_as_tuple), Field(min_length=1)]


class Published(Spec):
    """A split published with the dataset: each part is one table, or several."""

    kind: Literal["published"] = "published"
    train: TableNames = ("train",)
    valid: TableNames | Share = ("valid",)
    """A share, where none was published: so much of every user's training rows, drawn at random; with ``new_users`` so
    many random users of training, of whose rows the last is the target and the others are history."""
    test: TableNames = ("test",)
    test_history: tuple[str, ...] = ()
    """Tables with what the model is shown of test users beside training."""
    new_users: bool = False
    """The test tables number users of their own, none of whom is in training."""

    @property
    def tables(self) -> dict[str, int]:
        """Part of the rows of each table; those that are only shown are in none."""
        names = dict.fromkeys(self.train, splits.TRAIN) | dict.fromkeys(self.test, splits.TEST)
        names |= dict.fromkeys(self.test_history, splits.NONE)
        if not isinstance(self.valid, float):
            names |= dict.fromkeys(self.valid, splits.VALID)
        return names

    def assign(self, published: splits.Parts, log: Log, seed: int) -> Split:
        """Return the published parts, with a validation part drawn from training where none is among them."""
        parts = published.copy()
        valid_history = np.zeros(len(parts), dtype=bool)
        test_history = published == splits.NONE
        if isinstance(self.valid, float):
            train = np.flatnonzero(parts == splits.TRAIN)
            if self.new_users:
                users = np.unique(log.users[train])
                drawn = np.random.default_rng(seed).permutation(users)[: max(1, int(self.valid * len(users)))]
                held_out = train[np.isin(log.users[train], drawn)]
                # Rows are in order of time, so the first of the reversed ones is each user's last.
                last = np.unique(log.users[held_out][::-1], return_index=True)[1]
                parts[held_out] = splits.NONE
                valid_history[held_out] = True
                targets = held_out[::-1][last]
                parts[targets] = splits.VALID
                valid_history[targets] = False
            else:
                parts[train] = splits.random_by_user(log.users[train], self.valid, 0.0, seed)
        return Split(parts, valid_history, test_history)


Splitting = Annotated[AnySplit | Published, Field(discriminator="kind")]


class Protocol(Spec, ABC):
    """Base of all protocols; ``name`` and ``version`` are part of every result's key."""

    name: str
    version: str
    seed: int = 2020
    """Of the random split (not of the runs)."""

    @abstractmethod
    def tables(self, source: Source) -> Collection[str]:
        """Return the names of the tables this protocol reads."""

    @abstractmethod
    def build(self, source: Source, out: Writer) -> Mapping[str, Any]:
        """Write the arrays made from the dataset's tables and return their description."""

    def raw_sha256(self, card: Card) -> str:
        """Digest of the raw files this protocol reads."""
        source = Source(card)
        return source.sha256(self.tables(source))

    def prepare(self, card: Card) -> Prepared:
        """Return the prepared data of a dataset under this protocol, built at the first call."""
        source = Source(card)
        tables = self.tables(source)
        specs = [source.resolve(table)[1].model_dump_json() for table in sorted(tables)]
        content = f"{source.sha256(tables)} {specs} {self.model_dump_json()} {_code_sha256()}"
        key = hashlib.sha256(content.encode()).hexdigest()[:16]

        def build(out: Writer) -> Mapping[str, Any]:
            with status(f"Preparing {card.name}") as out.tell:
                return self.build(source, out)

        return prepared(home() / "prepared" / f"{card.name}-{self.name}-{key}", build)

    def split_rows(self, split: AnySplit | Published, published: splits.Parts | None, log: Log) -> Split:
        """Split the rows of a log and make sure that nothing leaks."""
        if isinstance(split, Published):
            assert published is not None
            result = split.assign(published, log, self.seed)
        else:
            result = split.assign(log, self.seed)
            if findings := split.leaks(log, result):
                raise RecbenchError(f"protocol {self.name}: the split leaks: {'; '.join(findings)}")
        for part, name in PART_NAMES.items():
            if not (result.parts == part).any():
                raise RecbenchError(
                    f"protocol {self.name}: the {name} part is empty; {len(result.parts)} rows are left after filters"
                )
        return result


def index(column: pl.Series) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Return the distinct raw ids, numbers in numeric order and before other text, and each row's position in them."""
    import polars as pl

    # One call of unique(): it returns the values in another order each time.
    distinct = column.unique().to_frame("id").with_columns(number=pl.col("id").cast(pl.Float64, strict=False))
    ids = distinct.sort("number", "id", nulls_last=True)["id"].to_numpy().astype(str)
    return ids, codes(ids, column)


def codes(ids: NDArray[Any], column: pl.Series) -> NDArray[np.int32]:
    """Return the position of each value in ``ids``, which holds them all."""
    import polars as pl

    table = pl.DataFrame({"id": ids, "code": np.arange(len(ids), dtype=np.int32)})
    return column.to_frame("id").join(table, on="id", how="left", maintain_order="left")["code"].to_numpy()


def _code_sha256() -> str:
    """Digest of the code that prepares: a change of it prepares anew."""
    folder = Path(__file__).parent
    modules = [*folder.glob("*.py"), *folder.with_name("readers").glob("*.py")]
    modules += [folder.with_name(f"{name}.py") for name in ("source", "store")]
    digest = hashlib.sha256()
    for module in sorted(modules):
        digest.update(module.read_bytes())
    return digest.hexdigest()
