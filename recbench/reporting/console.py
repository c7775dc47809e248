"""What the commands print: tables for a terminal of 80 columns, or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from recbench.running.result import Result


def print_run(result: Result, directory: Path, before: Result | None) -> None:
    """Print a finished run's metrics and costs; beside them those of ``before``, the result it ran again."""
    assert result.metrics is not None
    assert result.timing is not None
    assert result.memory is not None
    assert result.model is not None
    rows = []
    for name, value in result.metrics.test.items():
        row = [name, f"{result.metrics.valid[name]:.4f}", f"{value:.4f}"]
        if before is not None and before.metrics is not None:
            old = before.metrics.test[name]
            row.append("equal" if old == value else f"{old:.6f}")
        rows.append(row)
    title = f"{result.benchmark}  {result.model.name}  seed {result.seed}"
    print_table(title, ["metric", "valid", "test", *(["recorded"] if before else [])], rows)
    typer.echo(
        f"{result.diagnostics['config_from']} configuration, {result.model.parameters:,} parameters, "
        f"fit {result.timing.fit_s:.1f} s ({len(result.timing.epoch_s)} epochs), "
        f"evaluation {result.timing.evaluate_s:.2f} s, peak {result.memory.peak_rss_mb:.0f} MB"
    )
    typer.echo(f"result: {directory}")


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


def print_table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)
