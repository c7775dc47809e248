"""What a model selected: figures, tables and matrices in the terminal, and as plots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from recbench.models.explanation import Explanation, Matrix, Table
from recbench.reporting.console import print_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 80
"""Of a terminal; of a matrix that is too wide only the largest entries are shown."""
MOST_ROWS = 30
"""Of a table in the terminal."""
MOST_BARS = 60
MOST_NUMBERS = 144
"""Entries of a matrix that are also written as numbers in its plot."""


def print_explanation(explanation: Explanation) -> None:
    """Print in 80 columns; long tables and wide matrices are cut, and say so."""
    if explanation.figures:
        print_table(None, ["figure", "value"], [[name, _number(value)] for name, value in explanation.figures.items()])
    for part in explanation.parts:
        rows: list[tuple[str | float, ...]]
        if isinstance(part, Table):
            n_rows = len(next(iter(part.columns.values()), ()))
            rows = [tuple(column[row] for column in part.columns.values()) for row in range(n_rows)]
            _print_rows(part.title, list(part.columns), rows)
        elif (matrix := _fitting(part)) is not None:
            rows = [(name, *values) for name, values in zip(matrix.rows, matrix.values, strict=True)]
            _print_rows(part.title, ["", *matrix.columns], rows)
        else:
            entries = sorted(_entries(part), key=lambda entry: -abs(entry[2]))
            _print_rows(f"{part.title}: largest entries", ["row", "column", "value"], entries)


def _fitting(matrix: Matrix) -> Matrix | None:
    """Return a matrix as it fits a terminal: as it is, or else with rows and columns exchanged; None if neither."""
    turned = Matrix(matrix.title, matrix.columns, matrix.rows, list(zip(*matrix.values, strict=True)))
    return next((each for each in (matrix, turned) if _width(each) <= WIDTH), None)


def _width(matrix: Matrix) -> int:
    named = zip(matrix.columns, *matrix.values, strict=True)
    widths = [max(len(name), *(len(_number(value)) for value in values)) for name, *values in named]
    # Each column, that of the rows' names too, has a space before it and two behind it.
    return sum(width + 3 for width in [max(map(len, matrix.rows)), *widths])


def _entries(matrix: Matrix) -> Iterator[tuple[str, str, float]]:
    for row, values in zip(matrix.rows, matrix.values, strict=True):
        for column, value in zip(matrix.columns, values, strict=True):
            yield row, column, value


def _print_rows(title: str, columns: list[str], rows: Sequence[tuple[str | float, ...]]) -> None:
    shown = [[value if isinstance(value, str) else _number(value) for value in row] for row in rows[:MOST_ROWS]]
    print_table(title, columns, shown)
    if len(rows) > MOST_ROWS:
        typer.echo(f"  {len(rows) - MOST_ROWS} more rows: --json")


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


def write_plots(explanation: Explanation, folder: Path) -> list[Path]:
    """Draw each matrix as a heat map and each table whose last column holds numbers as bars; return the SVG files."""
    from recbench.reporting.plots import save, stem

    written = []
    for number, part in enumerate(explanation.parts, start=1):
        figure = _heat_map(part) if isinstance(part, Matrix) else _bars(part)
        if figure is not None:
            written.append(save(figure, folder / f"{number}-{stem(part.title)}.svg"))
    return written


def _heat_map(matrix: Matrix) -> Figure:
    from matplotlib.figure import Figure

    n_rows, n_columns = len(matrix.rows), len(matrix.columns)
    figure = Figure(figsize=(3 + 0.42 * n_columns, 1.6 + 0.32 * n_rows), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(matrix.values, cmap="cividis", aspect="auto")
    axes.set_xticks(range(n_columns), matrix.columns, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(n_rows), matrix.rows)
    if n_rows * n_columns <= MOST_NUMBERS:
        middle = (min(map(min, matrix.values)) + max(map(max, matrix.values))) / 2
        for y, values in enumerate(matrix.values):
            for x, value in enumerate(values):
                colour = "black" if value > middle else "white"
                number = f"{value:.0f}" if float(value).is_integer() else f"{value:.3g}"
                axes.text(x, y, number, ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image)
    figure.suptitle(matrix.title, fontsize=10)
    return figure


def _bars(table: Table) -> Figure | None:
    from matplotlib.figure import Figure

    from recbench.reporting.plots import BLUE

    labels, values = (list(table.columns[name]) for name in (next(iter(table.columns)), list(table.columns)[-1]))
    if not all(isinstance(value, int | float) for value in values):
        return None
    labels, values = labels[:MOST_BARS], values[:MOST_BARS]
    figure = Figure(figsize=(7.2, 1.2 + 0.24 * len(labels)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(range(len(labels)), values, color=BLUE, height=0.7)
    axes.set_yticks(range(len(labels)), [str(label) for label in labels])
    axes.set(xlabel=list(table.columns)[-1], ylim=(len(labels) - 0.4, -0.6))
    axes.grid(axis="x", color="#E6E6E6")
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    n_rows = len(next(iter(table.columns.values())))
    shown = f" (first {MOST_BARS} of {n_rows})" if n_rows > MOST_BARS else ""
    figure.suptitle(table.title + shown, fontsize=10)
    return figure
