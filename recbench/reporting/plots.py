"""Plots of a comparison as SVG: intervals, quality against cost, critical differences.

The same comparison gives the same bytes. Colours are those of Okabe and Ito (2008), told apart by the colour-blind too.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import Bbox

from recbench.metrics.names import higher_is_better
from recbench.reporting.across import Across
from recbench.reporting.compare import Comparison, Row, Table
from recbench.reporting.page import seconds
from recbench.running.result import write_atomic

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#6B6B6B"

QUICKEST = 0.01
"""Seconds; a fit below this is drawn there, for the timer says little about it and a logarithm has no zero."""

LABELS = tuple(
    (distance * np.cos(angle), distance * np.sin(angle))
    for distance in (9, 14, 22, 32, 44, 58, 74, 92)
    for angle in np.pi * np.array([0.25, -0.25, 0.75, -0.75, 0, 1, 0.5, -0.5, 0.125, -0.125, 0.875, -0.875])
)
"""Places of a label about its point in points, the nearest first."""


def write_plots(comparison: Comparison, folder: Path) -> list[Path]:
    """Draw all plots that the comparison has data for and return their files; ``folder`` is made.

    Each table has its intervals, and quality against seconds of fitting where these are known; each set of benchmarks
    with average ranks has its critical-difference diagram. Raises RecbenchError where a file cannot be written.
    """
    written = []
    for name, figure in _figures(comparison):
        text = io.StringIO()
        # Without a salt of its own, each file would have other random ids.
        with mpl.rc_context({"svg.hashsalt": "recbench"}):
            figure.savefig(text, format="svg", metadata={"Date": None})
        written.append(folder / f"{name}.svg")
        write_atomic(written[-1], text.getvalue())
    return written


def _figures(comparison: Comparison) -> Iterator[tuple[str, Figure]]:
    names = [table.benchmark for table in comparison.tables]
    for table in comparison.tables:
        if table.metric is None:
            continue
        split = f" {(table.split_sha256 or '')[:8]}" if names.count(table.benchmark) > 1 else ""
        stem = _stem(f"{table.benchmark}{split} {table.metric}")
        yield f"{stem}-intervals", intervals(table)
        if any(row.fit_s is not None for row in table.rows):
            yield f"{stem}-cost", quality_against_cost(table)
    ranked = [across for across in comparison.across if across.critical_difference is not None]
    for number, across in enumerate(ranked, start=1):
        yield "critical-difference" + (f"-{number}" if len(ranked) > 1 else ""), critical_difference_diagram(across)


def _stem(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.@_]+", "-", name)


def intervals(table: Table) -> Figure:
    """Draw each model's mean with its 95 % interval over seeds, best first, and the letters of its group."""
    rows = table.rows
    low, high = _range(rows)
    figure = Figure(figsize=(7.2, 1.35 + 0.3 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for y, row in enumerate(rows):
        mean, ci95 = row.summary.mean, row.summary.ci95
        if low <= mean <= high:
            if ci95 is not None:
                axes.plot(np.clip(ci95, low, high), (y, y), color=BLUE, linewidth=2.2, solid_capstyle="butt")
            axes.plot(mean, y, marker=_marker(row), color=BLUE, markerfacecolor=_face(row), markersize=6.5)
        else:
            _beyond(axes, mean, y, left=mean < low, text=f"{mean:.4f}")
        axes.annotate(row.group, (1, y), (6, 0), ("axes fraction", "data"), "offset points", va="center")
    axes.set(xlim=(low, high), ylim=(len(rows) - 0.4, -0.6), xlabel=table.metric, title=_title(table))
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color="#E6E6E6")
    _plain(axes)
    marks = {_marker(row): _meaning(row) for row in rows}
    note = "; ".join([*marks.values(), "models that share a letter cannot be told apart"])
    figure.supxlabel(note, fontsize=8, color=GREY)
    return figure
