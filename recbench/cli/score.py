"""The command ``recbench score``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recbench.cli.options import AsJson, Out, Seed


def score(
    predictions: Annotated[Path, typer.Argument(help="Parquet file with raw ids.")],
    benchmark: Annotated[str, typer.Option("--benchmark", help="Full name, such as topn/ml-100k.")],
    name: Annotated[str | None, typer.Option("--name", help="Name of the model (default: the file's name).")] = None,
    seed: Seed = 1,
    out: Out = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Score a prediction file made with any library; its result compares and ranks like those of runs.

    Columns: user, item, score and optionally rank (topn, kg, sequential); row, score (ctr); user, item, score (rating).
    """
    from recbench.reporting.console import print_run
    from recbench.running.score import score as score_file

    result, directory = score_file(predictions, benchmark, name=name, seed=seed, out=out)
    if as_json:
        typer.echo(result.model_dump_json(indent=2))
        return
    print_run(result, directory)
