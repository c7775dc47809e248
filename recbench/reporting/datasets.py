"""What ``recbench data stats``, ``data add`` and ``data rank-features`` print."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING

import typer

from recbench.reporting.console import print_table

if TYPE_CHECKING:
    from recbench.data.describe import Count, DatasetStatistics
    from recbench.data.feature_ranking import Ranked
    from recbench.data.own.adding import Added
    from recbench.data.statistics import ColdShares, LogStatistics, Popularity, Spread, Times, TripleStatistics

_Lines = list[tuple[str, str]]


def print_statistics(found: DatasetStatistics) -> None:
    """Print the statistics of a dataset as tables for a terminal of 80 columns, warnings last."""
    title = f"{found.dataset}: {', '.join(found.tables)}"
    if found.log:
        _print_log(title, found.log)
    if found.triples:
        _print_triples(title, found.triples)
    if found.counts:
        _print_counts(found.counts)
    for warning in found.warnings:
        typer.echo(fill(f"WARNING: {warning}", width=80))


def print_added(added: Added) -> None:
    """Print what was inferred of the files of a new dataset, and what can be done with it."""
    rows = [
        [column.file, column.source, f"{column.table}.{column.name}" if column.table else "(left out)", column.type]
        for column in added.columns
    ]
    print_table(added.card.title, ["file", "column", "read as", "type"], rows)
    name = added.card.name
    for statistic, count in added.card.statistics.items():
        typer.echo(f"{statistic}: {count:,}")
    typer.echo(f"card: {added.path}")
    typer.echo(f"next: recbench data stats {name}")
    typer.echo(
        f"      a benchmark: configs/benchmarks/<task>/{name}.yaml in this folder,\n"
        f"      with `dataset: {name}` (recbench benchmarks info NAME shows others)"
    )


def print_ranking(title: str, shown: Sequence[Ranked], of: int) -> None:
    """Print the first of ``of`` fields, or combinations of fields, and their mutual information with the label."""
    rows = [
        [" AND ".join(each.fields), f"{each.cardinality:,}", f"{each.score:.5f}", f"{each.information:.5f}"]
        for each in shown
    ]
    print_table(title, ["field", "values", "score, nats", "plain mutual information"], rows)
    if len(shown) < of:
        typer.echo(f"{of - len(shown):,} more are left out; --top {of} shows all")


def _print_log(title: str, log: LogStatistics) -> None:
    lines: _Lines = [("rows", f"{log.rows:,}")]
    if log.users:
        lines.append((f"{log.who}s", f"{log.users.count:,}"))
    if log.items:
        lines.append(("items", f"{log.items.count:,}"))
    if log.density is not None:
        lines.append((f"density: distinct pairs / ({log.who}s x items)", f"{log.density:.4%}"))
        lines.append(("rows that repeat a pair", f"{log.repeated_rows:,}"))
    _print_lines(title, lines)
    if sides := {who: side for who, side in ((log.who, log.users), ("item", log.items)) if side}:
        header = ["rows per", "min", "median", "mean", "max", "Gini", "of the top 1 %"]
        print_table(None, header, [[who, *_popularity(side)] for who, side in sides.items()])
    for name, values in log.values.items():
        if isinstance(values, dict):
            total = sum(values.values())
            rows = [[value, f"{count:,}", f"{count / total:.1%}"] for value, count in values.items()]
            print_table(None, [name, "rows", "share"], rows)
        else:
            print_table(None, [name, "min", "median", "mean", "max"], [["", *_spread(values)]])
    if log.times:
        _print_lines("times", _times(log.times, log.who))
    if log.cold:
        _print_lines(
            f"of the last {log.cold.test_events:,} events, a tenth: not seen before",
            _cold(log.cold, log.who),
        )


def _popularity(side: Popularity) -> list[str]:
    return [*_spread(side.rows), f"{side.gini:.3f}", f"{side.top_share:.1%}"]


def _spread(values: Spread) -> list[str]:
    return [f"{values.min:g}", f"{values.median:g}", f"{values.mean:.6g}", f"{values.max:g}"]


def _times(times: Times, who: str) -> _Lines:
    if times.kind == "positions":
        return [("what they are", "positions in the file, not times")]
    unit = " s" if times.earliest_date else ""
    lines = [
        ("what they are", times.kind),
        ("earliest", times.earliest_date or _number(times.earliest, "")),
        ("latest", times.latest_date or _number(times.latest, "")),
        ("smallest step", _number(times.resolution, unit)),
        (f"rows at the same time as another of the {who}", _share(times.shared)),
        (f"rows within a second of the one before of the {who}", _share(times.within_second)),
        ("median events in a burst (pauses up to 30 min)", _number(times.burst, "")),
        (f"median share of a {who}'s events in the busiest hour", _share(times.busiest)),
    ]
    missing = [("rows without a time", f"{times.missing:,}")] if times.missing else []
    return missing + [line for line in lines if line[1]]


def _cold(cold: ColdShares, who: str) -> _Lines:
    lines = [(f"{who}s", _share(cold.users)), ("items", _share(cold.items)), ("events with such", _share(cold.events))]
    return [line for line in lines if line[1]]


def _print_triples(title: str, triples: TripleStatistics) -> None:
    lines: _Lines = [
        ("entities", f"{triples.entities:,}"),
        ("relations", f"{triples.relations:,}"),
        *((f"facts of {table}", f"{count:,}") for table, count in triples.facts.items()),
        ("facts that repeat another", f"{triples.repeated_facts:,}"),
    ]
    _print_lines(title, lines)
    print_table(
        None, ["", "min", "median", "mean", "max"], [["facts per relation", *_spread(triples.facts_per_relation)]]
    )
    if triples.unseen:
        rows = [
            [table, f"{unseen.entities:,}", f"{unseen.relations:,}", f"{unseen.facts:,}"]
            for table, unseen in triples.unseen.items()
        ]
        print_table(None, ["not in train", "entities", "relations", "facts with such"], rows)


def _print_counts(counts: list[Count]) -> None:
    rows = [
        [
            count.name,
            f"{count.published:,}",
            f"{count.counted:,}",
            "" if count.published == count.counted else "differs",
        ]
        for count in counts
    ]
    print_table(None, ["on the card", "published", "counted", ""], rows)


def _print_lines(title: str, lines: _Lines) -> None:
    print_table(None, [title, ""], [list(line) for line in lines])


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.10g}{unit}"
