"""What the commands print: tables for a terminal of 80 columns, or JSON."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from recbench.running.result import Result


def print_run(result: Result, directory: Path, before: Result | None = None) -> None:
    """Print a finished result's metrics, what the evaluator noticed, and costs.

    Beside the metrics are those of ``before``, the result that was run again. A scored prediction file has no costs.
    """
    assert result.metrics is not None
    assert result.model is not None
    valid, test = result.metrics.valid, result.metrics.test
    columns = {"metric": list(test), "test": [f"{value:.4f}" for value in test.values()]}
    if valid:
        shown = [f"{valid[name]:.4f}" if name in valid else "-" for name in test]
        columns = {"metric": columns["metric"], "valid": shown, "test": columns["test"]}
    if before is not None and before.metrics is not None:
        old = before.metrics.test
        columns["recorded"] = [
            "-" if name not in old else "equal" if old[name] == value else f"{old[name]:.6f}"
            for name, value in test.items()
        ]
    title = f"{result.benchmark}  {result.model.name}  seed {result.seed}"
    print_table(title, list(columns), list(zip(*columns.values(), strict=True)))
    for line in _noticed(result):
        typer.echo(line)
    if result.timing is not None and result.memory is not None:
        typer.echo(
            f"{result.diagnostics['config_from']} configuration, {result.model.parameters:,} parameters, "
            f"fit {result.timing.fit_s:.1f} s ({len(result.timing.epoch_s)} epochs), "
            f"evaluation {result.timing.evaluate_s:.2f} s, peak {result.memory.peak_rss_mb:.0f} MB"
        )
    typer.echo(f"result: {directory}")


def _noticed(result: Result) -> Iterator[str]:
    """Yield a sentence for each thing about the evaluation that a reader of its numbers should know."""
    found = result.diagnostics
    for deviation in found.get("deviations", []):
        yield f"deviation: {deviation}"
    if tie_rate := found.get("tie_rate", 0):
        yield f"ties: {tie_rate:.1%} of the users have equal scores among their best items"
    if (share := found.get("users_with_list", 1)) < 1:
        yield f"coverage: {share:.1%} of the test users have a list, the others count as missed"
    if short := found.get("short_lists", 0):
        yield f"short lists: {short} users have fewer items than were asked for"
    if cold := found.get("users_without_history", 0):
        yield f"cold users: {cold} of the test users have no training items"
    undefined = found.get("undefined", {})
    for users in sorted(set(undefined.values())):
        metrics = ", ".join(metric for metric, count in undefined.items() if count == users)
        yield f"not defined for {users} users, who are left out: {metrics}"
    for finding in result.leakage.findings if result.leakage else []:
        yield f"{'LEAKAGE' if finding.severe else 'note'}: {finding.message}"


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], as_json: bool) -> None:
    """Print the columns as a table, or all of the rows as JSON."""
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        print_table(None, columns, [[str(row[column]) for column in columns] for row in rows])


def print_mapping(values: Mapping[str, Any], as_json: bool) -> None:
    """Print a mapping as YAML or as JSON."""
    if as_json:
        typer.echo(json.dumps(values, indent=2, ensure_ascii=False))
    else:
        import yaml

        typer.echo(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=100).rstrip())


def search_range(space: Mapping[str, Any]) -> str:
    """Return a key's search space in words: its choices, or from where to where and on which scale; of none, none."""
    if choices := space.get("choices"):
        return ", ".join(json.dumps(choice).strip('"') for choice in choices)
    return f"{space['low']:g} to {space['high']:g}{' (log)' if space['log'] else ''}" if space else ""


def refit(document: str, width: int, written: int = 120) -> str:
    """Break a document of ``written`` columns anew for a terminal of ``width`` columns.

    Text that hangs beside a label stays beside it; lines are joined only where they were broken for want of space.
    """
    if width >= written:
        return document
    paragraphs: list[tuple[int, str]] = []  # the column at which its further lines begin, and the text
    last = ""
    for line in document.splitlines():
        indent = len(line) - len(line.lstrip())
        word = next(iter(line.split()), "")
        if paragraphs and word and indent == paragraphs[-1][0] and len(f"{last} {word}") > written:
            paragraphs[-1] = (indent, f"{paragraphs[-1][1]} {line.strip()}")
        else:
            label = re.match(r"\S+( \S+)*  +(?=\S)", line)
            paragraphs.append((label.end() if label else indent, line))
        last = line
    return "\n".join(
        textwrap.fill(text, width, subsequent_indent=" " * hang, break_long_words=False, break_on_hyphens=False)
        for hang, text in paragraphs
    )


def print_table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)
