"""Protocols of rating prediction: judged on labels that are missing at random."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from recbench.data.protocols import splits
from recbench.data.protocols.base import PART_NAMES, Protocol, Share, codes, index
from recbench.data.source import Source
from recbench.data.store import Arrays, Writer


class RandomTest(Protocol):
    """Ratings the users chose to give for training; ratings of random items for validation and test.

    Arrays of a part: ``users``, ``items`` (n,), ``labels`` (n,) 0 or 1. Shared: ``user_ids``, ``item_ids``, and
    ``propensities`` (U, I) where the dataset has a table of them: those published, times the share of pairs that are
    not held out. A share of every user's random ratings is the validation part: without labels that are missing at
    random nothing could be selected or calibrated without bias. Pairs with a random rating are left out of training;
    the literature leaves them in (Coat: 366 of 6,960, with the very labels that validation and test ask for).
    """

    kind: Literal["random-test"] = "random-test"
    label_column: str = "rating"
    positive_from: float
    valid: Share = 0.25

    def tables(self, source: Source) -> Collection[str]:
        """Return the chosen ratings, the random ones, and propensities where they were published."""
        return ["interactions", "random", *(["propensities"] if source.has("propensities") else [])]

    def build(self, source: Source, out: Writer) -> Mapping[str, Any]:
        """Index users and items, binarise, and split the random ratings by user."""
        import polars as pl

        chosen, random = source.table("interactions"), source.table("random")
        user_ids, users = index(pl.concat([chosen["user"], random["user"]]))
        item_ids, items = index(pl.concat([chosen["item"], random["item"]]))
        n = len(chosen)
        ratings = np.concatenate([chosen[self.label_column], random[self.label_column]])
        labels = (ratings >= self.positive_from).astype(np.float32)
        parts = np.full(len(labels), splits.TRAIN, dtype=np.int8)
        held_out = splits.random_by_user(users[n:], self.valid, 0.0, self.seed)
        parts[n:] = np.where(held_out == splits.VALID, splits.VALID, splits.TEST)
        # Some random ratings are of items the user also chose, with the same label: training must not hold those.
        pairs = users.astype(np.int64) * len(item_ids) + items
        kept = (parts != splits.TRAIN) | ~np.isin(pairs, pairs[n:])
        shared: Arrays = {"user_ids": user_ids, "item_ids": item_ids}
        if source.has("propensities"):
            cells = source.table("propensities")
            matrix = np.zeros((len(user_ids), len(item_ids)), dtype=np.float32)
            matrix[codes(user_ids, cells["user"]), codes(item_ids, cells["item"])] = cells["propensity"]
            shared["propensities"] = matrix * np.float32(1 - len(random) / matrix.size)
        _write(out, shared, parts[kept], users[kept], items[kept], labels[kept])
        return {"n_users": len(user_ids), "n_items": len(item_ids)}


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

    def tables(self, source: Source) -> Collection[str]:
        """Return the ratings."""
        return ["interactions"]

    def build(self, source: Source, out: Writer) -> Mapping[str, Any]:
        """Complete the matrix, draw labels, hold out random pairs, draw the exposure."""
        from recbench.data.protocols.completion import complete

        log = source.table("interactions")
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
        shared = {"user_ids": user_ids, "item_ids": item_ids, "propensities": propensities.reshape(shape)}
        _write(out, shared, parts[kept], pair_users[kept], pair_items[kept], labels[kept])
        out.write("truth", "relevance", relevance.reshape(shape))
        out.write("truth", "labels", labels.reshape(shape))
        return {"n_users": shape[0], "n_items": shape[1]}


def _write(
    out: Writer,
    shared: Arrays,
    parts: splits.Parts,
    users: NDArray[Any],
    items: NDArray[Any],
    labels: NDArray[Any],
) -> None:
    for name, values in shared.items():
        out.write("shared", name, values)
    for part, name in PART_NAMES.items():
        chosen = parts == part
        for column, values in {"users": users, "items": items, "labels": labels}.items():
            out.write(name, column, values[chosen])
