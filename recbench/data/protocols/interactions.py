"""Protocols over a log of interactions: rank what a user will like, or what comes next."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from recbench.data.protocols import splits
from recbench.data.protocols.base import PART_NAMES, Protocol, Published, Splitting, index
from recbench.data.protocols.filters import AnyFilter
from recbench.data.protocols.splits import Log, Split
from recbench.data.source import Source
from recbench.data.store import Arrays, Writer
from recbench.errors import RecbenchError

if TYPE_CHECKING:
    import polars as pl

PART = "_part"


class Implicit(Protocol):
    """All interactions that pass the filters are positive. Optionally in the order of time, or with the item graph.

    Arrays: shared ``user_ids`` (U,), ``item_ids`` (I,); each part ``users``, ``items`` (n,) sorted by user and item.
    Where a split shows the model more than training when a part is judged (fold-in rows of unseen users, events between
    the cut and the target), the part has ``history_users``, ``history_items`` too, sorted alike. A pair that occurs
    more than once counts once: where it is first, in time if the split is by time, else in the file.

    With ``ordered``: repeated pairs stay, all arrays are sorted by user and time, and ``times`` (n,) and
    ``history_times`` are there; positions in the file serve as time where the card says so.

    With ``graph``: shared ``heads``, ``relations``, ``tails`` (E,), ``entity_ids`` and ``relation_ids``; the first I
    entities are the items, whether the graph links them or not. A dataset without a table ``links`` has items that are
    entities of the same ids. With ``linked_only``, interactions with items that no entity belongs to are left out.

    ``fold_in`` in the description says that no user of validation and test is in training.
    """

    kind: Literal["implicit"] = "implicit"
    table: str = "interactions"
    user: str = "user"
    """Column that takes the place of the user, such as a session."""
    filters: tuple[AnyFilter, ...] = ()
    split: Splitting
    ordered: bool = False
    graph: bool = False
    linked_only: bool = False

    @property
    def joins(self) -> bool:
        """Whether validation rows are of users in training and in no order, and so can be trained on with the rest."""
        return not self.ordered and self.split.kind in {"random-by-user", "random-rows", "published"}

    def tables(self, source: Source) -> Collection[str]:
        """Return the log or the tables of the published parts, and the graph."""
        names = list(self.split.tables) if isinstance(self.split, Published) else [self.table]
        if self.graph:
            names += ["triples", *(["links"] if source.has("links") else [])]
        return names

    def build(self, source: Source, out: Writer) -> Mapping[str, Any]:
        """Filter, index users and items, split, add the graph."""
        log = self._log(source).rename({self.user: "user"})
        timed = "timestamp" in log.columns
        if self.ordered and not timed:
            raise RecbenchError(f"protocol {self.name}: {source.card.name} has no timestamps to order by")
        triples, links = None, None
        if self.graph:
            triples, links = source.table("triples"), source.table("links") if source.has("links") else None
            if self.linked_only:
                log = _linked(log, triples, links)
        for rule in self.filters:
            log = rule.apply(log)
        if self.ordered or self.split.kind in {"leave-k-out", "temporal", "sliding"}:
            # The first of repeated pairs is then the earliest; rows of one time keep the order of the file.
            log = log.sort("timestamp", maintain_order=True) if timed else log
        if not self.ordered:
            log = log.unique(["user", "item"], keep="first", maintain_order=True)
        user_ids, users = index(log["user"])
        item_ids, items = index(log["item"])
        times = log["timestamp"].to_numpy() if timed else None
        published = log[PART].to_numpy() if PART in log.columns else None
        split = self.split_rows(self.split, published, Log(users, items, times))
        shared: Arrays = {"user_ids": user_ids, "item_ids": item_ids}
        if triples is not None:
            shared |= _graph(triples, links, item_ids)
        for name, values in shared.items():
            out.write("shared", name, values)
        self._write_parts(out, split, users, items, times)
        meta: dict[str, Any] = {"n_users": len(user_ids), "n_items": len(item_ids)}
        judged = np.unique(users[np.isin(split.parts, (splits.VALID, splits.TEST))])
        if not np.isin(judged, users[split.parts == splits.TRAIN]).any():
            meta["fold_in"] = True
        return meta

    def _log(self, source: Source) -> pl.DataFrame:
        """Return the rows, with their published part where there is one."""
        import polars as pl

        if not isinstance(self.split, Published):
            return source.table(self.table)
        frames = []
        for table, part in self.split.tables.items():
            frame = source.table(table).with_columns(pl.lit(part, pl.Int8).alias(PART))
            if self.split.new_users and table not in self.split.train:
                frame = frame.with_columns(pl.format("test:{}", self.user).alias(self.user))
            frames.append(frame)
        return pl.concat(frames, how="diagonal")

    def _write_parts(
        self,
        out: Writer,
        split: Split,
        users: NDArray[np.int32],
        items: NDArray[np.int32],
        times: NDArray[np.float64] | None,
    ) -> None:
        columns: Arrays = {"users": users, "items": items}
        order = np.lexsort((items, users))
        if self.ordered and times is not None:
            columns["times"] = times
            order = np.lexsort((np.arange(len(users)), times, users))
        shown = {splits.VALID: split.valid_history, splits.TEST: split.test_history}
        for part, name in PART_NAMES.items():
            chosen = order[split.parts[order] == part]
            for column, values in columns.items():
                out.write(name, column, values[chosen])
            if part in shown and shown[part].any():
                history = order[shown[part][order]]
                for column, values in columns.items():
                    out.write(name, f"history_{column}", values[history])


def _linked(log: pl.DataFrame, triples: pl.DataFrame, links: pl.DataFrame | None) -> pl.DataFrame:
    """Keep the interactions with items that are entities of the graph."""
    import polars as pl

    known = links["item"] if links is not None else pl.concat([triples["head"], triples["tail"]]).unique()
    return log.filter(pl.col("item").is_in(known.implode()))


def _graph(triples: pl.DataFrame, links: pl.DataFrame | None, item_ids: NDArray[Any]) -> Arrays:
    """Index the graph with the items as its first entities; a linked entity takes its item's number."""
    import polars as pl

    items = pl.DataFrame({"item": item_ids, "number": np.arange(len(item_ids), dtype=np.int32)})
    if links is None:
        links = items.select("item", entity="item")
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
