"""Statistics of a dataset: its size, the popularity of its items, the quality of its times, and how cold its end is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

HOUR_SECONDS = 3600
"""The window in which a user's busiest time is looked for."""
PAUSE_SECONDS = 1800
"""A longer pause ends a burst of events."""
MIN_EVENTS = 10
"""Users with fewer events say little about how their times came to be."""
BATCH_SHARE = 0.5
"""Times count as batch-inserted if the median user has more than this share of events in one hour."""
MAX_VALUES = 20
"""Distinct ratings or labels that are counted one by one; of more, the spread is given."""

TRIPLE = ("head", "relation", "tail")
VALUES = ("rating", "label", "weight")
# Moments between 1973 and 2100, so that the two units cannot be confused.
_UNITS = {"Unix seconds": 1.0, "Unix milliseconds": 1000.0}
_FIRST_SECOND, _LAST_SECOND = 1e8, 4.1e9

TimeKind = Literal["Unix seconds", "Unix milliseconds", "unknown unit", "positions"]


@dataclass(frozen=True)
class Spread:
    """How a quantity spreads."""

    min: float
    median: float
    mean: float
    max: float


@dataclass(frozen=True)
class Times:
    """What the column ``timestamp`` is worth.

    Durations are in seconds where the unit is known and in the column's unit where it is not. What is None is not
    known: of positions nothing is, without users or a unit not everything.
    """

    kind: TimeKind
    """``positions``: row numbers that the card makes of the order of the file, not times."""
    missing: int = 0
    earliest: float | None = None
    latest: float | None = None
    earliest_date: str | None = None
    latest_date: str | None = None
    resolution: float | None = None
    """Smallest step between two times."""
    shared: float | None = None
    """Share of rows whose user has another row at the same time."""
    within_second: float | None = None
    """Share of rows that are at most a second after the row before of the same user."""
    burst: float | None = None
    """Median number of events in a burst: a user's events with pauses of at most ``PAUSE_SECONDS``."""
    busiest: float | None = None
    """Median, over users with ``MIN_EVENTS`` or more, of the share of events in the user's busiest hour."""

    @property
    def batch_inserted(self) -> bool:
        """Say whether the times look as if users' events had been entered in one go."""
        return self.busiest is not None and self.busiest > BATCH_SHARE


@dataclass(frozen=True)
class ColdShares:
    """Shares of the users, items and events of the last tenth of the log that have no event before it."""

    cut: float
    """First time of the last tenth; rows at that very time all belong to it."""
    test_events: int
    users: float | None
    items: float | None
    events: float
    """Events whose user or item is new."""


@dataclass(frozen=True)
class Popularity:
    """How the rows of a log are shared out among its users, or among its items."""

    count: int
    rows: Spread
    gini: float
    top_share: float
    """Share of rows that belong to the 1 % with the most rows, to one at least."""


@dataclass(frozen=True)
class LogStatistics:
    """Statistics of a log; None where it has no such column."""

    rows: int
    who: Literal["user", "session"]
    """What is meant by users."""
    users: Popularity | None
    items: Popularity | None
    density: float | None
    """Distinct pairs of user and item / (users x items)."""
    repeated_rows: int | None
    """Rows whose pair of user and item has come before."""
    values: dict[str, dict[str, int] | Spread]
    """Of ``rating``, ``label`` and ``weight``: how often each value is there, or the spread of more than a few."""
    times: Times | None
    cold: ColdShares | None


@dataclass(frozen=True)
class Unseen:
    """What one table of facts has that training has not."""

    entities: int
    relations: int
    facts: int
    """Facts with such an entity or relation."""


@dataclass(frozen=True)
class TripleStatistics:
    """Statistics of facts (head, relation, tail) in one or more tables."""

    entities: int
    relations: int
    facts: dict[str, int]
    facts_per_relation: Spread
    repeated_facts: int
    """Facts, over all tables, that have come before."""
    unseen: dict[str, Unseen]
    """Of each table but ``train``, if there is that one."""


def log_statistics(log: pl.DataFrame, *, positions: bool = False) -> LogStatistics:
    """Describe a log.

    Args:
        log: n rows; ``user`` (or ``session``) and ``item`` of any type, ``rating``, ``label``, ``weight`` and
            ``timestamp`` numbers; each may be missing. A row with a list of items is one row for each of them.
        positions: ``timestamp`` holds the numbers of rows, not times.
    """
    who: Literal["user", "session"] = "session" if "user" not in log.columns and "session" in log.columns else "user"
    log = log.rename({"session": "user"} if who == "session" else {})
    if isinstance(log.schema.get("item"), pl.List):
        log = log.explode("item").drop_nulls("item")
    users, items = (popularity(log[name]) if name in log.columns else None for name in ("user", "item"))
    pairs = log.select("user", "item").n_unique() if users and items else None
    has_times = "timestamp" in log.columns
    return LogStatistics(
        rows=log.height,
        who=who,
        users=users,
        items=items,
        density=pairs / (users.count * items.count) if pairs and users and items else None,
        repeated_rows=None if pairs is None else log.height - pairs,
        values={name: _values(log[name].drop_nulls()) for name in VALUES if name in log.columns},
        times=time_quality(log, positions=positions) if has_times else None,
        cold=cold_shares(log) if has_times and not positions else None,
    )


def triple_statistics(tables: Mapping[str, pl.DataFrame]) -> TripleStatistics:
    """Describe facts: tables with ``head``, ``relation`` and ``tail``, whose entities are the same in all tables."""
    facts = pl.concat([frame.select(TRIPLE) for frame in tables.values()])
    train = tables.get("train")
    return TripleStatistics(
        entities=len(_entities(facts)),
        relations=facts["relation"].n_unique(),
        facts={name: frame.height for name, frame in tables.items()},
        facts_per_relation=spread(facts["relation"].value_counts()["count"]),
        repeated_facts=facts.height - facts.n_unique(),
        unseen={} if train is None else {n: _unseen(frame, train) for n, frame in tables.items() if n != "train"},
    )


def popularity(ids: pl.Series) -> Popularity:
    """Count the rows of each id, of which there is at least one."""
    counts = ids.value_counts()["count"]
    top = counts.top_k(-(-len(counts) // 100))
    return Popularity(len(counts), spread(counts), gini(counts), float(top.sum() / len(ids)))


def spread(values: pl.Series) -> Spread:
    """Return minimum, median, mean and maximum of numbers, of which there is at least one."""
    numbers = values.cast(pl.Float64).to_numpy()
    return Spread(float(numbers.min()), float(np.median(numbers)), float(numbers.mean()), float(numbers.max()))


def gini(counts: pl.Series) -> float:
    r"""Return the Gini coefficient of n counts, 0 (all equal) to 1 - 1/n (all in one).

    With the counts in ascending order, $G = \sum_i (2i - n - 1) x_i / (n \sum_i x_i)$, i from 1 to n (Damgaard and
    Weiner, Ecology 81(4), 2000).
    """
    ordered = np.sort(counts.cast(pl.Float64).to_numpy())
    n = len(ordered)
    return float(((2 * np.arange(1, n + 1) - n - 1) * ordered).sum() / (n * ordered.sum()))


def time_quality(log: pl.DataFrame, *, positions: bool = False) -> Times:
    """Describe the column ``timestamp`` of a log; with ``user``, also how each user's events follow one another."""
    if positions:
        return Times("positions")
    known = log.drop_nulls("timestamp")
    if known.is_empty():
        return Times("unknown unit", log.height)
    column = spread(known["timestamp"])
    kind = _time_kind(column)
    in_seconds = kind in _UNITS
    unit = _UNITS.get(kind, 1.0)
    has_users = "user" in known.columns
    times = known.select(pl.col("timestamp") / unit, *(["user"] if has_users else []))
    moments = np.unique(times["timestamp"].to_numpy())
    bursts = _bursts(times) if in_seconds and has_users else _Bursts(None, None, None)
    return Times(
        kind=kind,
        missing=log.height - known.height,
        earliest=column.min,
        latest=column.max,
        earliest_date=_date(column.min / unit) if in_seconds else None,
        latest_date=_date(column.max / unit) if in_seconds else None,
        resolution=float(np.diff(moments).min()) if len(moments) > 1 else None,
        shared=float(np.mean(times.is_duplicated().to_numpy())) if has_users else None,
        within_second=bursts.within_second,
        burst=bursts.size,
        busiest=bursts.busiest,
    )


def cold_shares(log: pl.DataFrame) -> ColdShares | None:
    """Cut the last tenth of the events off by time; None if there is nothing before it."""
    log = log.drop_nulls("timestamp")
    if log.is_empty():
        return None
    cut = float(log["timestamp"].sort()[log.height - max(log.height // 10, 1)])
    train, test = log.filter(pl.col("timestamp") < cut), log.filter(pl.col("timestamp") >= cut)
    if train.is_empty():
        return None
    new = {name: ~test[name].is_in(train[name].unique().implode()) for name in ("user", "item") if name in log.columns}
    shares = {name: test[name].filter(mask).n_unique() / test[name].n_unique() for name, mask in new.items()}
    events = pl.DataFrame(new).select(pl.any_horizontal(pl.all()).mean()).item() if new else 0.0
    return ColdShares(cut, test.height, shares.get("user"), shares.get("item"), events)


def _values(values: pl.Series) -> dict[str, int] | Spread:
    if values.n_unique() > MAX_VALUES:
        return spread(values)
    return {f"{value:g}": count for value, count in values.value_counts().sort(values.name).iter_rows()}


def _time_kind(times: Spread) -> TimeKind:
    for kind, unit in _UNITS.items():
        if times.min >= 0 and times.median >= _FIRST_SECOND * unit and times.max <= _LAST_SECOND * unit:
            return kind  # type: ignore[return-value]
    return "unknown unit"


def _date(second: float) -> str:
    return datetime.fromtimestamp(second, UTC).date().isoformat()


class _Bursts(NamedTuple):
    within_second: float | None
    size: float | None
    busiest: float | None


def _bursts(times: pl.DataFrame) -> _Bursts:
    """Describe how each user's events follow one another; ``timestamp`` is in seconds."""
    ordered = times.sort("user", "timestamp")
    steps = ordered.select(
        same=pl.col("user") == pl.col("user").shift(), gap=pl.col("timestamp").diff()
    ).slice(1)  # fmt: skip
    soon = steps.filter(pl.col("same") & (pl.col("gap") <= 1)).height
    starts = ~(steps["same"] & (steps["gap"] <= PAUSE_SECONDS)).to_numpy()
    edges = np.flatnonzero(np.concatenate([[True], starts, [True]]))
    # The window that ends with each event; the fullest of a user's is its busiest time.
    windows = (
        ordered.with_columns(pl.col("timestamp").floor().cast(pl.Int64))
        .rolling("timestamp", period=f"{HOUR_SECONDS}i", group_by="user")
        .agg(events=pl.len())
    )
    users = windows.group_by("user").agg(pl.col("events").max(), n=pl.len()).filter(pl.col("n") >= MIN_EVENTS)
    shares = (users["events"] / users["n"]).to_numpy()
    busiest = float(np.median(shares)) if len(shares) else None
    return _Bursts(soon / ordered.height, float(np.median(np.diff(edges))), busiest)


def _entities(facts: pl.DataFrame) -> pl.Series:
    return pl.concat([facts["head"], facts["tail"].alias("head")]).unique()


def _unseen(facts: pl.DataFrame, train: pl.DataFrame) -> Unseen:
    entities, relations = _entities(train).implode(), train["relation"].unique().implode()
    new_fact = ~(pl.col("head").is_in(entities) & pl.col("tail").is_in(entities) & pl.col("relation").is_in(relations))
    return Unseen(
        entities=int((~_entities(facts).is_in(entities)).sum()),
        relations=int((~facts["relation"].unique().is_in(relations)).sum()),
        facts=facts.select(new_fact.sum()).item(),
    )
