"""Protocols: how a dataset's tables become train, valid and test.

One class a kind, validated from the benchmark's YAML; ``build`` makes the arrays. Vocabularies of features are built
on training rows only; users and items are those of the whole (filtered) log, whose ids are public.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from recbench.data import splits
from recbench.data.cards import Card
from recbench.data.fetch import fetch
from recbench.data.store import Arrays, Built, Prepared, prepared
from recbench.errors import RecbenchError
from recbench.resources import home

if TYPE_CHECKING:
    import polars as pl

Share = Annotated[float, Field(gt=0, lt=1)]
Tables = Callable[[str], "pl.DataFrame"]
PART_NAMES = {splits.TRAIN: "train", splits.VALID: "valid", splits.TEST: "test"}


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Protocol(_Spec, ABC):
    """Base of all protocols; ``name`` and ``version`` are part of every result's key."""

    name: str
    version: str
    seed: int = 2020
    """Of the random split (not of the runs)."""

    @abstractmethod
    def build(self, table: Tables) -> Built:
        """Make the arrays from the dataset's tables."""

    def prepare(self, card: Card) -> Prepared:
        """Return the prepared data of a dataset under this protocol, built at the first call."""
        from recbench.data.readers import read_table  # polars is heavy, and a second run needs none

        def build() -> Built:
            files = fetch(card)
            return self.build(lambda table: read_table(card, table, files))

        tables = card.model_dump_json(include={"tables"})
        content = f"{card.sha256} {tables} {self.model_dump_json()} {_code_sha256()}"
        key = hashlib.sha256(content.encode()).hexdigest()[:16]
        return prepared(home() / "prepared" / f"{card.name}-{self.name}-{key}", build)


class Implicit(Protocol):
    """All interactions are positive; a random share of every user's is held out. Optionally with the item graph.

    Arrays: shared ``user_ids`` (U,), ``item_ids`` (I,); each part ``users``, ``items`` (n,) sorted by user and item.
    With ``graph``: shared ``heads``, ``relations``, ``tails`` (E,), ``entity_ids`` and ``relation_ids``; the first I
    entities are the items, whether the graph links them or not.
    """

    kind: Literal["implicit"] = "implicit"
    valid: Share = 0.1
    test: Share = 0.1
    graph: bool = False

    def build(self, table: Tables) -> Built:
        """Index users and items, split by user, add the graph."""
        log = table("interactions").unique(["user", "item"], maintain_order=True)
        user_ids, users = index(log["user"])
        item_ids, items = index(log["item"])
        parts = splits.random_by_user(users, self.valid, self.test, self.seed)
        arrays: dict[str, Arrays] = {"shared": {"user_ids": user_ids, "item_ids": item_ids}}
        for part, name in PART_NAMES.items():
            rows = np.flatnonzero(parts == part)
            rows = rows[np.lexsort((items[rows], users[rows]))]
            arrays[name] = {"users": users[rows], "items": items[rows]}
        if self.graph:
            arrays["shared"] |= _graph(table("triples"), table("links"), item_ids)
        return Built(arrays, {"n_users": len(user_ids), "n_items": len(item_ids)})


def _graph(triples: pl.DataFrame, links: pl.DataFrame, item_ids: NDArray[Any]) -> Arrays:
    """Index the graph with the items as its first entities; a linked entity takes its item's number."""
    import polars as pl

    items = pl.DataFrame({"item": item_ids, "number": np.arange(len(item_ids), dtype=np.int32)})
    linked = links.join(items, on="item").unique("entity", keep="first", maintain_order=True).select("entity", "number")
    names = pl.concat([triples["head"], triples["tail"]]).unique().sort()
    others = names.filter(~names.is_in(linked["entity"].implode()))
    first = len(item_ids)
    numbers = np.arange(first, first + len(others), dtype=np.int32)
    entities = pl.concat([linked, pl.DataFrame({"entity": others, "number": numbers})])
    relation_ids, relations = index(triples["relation"])

    def number(column: str) -> NDArray[Any]:
        joined = triples.select(entity=column).join(entities, on="entity", how="left", maintain_order="left")
        return joined["number"].to_numpy()

    entity_ids = np.concatenate([np.char.add("item:", item_ids), others.to_numpy().astype(str)])
    return {
        "heads": number("head"),
        "relations": relations,
        "tails": number("tail"),
        "entity_ids": entity_ids,
        "relation_ids": relation_ids,
    }


class FieldSpec(_Spec):
    """One input field of a click model: a column of the log, the users or the items."""

    name: str
    column: str | None = None
    """Column it is made from, where its name differs."""
    prefix: int | None = None
    """Keep only this many leading characters."""
    multi: bool = False
    """Several values a row (a list column)."""


class Labelled(Protocol):
    """Rows with a binary label and categorical fields, split at random by row.

    Arrays of a part, for n rows: ``ids`` (n, F) of the single-valued fields, ``<field>_values`` and
    ``<field>_offsets`` (n + 1,) of the multi-valued ones, ``labels`` (n,), ``groups`` (n,) raw user ids. Ids count
    through all fields: a field's ids start at its offset, and its first id means "not seen in training".
    """

    kind: Literal["labelled"] = "labelled"
    label_column: str = "rating"
    positive_from: float
    """A row is positive if its label column is at least this."""
    fields: tuple[FieldSpec, ...]
    valid: Share = 0.1
    test: Share = 0.1

    def build(self, table: Tables) -> Built:
        """Join the side tables, split, build vocabularies on training rows, encode."""
        import polars as pl

        rows = (
            table("interactions")
            .join(table("users"), on="user", how="left", maintain_order="left")
            .join(table("items"), on="item", how="left", maintain_order="left")
        )
        for field in self.fields:
            if (field.column or field.name) not in rows.columns:
                raise RecbenchError(
                    f"protocol {self.name}: field '{field.name}' needs the column '{field.column or field.name}', "
                    f"and the dataset has {', '.join(rows.columns)}"
                )
        parts = splits.random_rows(len(rows), self.valid, self.test, self.seed)
        arrays: dict[str, Arrays] = {name: {} for name in PART_NAMES.values()}
        single: list[NDArray[Any]] = []
        meta: list[dict[str, Any]] = []
        offset = 0
        for field in self.fields:
            column = rows[field.column or field.name]
            lists = column if field.multi else column.cast(pl.String).fill_null("").implode().explode()
            counts = column.list.len().fill_null(0) if field.multi else np.ones(len(rows))
            lengths = np.asarray(counts, dtype=np.int64)
            values = lists.explode(keep_nulls=False, empty_as_null=False) if field.multi else lists
            if field.prefix is not None:
                values = values.str.slice(0, field.prefix)
            owner = np.repeat(parts, lengths)
            vocabulary = values.filter(pl.Series(owner == splits.TRAIN)).unique().sort()
            codes = _encode(values, vocabulary) + offset
            for part, name in PART_NAMES.items():
                if field.multi:
                    arrays[name][f"{field.name}_values"] = codes[owner == part]
                    arrays[name][f"{field.name}_offsets"] = np.concatenate([[0], np.cumsum(lengths[parts == part])])
            if not field.multi:
                single.append(codes)
            size = len(vocabulary) + 1
            meta.append({"name": field.name, "multi": field.multi, "size": size, "offset": offset})
            offset += size
        ids = np.stack(single, axis=1)
        labels = (rows[self.label_column].to_numpy() >= self.positive_from).astype(np.float32)
        groups = rows["user"].to_numpy().astype(str)
        for part, name in PART_NAMES.items():
            chosen = parts == part
            arrays[name] |= {"ids": ids[chosen], "labels": labels[chosen], "groups": groups[chosen]}
        return Built(arrays, {"fields": meta})


def _encode(values: pl.Series, vocabulary: pl.Series) -> NDArray[np.int32]:
    """Return 1 + the position of each value in the sorted vocabulary, 0 where it is not in it."""
    import polars as pl

    table = pl.DataFrame({"value": vocabulary, "code": np.arange(1, len(vocabulary) + 1, dtype=np.int32)})
    found = pl.DataFrame({"value": values}).join(table, on="value", how="left", maintain_order="left")
    return found["code"].fill_null(0).to_numpy()


class RandomTest(Protocol):
    """Ratings the users chose to give for training; ratings of random items for validation and test.

    Arrays of a part: ``users``, ``items`` (n,), ``labels`` (n,) 0 or 1. Shared: ``user_ids``, ``item_ids``, and
    ``propensities`` (U, I), those published with the dataset times the share of pairs that are not held out. A share of
    every user's random ratings is the validation part: without labels that are missing at random nothing could be
    selected or calibrated without bias. Pairs with a random rating are left out of training; the literature leaves them
    in (Coat: 366 of 6,960, with the very labels that validation and test ask for).
    """

    kind: Literal["random-test"] = "random-test"
    positive_from: float
    valid: Share = 0.25

    def build(self, table: Tables) -> Built:
        """Index users and items, binarise, and split the random ratings by user."""
        import polars as pl

        chosen, random = table("interactions"), table("random")
        user_ids, users = index(pl.concat([chosen["user"], random["user"]]))
        item_ids, items = index(pl.concat([chosen["item"], random["item"]]))
        n = len(chosen)
        labels = (np.concatenate([chosen["rating"], random["rating"]]) >= self.positive_from).astype(np.float32)
        parts = np.full(len(labels), splits.TRAIN, dtype=np.int8)
        held_out = splits.random_by_user(users[n:], self.valid, 0.0, self.seed)
        parts[n:] = np.where(held_out == splits.VALID, splits.VALID, splits.TEST)
        arrays: dict[str, Arrays] = {"shared": {"user_ids": user_ids, "item_ids": item_ids}}
        # Some random ratings are of items the user also chose, with the same label: training must not hold those.
        pairs = users.astype(np.int64) * len(item_ids) + items
        kept = (parts != splits.TRAIN) | ~np.isin(pairs, pairs[n:])
        arrays |= _rated_parts(parts[kept], users[kept], items[kept], labels[kept])
        cells = table("propensities")
        matrix = np.zeros((len(user_ids), len(item_ids)), dtype=np.float32)
        matrix[_codes(user_ids, cells["user"]), _codes(item_ids, cells["item"])] = cells["propensity"]
        arrays["shared"]["propensities"] = matrix * np.float32(1 - len(random) / matrix.size)
        return Built(arrays, {"n_users": len(user_ids), "n_items": len(item_ids)})


class SemiSynthetic(Protocol):
    """A known world on real ratings: relevance of every pair, exposure with known propensities.

    As in the MRDR and DR-JL papers' MovieLens-100K study: the rating matrix is completed by a biased low-rank
    factorisation, its scores sorted into classes of the given ``shares``, class c being relevant with probability
    ``relevance[c]`` and exposed with probability ``exposure[c]``. Every pair's label is drawn once. A random
    ``held_out`` share of each user's items is taken out first (a missing-at-random validation and test set); the
    training log is the exposure draw on the other pairs. So the propensities are known: a pair is in the log with the
    probability of its class times the share of pairs that are not held out.

    Arrays: parts as in ``RandomTest``; shared ``propensities`` (U, I); ``truth``: ``relevance`` and ``labels`` (U, I).
    """

    kind: Literal["semisynthetic"] = "semisynthetic"
    rank: int = 16
    ridge: float = 10.0
    relevance: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    shares: tuple[float, ...] = (0.53, 0.24, 0.14, 0.07, 0.02)
    exposure: tuple[float, ...] = (0.0625, 0.0625, 0.125, 0.25, 0.5)
    valid: Share = 0.01
    test: Share = 0.04

    @model_validator(mode="after")
    def _classes_agree(self) -> Self:
        sizes = len(self.relevance), len(self.shares), len(self.exposure)
        if len(set(sizes)) > 1 or abs(sum(self.shares) - 1) > 1e-9:
            raise ValueError(
                "relevance, shares and exposure need one value for each class, and the shares the sum 1; found "
                f"{sizes[0]}, {sizes[1]} and {sizes[2]} values and the sum {sum(self.shares):g}"
            )
        return self

    def build(self, table: Tables) -> Built:
        """Complete the matrix, draw labels, hold out random pairs, draw the exposure."""
        from recbench.data.completion import complete

        log = table("interactions")
        user_ids, users = index(log["user"])
        item_ids, items = index(log["item"])
        shape = len(user_ids), len(item_ids)
        scores = complete(users, items, log["rating"].to_numpy(), shape, self.rank, self.ridge, self.seed)
        # Rounding and a stable sort: the last bits, which differ between BLAS builds, must not move a pair's class.
        order = np.argsort(scores.round(6).ravel(), kind="stable")
        bounds = np.floor(np.cumsum(self.shares)[:-1] * order.size).astype(np.int64)
        classes = np.empty(order.size, dtype=np.int64)
        classes[order] = np.searchsorted(bounds, np.arange(order.size), side="right")
        relevance = np.asarray(self.relevance, dtype=np.float32)[classes]
        exposure = np.asarray(self.exposure, dtype=np.float32)[classes]
        # A stream apart from the split's: with the same numbers, held-out pairs would be those with positive labels.
        rng = np.random.default_rng([self.seed, 1])
        labels = (rng.random(order.size) < relevance).astype(np.float32)
        exposed = rng.random(order.size) < exposure
        pair_users = np.repeat(np.arange(shape[0], dtype=np.int32), shape[1])
        pair_items = np.tile(np.arange(shape[1], dtype=np.int32), shape[0])
        parts = splits.random_by_user(pair_users, self.valid, self.test, self.seed)
        kept = exposed | (parts != splits.TRAIN)
        propensities = exposure * np.float32((parts == splits.TRAIN).mean())
        arrays: dict[str, Arrays] = {
            "shared": {"user_ids": user_ids, "item_ids": item_ids, "propensities": propensities.reshape(shape)},
            "truth": {"relevance": relevance.reshape(shape), "labels": labels.reshape(shape)},
        }
        arrays |= _rated_parts(parts[kept], pair_users[kept], pair_items[kept], labels[kept])
        return Built(arrays, {"n_users": shape[0], "n_items": shape[1]})


def _rated_parts(
    parts: splits.Parts, users: NDArray[Any], items: NDArray[Any], labels: NDArray[Any]
) -> dict[str, Arrays]:
    return {
        name: {"users": users[parts == part], "items": items[parts == part], "labels": labels[parts == part]}
        for part, name in PART_NAMES.items()
    }


AnyProtocol = Annotated[Implicit | Labelled | RandomTest | SemiSynthetic, Field(discriminator="kind")]


def index(column: pl.Series) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Return the distinct raw ids, numbers in numeric order and before other text, and each row's position in them."""
    import polars as pl

    # One call of unique(): it returns the values in another order each time.
    distinct = column.unique().to_frame("id").with_columns(number=pl.col("id").cast(pl.Float64, strict=False))
    ids = distinct.sort("number", "id", nulls_last=True)["id"].to_numpy().astype(str)
    return ids, _codes(ids, column)


def _codes(ids: NDArray[Any], column: pl.Series) -> NDArray[np.int32]:
    import polars as pl

    table = pl.DataFrame({"id": ids, "code": np.arange(len(ids), dtype=np.int32)})
    return column.to_frame("id").join(table, on="id", how="left", maintain_order="left")["code"].to_numpy()


def _code_sha256() -> str:
    """Digest of the code that prepares: a change of it prepares anew."""
    digest = hashlib.sha256()
    for module in ("completion", "protocols", "readers", "splits", "store"):
        digest.update(Path(__file__).with_name(f"{module}.py").read_bytes())
    return digest.hexdigest()
