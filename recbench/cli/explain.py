"""The command ``recbench explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recbench.cli.options import AsJson


def explain(
    result: Annotated[Path, typer.Argument(help="Result directory, or its result.json.")],
    plots: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Draw plots (SVG) in this folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a trained model selected or attends to: gates, choices of pairs, attention, sizes."""
    from pydantic import TypeAdapter

    from recbench.models.explanation import Explanation
    from recbench.reporting.explain import print_explanation, write_plots
    from recbench.running.explanation import read_explanation

    explanation = read_explanation(result)
    if as_json:
        typer.echo(TypeAdapter(Explanation).dump_json(explanation, indent=2).decode())
    else:
        print_explanation(explanation)
    if plots is not None:
        for path in write_plots(explanation, plots):
            typer.echo(f"plot: {path}", err=as_json)
