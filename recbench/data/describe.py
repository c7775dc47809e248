"""Statistics of a dataset as ``recbench data stats`` gives them: its log or its facts, beside what the card says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from recbench.data.cards import Card
from recbench.data.protocols.encoding import Dictionary
from recbench.data.source import Source
from recbench.data.statistics import TRIPLE, VALUES, LogStatistics, TripleStatistics, log_statistics, triple_statistics
from recbench.errors import RecbenchError, UsageError

_READ = {"user", "session", "item", "timestamp", *VALUES, *TRIPLE}


@dataclass(frozen=True)
class Count:
    """A statistic of the card beside what was counted."""

    name: str
    published: int
    counted: int


@dataclass(frozen=True)
class DatasetStatistics:
    """Statistics of one dataset."""

    dataset: str
    tables: list[str]
    log: LogStatistics | None
    triples: TripleStatistics | None
    counts: list[Count]
    warnings: list[str]


def dataset_statistics(card: Card, table: str | None = None) -> DatasetStatistics:
    """Read a dataset's log, or its facts, and describe it.

    Args:
        card: the dataset; its files are fetched if they are not cached.
        table: the table to describe; default ``interactions``, else the first whose name begins with ``train``; of a
            dataset of facts alone, all tables of facts.

    Raises:
        UsageError: there is no such table, or no table named and none that is meant by default.
    """
    source = Source(card)
    tables = [table] if table else _default_tables(source)
    if table and not source.has(table):
        raise UsageError(f"the dataset {card.name} has no table '{table}'; it has {', '.join(card.tables)}")
    dictionaries: dict[str, Dictionary] = defaultdict(Dictionary)
    frames = {name: _read(source, name, dictionaries) for name in tables}
    counts = [
        Count(name, published, _counted(frames[of], column))
        for name, published in card.statistics.items()
        for of, _, column in [name.partition(".")]
        if of in frames
    ]
    warnings = [
        f"{count.name}: the card says {count.published:,}, counted {count.counted:,}"
        for count in counts
        if count.counted != count.published
    ]
    if set(TRIPLE) <= set(frames[tables[0]].columns):
        return DatasetStatistics(card.name, tables, None, triple_statistics(frames), counts, warnings)
    _, spec = source.resolve(tables[0])
    log = log_statistics(frames[tables[0]], positions=spec.order == "timestamp")
    # A session is short by what it is; of users it says that their events were entered in one go.
    if log.who == "user" and log.times and log.times.batch_inserted:
        warnings.append(
            f"timestamps look batch-inserted: the median user has {log.times.busiest:.0%} of all events within one "
            "hour, so their order says little of what the user did first"
        )
    return DatasetStatistics(card.name, tables, log, None, counts, warnings)


def _default_tables(source: Source) -> list[str]:
    names = list(source.card.tables)
    facts = [name for name in names if set(TRIPLE) <= set(source.columns(name))]
    log = next((n for n in ["interactions", *(n for n in names if n.startswith("train"))] if n in names), None)
    if log and log not in facts:
        return [log]
    if facts:
        return facts
    raise UsageError(
        f"the dataset {source.card.name} has no table 'interactions' or 'train'; say which with --table: "
        f"{', '.join(names)}"
    )


def _read(source: Source, table: str, dictionaries: Mapping[str, Dictionary]) -> pl.DataFrame:
    """Read what is counted, text as numbers of the values, which are many times smaller."""
    counted = {name.partition(".")[2] for name in source.card.statistics if name.startswith(f"{table}.")}
    columns = source.columns(table)
    wanted = [name for name in columns if name in _READ | counted] or columns[:1]
    frame = pl.concat([_encoded(batch, dictionaries) for batch in source.batches(table, wanted)])
    if frame.is_empty():
        raise RecbenchError(f"the table {table} of the dataset {source.card.name} has no rows")
    return frame


def _encoded(batch: pl.DataFrame, dictionaries: Mapping[str, Dictionary]) -> pl.DataFrame:
    return batch.with_columns(
        pl.Series(name, dictionaries["entity" if name in {"head", "tail"} else name].encode(batch[name]))
        for name, kind in batch.schema.items()
        if kind == pl.String
    )


def _counted(frame: pl.DataFrame, column: str) -> int:
    """Count rows, or the distinct values of a column."""
    if not column:
        return frame.height
    values = frame[column]
    return (values.explode() if isinstance(values.dtype, pl.List) else values).drop_nulls().n_unique()
