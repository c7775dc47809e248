"""The comparison as text for a terminal of 80 columns or more."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from recbench.reporting.across import Across
from recbench.reporting.compare import Comparison, Row, Table
from recbench.reporting.page import count, interval, mean_interval, seconds
from recbench.reporting.pairs import Pair, listed, p_value
from recbench.reporting.statistics.summary import ALPHA


def render(comparison: Comparison) -> RenderableType:
    """Return the comparison: each table with its verdict, then the models across benchmarks."""
    tables = (part for table in comparison.tables for part in _table(table))
    return Group(*tables, *(part for across in comparison.across for part in _across(across)))


def _table(table: Table) -> Iterable[RenderableType]:
    split = f"  split {table.split_sha256[:8]}" if table.split_sha256 else ""
    numbers = (table.metric or "", "n", "fit s", "eval s", "MB", "params")
    grid = _grid(table.benchmark + split, "rank", "model", numbers)
    for row in table.rows:
        mean = mean_interval(row.summary.mean, row.summary.ci95, row.deterministic)
        memory = "-" if row.peak_rss_mb is None else f"{row.peak_rss_mb:.0f}"
        cost = (seconds(row.fit_s), seconds(row.evaluate_s), memory, count(row.parameters))
        grid.add_row(_rank(row), row.group, Text(row.label), mean, str(row.summary.n), *cost)
    yield grid
    for failure in table.failures:
        yield Text(f"FAILED {failure.model} seed {failure.seed}: {failure.error}", style="red")
    yield from _warnings(table.warnings)
    if table.versus:
        yield _versus(table.versus)
    yield Text(table.verdict + "\n", style="bold")


def _rank(row: Row) -> str:
    low, high = row.rank_interval
    return str(row.rank) if low == high else f"{row.rank} ({low}-{high})"


def _versus(versus: Sequence[Pair]) -> RenderableType:
    grid = _grid(None, None, f"minus {versus[0].second}", ("difference", "95 % interval", "p (Holm)", "effect"))
    for pair in versus:
        effect = "-" if pair.effect is None else f"{pair.effect:+.2f}"
        p = p_value(pair.p_holm).removeprefix("= ")
        grid.add_row(Text(pair.first), f"{pair.estimate:+.4f}", interval(pair.ci95, signed=True), p, effect)
    return grid


def _across(across: Across) -> Iterable[RenderableType]:
    title = f"across {len(across.benchmarks)} benchmarks"
    grid = _grid(title, "average rank", "model", ("Borda", "win rate", "benchmarks"))
    for row in across.rows:
        rank = "-" if row.rank is None else f"{row.rank:.2f}"
        borda = "-" if row.borda is None else f"{row.borda:g}"
        grid.add_row(rank, row.group, Text(row.label), borda, f"{row.win_rate:.2f}", str(row.n))
    yield grid
    yield Text(f"benchmarks: {_by_metric(across.benchmarks)}")
    yield from _warnings(across.warnings)
    yield Text(_across_verdict(across) + "\n", style="bold")


def _by_metric(benchmarks: dict[str, str]) -> str:
    by_metric = itertools.groupby(sorted(benchmarks, key=lambda name: (benchmarks[name], name)), key=benchmarks.get)
    return "; ".join(f"{', '.join(names)} by {metric}" for metric, names in by_metric)


def _across_verdict(across: Across) -> str:
    """Say in one sentence whether models differ across benchmarks, and by what distance of ranks."""
    if across.friedman_p is None:
        return "No two models have results on the same two benchmarks, so there are no average ranks."
    of = "" if len(across.ranked) == len(across.benchmarks) else f" of {len(across.benchmarks)}"
    p = f"Friedman p {p_value(across.friedman_p)}, {len(across.ranked)}{of} benchmarks"
    if across.friedman_p >= ALPHA:
        return f"Average ranks give no evidence that these models differ across benchmarks ({p})."
    best = across.rows[0]
    distance = f"two models differ when their average ranks are {across.critical_difference:.2f} apart (Nemenyi)"
    tied = [row.label for row in across.rows[1:] if set(row.group) & set(best.group)]
    if not tied:
        return f"{best.label} ranks best across benchmarks ({p}; {distance})."
    return f"{best.label} has the best average rank but cannot be told apart from {listed(tied)} ({p}; {distance})."


def _warnings(warnings: Iterable[str]) -> Iterable[RenderableType]:
    for warning in warnings:
        yield Text(f"warning: {warning}", style="yellow")


def _grid(title: str | None, rank: str | None, model: str, numbers: Sequence[str]) -> Grid:
    """Return an empty table whose numbers are never cut: names and group letters are folded before that."""
    grid = Grid(
        box=box.SIMPLE_HEAD,
        title=title,
        title_justify="left",
        title_style="bold",
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    if rank is not None:
        grid.add_column(rank, no_wrap=True)
        grid.add_column("", overflow="fold", min_width=2)
    grid.add_column(Text(model), overflow="fold", min_width=8)
    for name in numbers:
        grid.add_column(Text(_folded(name)), justify="right", no_wrap=True)
    return grid


def _folded(name: str) -> str:
    """Break the long name of a metric where its parts meet."""
    return name if len(name) <= 15 else re.sub("([:_])", r"\1\n", name)
