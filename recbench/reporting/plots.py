"""Plots of a comparison as SVG: intervals, quality against cost, critical differences.

The same comparison gives the same bytes. Colours are those of Okabe and Ito (2008), told apart by the colour-blind too.
"""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from recbench.metrics.names import higher_is_better
from recbench.reporting.across import Across
from recbench.reporting.compare import Comparison, Row, Table
from recbench.reporting.page import shown_range
from recbench.reporting.statistics.summary import Values
from recbench.running.result import write_atomic

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#6B6B6B"

QUICKEST = 0.01
"""Seconds; a fit below this is drawn there, for the timer says little about it and a logarithm has no zero."""

REACH = 4.0
"""A model is drawn out of range from this many times as far from the best as the last of the better two thirds."""

TURNS = (0.25, -0.25, 0.75, -0.75, 0, 1, 0.5, -0.5, 0.12, -0.12, 0.88, -0.88, 0.06, 0.94, 0.38, -0.38, 0.62, -0.62)
PLACES = np.array(
    [
        (distance * math.cos(math.pi * turn), distance * math.sin(math.pi * turn))
        for distance in (9, 14, 22, 32, 44, 58, 74, 92)
        for turn in TURNS
    ]
)
"""Places of a label about its point in points, the nearest first; from the third distance on, a line leads there."""


def write_plots(comparison: Comparison, folder: Path) -> list[Path]:
    """Draw all plots that the comparison has data for and return their files; ``folder`` is made.

    Each table has its intervals, and quality against seconds of fitting where two models have them; each set of
    benchmarks with average ranks has its critical-difference diagram. Raises RecbenchError where a file cannot be
    written.
    """
    return [save(figure, folder / f"{name}.svg") for name, figure in _figures(comparison)]


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as SVG, the same bytes for the same figure, and return its path."""
    text = io.StringIO()
    # Without a salt of its own, each file would have other random ids.
    with mpl.rc_context({"svg.hashsalt": "recbench"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    write_atomic(path, text.getvalue())
    return path


def _figures(comparison: Comparison) -> Iterator[tuple[str, Figure]]:
    names = [table.benchmark for table in comparison.tables]
    for table in comparison.tables:
        if not table.rows:
            continue
        split = f" {(table.split_sha256 or '')[:8]}" if names.count(table.benchmark) > 1 else ""
        start = stem(f"{table.benchmark}{split} {table.metric}")
        yield f"{start}-intervals", intervals(table)
        if sum(row.fit_s is not None for row in table.rows) > 1:
            yield f"{start}-cost", quality_against_cost(table)
    ranked = [across for across in comparison.across if across.critical_difference is not None]
    for number, across in enumerate(ranked, start=1):
        yield "critical-difference" + (f"-{number}" if len(ranked) > 1 else ""), critical_difference_diagram(across)


def stem(name: str) -> str:
    """Return a name as the name of a file."""
    return re.sub(r"[^A-Za-z0-9.@_]+", "-", name).strip("-")


def intervals(table: Table) -> Figure:
    """Draw each model's mean with its 95 % interval over seeds, best first, and the letters of its group."""
    rows = table.rows
    low, high = shown_range([row.summary for row in rows], REACH)
    figure = Figure(figsize=(7.2, 1.3 + 0.28 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    _style(axes, table)
    for y, row in enumerate(rows):
        mean, ci95 = row.summary.mean, row.summary.ci95
        if low <= mean <= high:
            if ci95 is not None:
                axes.plot(ci95, (y, y), color=BLUE, linewidth=2)
            shape, face, _ = _mark(row)
            axes.plot(mean, y, marker=shape, color=BLUE, markerfacecolor=face, markersize=6)
        else:
            edge, text, side = (low, f" ◂ {mean:.4f}", "left") if mean < low else (high, f"{mean:.4f} ▸ ", "right")
            axes.text(edge, y, text, ha=side, va="center", color=GREY)
        axes.annotate(row.group, (1, y), (8, 0), ("axes fraction", "data"), "offset points", va="center")
    axes.set(xlim=(low, high), ylim=(len(rows) - 0.4, -0.6), xlabel=_quality(table))
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(color="#E6E6E6")
    meanings = dict.fromkeys(_mark(row)[2] for row in rows)
    figure.supxlabel("; ".join([*meanings, "models that share a letter cannot be told apart"]), fontsize=8, color=GREY)
    return figure


def quality_against_cost(table: Table) -> Figure:
    """Draw each model's mean against its seconds of fitting, and the front of those that none beats in both."""
    rows = [row for row in table.rows if row.fit_s is not None]
    x = np.array([max(row.fit_s or 0.0, QUICKEST) for row in rows])
    y = np.array([row.summary.mean for row in rows])
    (low, high), right = shown_range([row.summary for row in rows], REACH), x.max() * 2.5
    front = pareto_front(x, y if higher_is_better(table.metric or "") else -y).tolist()
    figure = Figure(figsize=(7.2, 4.8))
    figure.subplots_adjust(left=0.14, right=0.97, top=0.92, bottom=0.12)
    axes = figure.add_subplot(xscale="log", xlim=(x.min() / 2, right), ylim=(low, high))
    _style(axes, table)
    axes.set(xlabel="seconds to fit (mean over seeds, log scale)", ylabel=_quality(table))
    corners = np.column_stack([np.repeat([*x[front], right], 2)[1:-1], np.repeat(y[front], 2)])
    axes.plot(*corners.T, color=ORANGE, linewidth=1.3, zorder=1)
    lines = [np.clip(corners, (0, low), (right, high))]
    for i, row in enumerate(rows):
        color = ORANGE if i in front else GREY
        if row.summary.ci95 is not None:
            axes.plot((x[i], x[i]), row.summary.ci95, color=color, linewidth=1, zorder=2)
            lines.append(np.array([(x[i], np.clip(end, low, high)) for end in row.summary.ci95]))
        shape = "v" if y[i] < low else "^" if y[i] > high else "o"
        height = np.clip(y[i], low, high)
        axes.plot(x[i], height, marker=shape, color=color, markersize=6, clip_on=False, zorder=3 + (i in front))
    few = x.max() / x.min() < 300
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(_seconds))
    axes.xaxis.set_minor_formatter(NullFormatter())
    order = sorted(range(len(rows)), key=lambda i: i not in front)  # the front has the first choice of places
    labels = [rows[i].label + ("" if low <= y[i] <= high else f" {y[i]:.4f}") for i in order]
    _place_labels(axes, labels, np.column_stack([x, np.clip(y, low, high)])[order], lines, len(front))
    axes.plot([], [], color=ORANGE, marker="o", label="Pareto front: none is both better and quicker")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, fontsize=8, borderaxespad=0.2)
    return figure


def pareto_front(cost: Values, quality: Values) -> NDArray[np.int_]:
    """Return the positions, cheapest first, that no other beats in cost or quality without losing in the other.

    ``cost`` and ``quality`` have shape (models,); higher quality is better. Of equals in both, the first is returned.
    """
    order = np.lexsort((-quality, cost))
    before = np.maximum.accumulate(np.concatenate([[-np.inf], quality[order][:-1]]))
    return order[quality[order] > before]


def critical_difference_diagram(across: Across) -> Figure:
    """Draw average ranks on a line, the best at the right, and bars that join models that cannot be told apart.

    The form is that of Demšar (2006, JMLR 7:1-30, figure 1), for an ``across`` that has average ranks. Lengths are in
    inches.
    """
    rows = [row for row in across.rows if row.rank is not None]
    ranks = [row.rank or 0.0 for row in rows]
    count, critical = len(rows), across.critical_difference or 0.0
    margin = 0.5 + 0.08 * max(len(row.label) for row in rows) + 0.4
    width, line, step = 3.4, 0.95, 0.22
    bars = line + 0.16 + 0.11 * np.arange(len(across.groups))
    first = line + 0.3 + 0.11 * len(across.groups)
    right = math.ceil(count / 2)
    height = first + step * right + 0.35

    def x(rank: float) -> float:
        return margin + width * (count - rank) / (count - 1)

    figure = Figure(figsize=(2 * margin + width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 2 * margin + width), ylim=(height, 0))
    axes.set_axis_off()
    axes.plot((x(count), x(1)), (line, line), color="black", linewidth=1)
    for tick in range(1, count + 1):
        axes.plot((x(tick), x(tick)), (line - 0.07, line), color="black", linewidth=1)
        axes.text(x(tick), line - 0.1, str(tick), ha="center", va="bottom", fontsize=9)
    shown = min(critical, count - 1)  # with few benchmarks it may be longer than the line
    axes.plot((x(count), x(count - shown)), (0.48, 0.48), color="black", linewidth=1.5, marker="|", markersize=7)
    beyond = ", more than this line" if critical > shown else ""
    axes.text(x(count), 0.4, f"critical difference {critical:.2f}{beyond}", va="bottom", fontsize=9)
    for i, (row, rank) in enumerate(zip(rows, ranks, strict=True)):
        better = i < right
        y = first + step * (i if better else count - 1 - i)
        end, side, shift = (x(1) + 0.15, "left", 0.06) if better else (x(count) - 0.15, "right", -0.06)
        axes.plot((x(rank), x(rank), end), (line, y, y), color=GREY, linewidth=0.9)
        text = f"{row.label}  {rank:.2f}" if better else f"{rank:.2f}  {row.label}"
        axes.text(end + shift, y, text, ha=side, va="center", fontsize=10)
    for y, group in zip(bars, across.groups, strict=True):
        joined = [rank for row, rank in zip(rows, ranks, strict=True) if row.label in group]
        axes.plot((x(max(joined)) - 0.05, x(min(joined)) + 0.05), (y, y), color=BLUE, linewidth=3.5)
    note = f"Average ranks over {len(across.ranked)} benchmarks; a bar joins models that cannot be told apart"
    axes.text(margin + width / 2, height - 0.12, note, ha="center", fontsize=8, color=GREY)
    return figure


def _mark(row: Row) -> tuple[str, str, str]:
    """Return marker, its filling, and what it means."""
    if row.deterministic:
        return "D", BLUE, "◆ exact"
    if row.summary.ci95 is None:
        return "o", "white", "○ one seed"
    return "o", BLUE, "● mean and 95 % interval over seeds"


def _style(axes: Axes, table: Table) -> None:
    axes.set_title(table.benchmark, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def _quality(table: Table) -> str:
    return f"{table.metric} ({'higher' if higher_is_better(table.metric or '') else 'lower'} is better)"


def _seconds(value: float, _: int) -> str:
    return f"≤ {value:g}" if math.isclose(value, QUICKEST) else f"{value:g}"


def _place_labels(axes: Axes, labels: Sequence[str], points: Values, lines: Sequence[Values], strong: int) -> None:
    """Write each label near its point of shape (models, 2) where it meets no point, no line and no other label.

    ``lines`` are corners, each of shape (corners, 2). The first ``strong`` labels are black, the others grey.
    """
    scale = axes.figure.dpi / 72  # pixels of a point
    pixels = axes.transData.transform(points)
    corners = [axes.transData.transform(line) for line in lines]
    ends = np.array([pair for line in corners for pair in itertools.pairwise(line)]).reshape(-1, 2, 2)
    taken = np.concatenate([_squares(pixels, 4 * scale), _along(ends[:, 0], ends[:, 1]).reshape(-1, 4)])
    texts = np.empty((0, 4))
    offsets = scale * PLACES
    beside = np.abs(offsets[:, :1]) >= 1
    direction = np.sign(np.where(beside, offsets * (1, 0), offsets * (0, 1)))
    frame = axes.get_window_extent()
    for i, (label, point, pixel) in enumerate(zip(labels, points, pixels, strict=True)):
        # Where no place is free, it can be read on a line too.
        ground = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.5}
        text = axes.annotate(label, point, color="black" if i < strong else GREY, fontsize=9, va="center", bbox=ground)
        size = np.array(text.get_window_extent().size)
        corner = pixel + offsets + size * (direction - 1) / 2
        boxes = np.concatenate([corner - 2, corner + size + 2], axis=1)  # not even close by
        outside = (corner < frame.min).any(axis=1) | (corner + size > frame.max).any(axis=1)
        leaders = _along(np.broadcast_to(pixel, offsets.shape), pixel + offsets)
        crossed = _overlaps(leaders.reshape(-1, 4), texts).reshape(len(PLACES), -1).sum(axis=1)
        faults = 1000 * outside + 100 * _overlaps(boxes, texts) + 10 * crossed + _overlaps(boxes, taken)
        best = int(np.argmin(faults))  # the first, so the nearest, of equals
        x, y = axes.transData.inverted().transform(corner[best] + (0, size[1] / 2))
        text.set_position((x, y))
        texts = np.concatenate([texts, boxes[[best]]])
        if best >= len(TURNS) * 2:
            taken = np.concatenate([taken, leaders[best]])
            style = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}
            dx, dy = PLACES[best]
            axes.annotate("", point, (dx, dy), textcoords="offset points", arrowprops=style)


def _along(starts: Values, ends: Values) -> Values:
    """Return small squares that cover lines between pixels of shape (lines, 2), shape (lines, squares, 4)."""
    parts = np.linspace(0, 1, 60)[:, None]
    return _squares(starts[:, None] + parts * (ends - starts)[:, None], 1)


def _squares(centres: Values, half: float) -> Values:
    return np.concatenate([centres - half, centres + half], axis=-1)


def _overlaps(boxes: Values, others: Values) -> NDArray[np.int_]:
    """Return with how many others each box overlaps; boxes are x and y of two corners, shapes (boxes, 4)."""
    apart = (boxes[:, None, :2] >= others[None, :, 2:]) | (boxes[:, None, 2:] <= others[None, :, :2])
    counts: NDArray[np.int_] = (~apart.any(axis=-1)).sum(axis=1)
    return counts
