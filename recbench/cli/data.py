"""The commands on datasets: ``recbench data ...``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recbench.cli.options import AsJson
from recbench.errors import RecbenchError, UsageError

if TYPE_CHECKING:
    from recbench.data.cards import Card

app = typer.Typer(no_args_is_help=True, help="Datasets: what there is, fetching, verification, statistics, your own.")

_TITLE_WIDTH = 20
"""Columns of the terminal that are worth using for a title."""


@app.command("list")
def data_list(
    text: Annotated[str, typer.Argument(metavar="[TEXT]", help="Only those with this in the name or title.")] = "",
    as_json: AsJson = False,
) -> None:
    """List the datasets."""
    from rich.console import Console

    from recbench.data.cards import card_names, load_card
    from recbench.reporting.console import print_rows

    rows = [_row(load_card(name)) for name in card_names()]
    rows = [row for row in rows if text.lower() in f"{row['name']} {row['title']}".lower()]
    if not rows:
        raise UsageError(f"no dataset has '{text}' in its name or title; recbench data list shows all")
    columns = ["name", "MB", "verified", "cached"]
    # A column takes three characters more than its text, and so does the line. A title is cut to what is left of the
    # line; where that is little, it is left out.
    room = Console().width - 6 - sum(3 + max(len(cell) for cell in _cells(rows, column)) for column in columns)
    if room >= _TITLE_WIDTH:
        columns.insert(1, "title")
    short = [row | {"title": _cut(row["title"], room)} for row in rows]
    print_rows(rows if as_json else short, columns, as_json)


@app.command("info")
def data_info(name: str, as_json: AsJson = False) -> None:
    """Show a dataset's card."""
    from recbench.data.cards import load_card
    from recbench.reporting.console import print_mapping
    from recbench.resources import home

    card = load_card(name)
    whole = card.model_dump(mode="json")
    if as_json:
        print_mapping(whole, as_json)
        return
    said = card.model_dump(mode="json", exclude_defaults=True)
    place = home() / "datasets" / card.name / card.version
    first = {"name": card.name, "version": card.version, "title": card.title, "access": card.access}
    by_hand = {"obtain": card.obtain, "put files in": str(place)} if card.obtain else {}
    print_mapping(first | by_hand | {key: value for key, value in said.items() if key not in first | by_hand}, as_json)


@app.command("stats")
def data_stats(
    name: str,
    table: Annotated[str | None, typer.Option("--table", help="Table (default: interactions, else train).")] = None,
    as_json: AsJson = False,
) -> None:
    """Count users, items and rows; describe popularity, timestamps and cold starts; compare with the card."""
    from dataclasses import asdict

    from recbench.data.cards import load_card
    from recbench.data.describe import dataset_statistics
    from recbench.reporting.datasets import print_statistics

    found = dataset_statistics(load_card(name), table)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2, ensure_ascii=False))
    else:
        print_statistics(found)


@app.command("add")
def data_add(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="CSV, Parquet, RecBole, libFM, JSON lines.")],
    name: Annotated[str | None, typer.Option("--name", help="Name (default: that of the file or folder).")] = None,
    title: Annotated[str | None, typer.Option("--title", help="Title (default: the name).")] = None,
    licence: Annotated[str | None, typer.Option("--licence", help="Licence of the data.")] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="FILECOLUMN=NAME[:TYPE]", help="What a column is; may be repeated."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the card of that name in this folder.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a card for files of your own: their form and columns are inferred, their bytes kept in the cache."""
    from dataclasses import asdict

    from recbench.data.own.adding import add, parse_columns
    from recbench.reporting.datasets import print_added

    added = add(files, name=name, title=title, licence=licence, columns=parse_columns(columns or []), force=force)
    if as_json:
        content = {"card": added.card.model_dump(mode="json"), "path": str(added.path)}
        typer.echo(json.dumps(content | {"columns": [asdict(column) for column in added.columns]}, indent=2))
    else:
        print_added(added)


@app.command("export")
def data_export(
    benchmark: Annotated[str, typer.Argument(help="Full name, such as topn/ml-100k.")],
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    as_json: AsJson = False,
) -> None:
    """Write a benchmark's split as Parquet with raw ids, for other libraries; of test only what is asked."""
    from recbench.data.cards import load_card
    from recbench.data.export import export
    from recbench.tasks.base import load_benchmark
    from recbench.tasks.registry import TASKS

    definition = load_benchmark(benchmark)
    if definition.task not in TASKS:
        raise UsageError(f"{benchmark} is a {definition.task} benchmark, of which no predictions can be scored yet")
    files = export(definition.protocol.prepare(load_card(definition.dataset)), folder)
    if as_json:
        typer.echo(json.dumps([str(file) for file in files], indent=2))
        return
    for file in files:
        typer.echo(str(file))
    typer.echo(f"score predictions with: recbench score FILE --benchmark {benchmark}")


@app.command("rank-features")
def data_rank_features(
    benchmark: Annotated[str, typer.Argument(help="Full name, such as ctr/frappe.")],
    order: Annotated[int, typer.Option("--order", min=1, help="Also combinations of up to so many fields.")] = 1,
    top: Annotated[int, typer.Option("--top", min=1, help="Show so many.")] = 40,
    as_json: AsJson = False,
) -> None:
    """Rank the fields of a click log by what they tell of the label on training rows: mutual information in nats.

    The score leaves out what a field of as many values would tell by chance alone, so that it may be slightly negative;
    plain mutual information does not. A row's values of a multi-valued field are one value together, and so are its
    labels where there are several; a number counts by groups of equal size.
    """
    from dataclasses import asdict

    from recbench.data.cards import load_card
    from recbench.data.feature_ranking import Rows, rank_fields
    from recbench.data.progress import status
    from recbench.data.protocols import Labelled
    from recbench.reporting.datasets import print_ranking
    from recbench.tasks.base import load_benchmark

    definition = load_benchmark(benchmark)
    if not isinstance(definition.protocol, Labelled):
        raise UsageError(
            f"{benchmark} is a {definition.task} benchmark, expected one whose rows have fields and a label"
        )
    prepared = definition.protocol.prepare(load_card(definition.dataset))
    with status("ranking") as tell:
        ranked = rank_fields(Rows(prepared.part("train"), prepared.meta["fields"]), order, tell)
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in ranked[:top]], indent=2))
    else:
        print_ranking(benchmark, ranked[:top], len(ranked))


@app.command("fetch")
def data_fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME...")],
    force: Annotated[bool, typer.Option("--force", help="Fetch again what is cached.")] = False,
    extra: Annotated[bool, typer.Option("--extra", help="Also files that only some tables need.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch datasets into the cache and verify every file."""
    from recbench.data.cards import load_card
    from recbench.data.files.fetch import fetch

    cards = [load_card(name) for name in names]
    fetched = {}
    for card in cards:
        paths = fetch(card, force=force)
        if extra:
            paths |= fetch(card, [name for name, file in card.files.items() if file.extra], force=force)
        fetched[card.name] = list(map(str, paths.values()))
    listed = "\n".join(path for paths in fetched.values() for path in paths)
    typer.echo(json.dumps(fetched, indent=2) if as_json else listed)


@app.command("verify")
def data_verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...")] = None, as_json: AsJson = False
) -> None:
    """Check cached files against their cards: those of the named datasets, or all, and all prepared data too."""
    from recbench.data.cards import card_names, load_card
    from recbench.data.files.fetch import cached, verify
    from recbench.data.store import verify_all

    cards = [load_card(name) for name in names or card_names()]
    raw = {card.name: verify(card) for card in cards if names or cached(card)}
    prepared = {} if names else verify_all()
    if as_json:
        typer.echo(json.dumps({"raw": raw, "prepared": prepared}, indent=2))
    else:
        for name, found in raw.items():
            typer.echo(f"{name}: {'; '.join(found) or 'all files verified'}")
        for name, found in prepared.items():
            typer.echo(f"prepared {name}: {'; '.join(found) or 'all arrays verified'}")
    advice = {
        "files differ from their cards; recbench data fetch NAME --force": sum(map(len, raw.values())),
        "prepared arrays differ from what was written; delete their folders": sum(map(len, prepared.values())),
    }
    if any(advice.values()):
        raise RecbenchError(", and ".join(f"{count} {text}" for text, count in advice.items() if count))


def _row(card: Card) -> dict[str, Any]:
    """Describe a dataset in one row; whether it is cached is seen from the files' being there, no file is read."""
    from recbench.data.cards import BorrowedTable
    from recbench.data.files.fetch import cached

    read = {name for table in card.tables.values() if not isinstance(table, BorrowedTable) for name in table.file}
    sizes = [size for name in read if (size := card.files[name].bytes) is not None]
    known = sum(sizes) if len(sizes) == len(read) else None
    return {
        "name": card.name,
        "title": card.title,
        "version": card.version,
        "MB": "?" if known is None else f"{known / 1e6:.1f}",
        "bytes": known,
        "verified": card.verified,
        "access": card.access,
        "cached": "yes" if cached(card) else "no",
        "licence": card.licence,
        "homepage": str(card.homepage) if card.homepage else None,
        "tables": list(card.tables),
        "statistics": card.statistics,
    }


def _cells(rows: list[dict[str, Any]], column: str) -> list[str]:
    return [column, *(str(row[column]) for row in rows)]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(width - 3, 0)]}..."
