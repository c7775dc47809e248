"""Leaderboards for people: one self-contained HTML page, and Markdown tables for GitHub.

The same records give the same bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from recbench.metrics.names import higher_is_better
from recbench.running.result import SCORED, write_atomic

if TYPE_CHECKING:
    from recbench.reporting.boards import BoardMetric, BoardRecord
    from recbench.reporting.statistics.summary import Summary

SHOWN = 3
"""Metrics shown beside the primary one before the reader asks for all."""

BAR = 120
"""Width of an interval bar in pixels."""


def count(value: float | None) -> str:
    """Write a count for people: ``950``, ``1.2M``."""
    if value is None:
        return "-"
    if value < 999.5:
        return f"{value:.0f}"
    for unit in ("k", "M", "G"):
        value /= 1000
        if value < 99.95:
            return f"{value:.1f}{unit}"
        if value < 999.5:
            return f"{value:.0f}{unit}"
    return f"{value:.0f}G"


def seconds(value: float | None) -> str:
    """Write seconds with at least two significant digits, and no decimals from ten on."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def mean_interval(mean: float, ci95: tuple[float, float] | None, deterministic: bool) -> str:
    """Write a mean with half its interval: ``0.3345 ± 0.0012``, ``0.3345 exact``, or ``0.3345 ± ?`` for one seed."""
    half = "exact" if deterministic else "± ?" if ci95 is None else f"± {(ci95[1] - ci95[0]) / 2:.4f}"
    return f"{mean:.4f} {half}"


def interval(ci95: tuple[float, float] | None, signed: bool = False) -> str:
    """Write the two ends of an interval."""
    sign = "+" if signed else ""
    return "-" if ci95 is None else f"{ci95[0]:{sign}.4f} to {ci95[1]:{sign}.4f}"


def shown_range(found: Sequence[Summary | BoardMetric], reach: float = 2.0) -> tuple[float, float]:
    """Return the values that a drawing of intervals spans, for models best first.

    They are those of the better two thirds of the models, and of all up to ``reach`` times as far from the best: a
    random baseline far below must not squeeze the intervals of the others to points.
    """
    if not found:
        return 0.0, 1.0
    best, middle = found[0].mean, found[(2 * len(found) - 1) // 3].mean
    near = [value for value in found if abs(value.mean - best) <= reach * abs(middle - best)]
    ends = [end for value in near for end in value.ci95 or (value.mean,)]
    margin = (max(ends) - min(ends)) * 0.04 or abs(best) * 0.01 or 0.01
    return min(ends) - margin, max(ends) + margin


def write_page(records: Sequence[BoardRecord], path: Path, title: str = "recbench leaderboards") -> Path:
    """Write one static HTML page of all ``records``: no network, sortable tables, intervals drawn. Returns ``path``."""
    boards = list(_boards(records))
    links = "\n".join(f'<a href="#{escape(_anchor(name))}">{escape(name)}</a>' for name, _ in boards)
    sections = "\n".join(_section(name, rows) for name, rows in boards)
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    parts = {"{{title}}": escape(title), "{{links}}": links, "{{boards}}": sections}
    for mark, text in parts.items():
        template = template.replace(mark, text)
    write_atomic(path, template)
    return path


def write_markdown(records: Sequence[BoardRecord], path: Path) -> Path:
    """Write all ``records`` as Markdown tables. Returns ``path``."""
    lines = [
        "# Leaderboards",
        "",
        "Built from results; do not edit. Means over seeds with 95 % intervals on the test part; a deterministic model",
        "is exact. `index.html` beside this file has every metric and sorts. Whether two models differ is a question",
        "for `recbench compare`.",
    ]
    for name, rows in _boards(records):
        primary, others = _metric_names(rows)
        lines += ["", f"## {name}", "", _provenance(rows), ""]
        head = ["model", "status", primary, *others[:SHOWN], "seeds", "fit s", "eval s", "MB", "parameters", "trials"]
        lines += [_markdown_row(head), _markdown_row(["---", "---", *["---:"] * (len(head) - 2)])]
        for row in rows:
            cells = [_metric(row, metric) for metric in (primary, *others[:SHOWN])]
            lines.append(_markdown_row([row.model.name, _status(row), *cells, *(text for text, _ in _costs(row))]))
        published = _published(rows)
        if published:
            lines += ["", "Published numbers, not ranked:", "", "| model | source | metric | published | measured |"]
            lines += ["| --- | --- | --- | ---: | ---: |"]
            lines += [_markdown_row(cells) for cells in published]
    write_atomic(path, "\n".join(lines) + "\n")
    return path


def _boards(records: Sequence[BoardRecord]) -> Iterator[tuple[str, list[BoardRecord]]]:
    """Yield each benchmark's records, best mean first, failures last."""
    by_name = sorted(records, key=lambda record: (record.benchmark, record.model.name))
    for name, group in itertools.groupby(by_name, key=lambda record: record.benchmark):
        rows = list(group)
        primary, _ = _metric_names(rows)
        better = 1.0 if not primary or higher_is_better(primary) else -1.0
        yield (
            name,
            sorted(
                rows,
                key=lambda row: (
                    -better * row.metrics.test[primary].mean if primary in row.metrics.test else float("inf")
                ),
            ),
        )


def _metric_names(rows: Sequence[BoardRecord]) -> tuple[str, list[str]]:
    """Return the primary metric ("" if no run has finished) and the others in the order of the records."""
    primary = next((row.primary_metric for row in rows if row.primary_metric), "")
    return primary, [
        name for name in dict.fromkeys(name for row in rows for name in row.metrics.test) if name != primary
    ]


def _metric(row: BoardRecord, metric: str) -> str:
    found = row.metrics.test.get(metric)
    return "-" if found is None else mean_interval(found.mean, found.ci95, row.model.deterministic)


def _status(row: BoardRecord) -> str:
    return row.status if row.reason is None else f"{row.status}: {row.reason}"


def _costs(row: BoardRecord) -> list[tuple[str, float | None]]:
    """Return (text, number to sort by) of seeds, fit and evaluation seconds, memory, parameters, tuning trials.

    How a scored prediction file was made is not known.
    """
    fit = row.timing.fit_s if row.timing else None
    evaluate = row.timing.evaluate_s if row.timing else None
    memory = row.memory.peak_rss_mb if row.memory else None
    known = row.model.version != SCORED
    parameters = row.model.parameters if known else None
    trials = row.budget.trials if known else None
    return [
        (str(len(row.seeds)), len(row.seeds)),
        (seconds(fit), fit),
        (seconds(evaluate), evaluate),
        ("-" if memory is None else f"{memory:.0f}", memory),
        (count(parameters), parameters),
        (count(trials), trials),
    ]


def _published(rows: Sequence[BoardRecord]) -> list[list[str]]:
    """Return model, source, metric, published value with its tolerance, and what was measured on the same benchmark."""
    cells = []
    for row in rows:
        if reference := row.model.reference:
            same = reference.benchmark == row.benchmark
            metric = reference.metric if same else f"{reference.metric} on {reference.benchmark}"
            value = f"{reference.value:g} ± {reference.tolerance:g}"
            measured = _metric(row, reference.metric) if same else "-"
            cells.append([row.model.name, reference.source, metric, value, measured])
    return cells


def _provenance(rows: Sequence[BoardRecord]) -> str:
    row = next((row for row in rows if row.dataset and row.protocol), None)
    if row is None or row.dataset is None or row.protocol is None:
        return "No run has finished."
    dataset, protocol = row.dataset, row.protocol
    return (
        f"Dataset {dataset.name} (version {dataset.version}), protocol {protocol.name} (version {protocol.version}), "
        f"split {protocol.split_sha256[:8]}."
    )


def _markdown_row(cells: Sequence[str]) -> str:
    """Return a table row; a record's text can neither end its cell nor become HTML."""
    safe = (" ".join(escape(cell, quote=False).replace("|", "\\|").split()) for cell in cells)
    return f"| {' | '.join(safe)} |"


def _anchor(name: str) -> str:
    return name.replace("/", "-")


def _section(name: str, rows: Sequence[BoardRecord]) -> str:
    primary, others = _metric_names(rows)
    low, high = shown_range([row.metrics.test[primary] for row in rows if primary in row.metrics.test])
    more = [" more" if index >= SHOWN else "" for index in range(len(others))]
    heads = [
        _head("model", "text"),
        _head("status", "text"),
        _head(primary or "metric", "num"),
        f'<th class="bar">95 % interval<small>{low:.3f} to {high:.3f}</small></th>',
        *(_head(metric, f"num{extra}") for metric, extra in zip(others, more, strict=True)),
        *(_head(text, "num") for text in ("seeds", "fit s", "eval s", "memory MB", "parameters", "tuning trials")),
    ]
    body = []
    for row in rows:
        cells = [
            f'<th scope="row">{escape(row.model.name)}</th>',
            f'<td class="status {row.status}"><b>{row.status}</b>{_reason(row)}</td>',
            _metric_cell(row, primary, "num primary"),
            f'<td class="bar">{_bar(row, primary, low, high)}</td>',
            *(_metric_cell(row, metric, f"num{extra}") for metric, extra in zip(others, more, strict=True)),
            *(_cell(text, value, "num") for text, value in _costs(row)),
        ]
        body.append(f"<tr>{''.join(cells)}</tr>")
    toggle = f'<label><input type="checkbox" class="all"> all {len(others) + 1} metrics</label>' if any(more) else ""
    return "\n".join(
        [
            f'<section id="{escape(_anchor(name))}">',
            f"<h2>{escape(name)}</h2>",
            f'<p class="meta">{escape(_provenance(rows))} {toggle}</p>',
            f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}"><table class="board">',
            f"<thead><tr>{''.join(heads)}</tr></thead>",
            "<tbody>",
            *body,
            "</tbody></table></div>",
            _references(rows),
            "</section>",
        ]
    )


def _head(text: str, kind: str) -> str:
    return f'<th class="{kind}" scope="col"><button type="button">{escape(text)}</button></th>'


def _cell(text: str, value: float | None, kind: str) -> str:
    return f'<td class="{kind}" data-value="{"" if value is None else repr(value)}">{escape(text)}</td>'


def _metric_cell(row: BoardRecord, metric: str, kind: str) -> str:
    found = row.metrics.test.get(metric)
    return _cell(_metric(row, metric), found.mean if found else None, kind)


def _reason(row: BoardRecord) -> str:
    return "" if row.reason is None else f"<small>{escape(row.reason)}</small>"


def _references(rows: Sequence[BoardRecord]) -> str:
    lines = ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>" for cells in _published(rows)]
    if not lines:
        return ""
    heads = "".join(f"<th>{text}</th>" for text in ("model", "source", "metric", "published", "measured here"))
    return (
        '<details><summary>Published numbers (not ranked)</summary><div class="scroll">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div></details>"
    )


def _bar(row: BoardRecord, metric: str, low: float, high: float) -> str:
    """Draw a mean as a dot and its interval as a whisker; an arrow at the edge stands for a mean out of range."""
    found = row.metrics.test.get(metric)
    if found is None:
        return ""
    text = escape(f"{found.mean:.4f}" + ("" if found.ci95 is None else f", 95 % interval {interval(found.ci95)}"))
    if low <= found.mean <= high:
        left, right = (_x(end, low, high) for end in found.ci95 or (found.mean, found.mean))
        whisker = f'<path d="M{left} 5v6M{left} 8H{right}M{right} 5v6"/>' if found.ci95 else ""
        shape = f'{whisker}<circle cx="{_x(found.mean, low, high)}" cy="8" r="3"/>'
    else:
        shape = (
            '<path class="off" d="M8 3L2 8l6 5"/>'
            if found.mean < low
            else f'<path class="off" d="M{BAR - 8} 3l6 5-6 5"/>'
        )
    return f'<svg width="{BAR}" height="16" viewBox="0 0 {BAR} 16" role="img"><title>{text}</title>{shape}</svg>'


def _x(value: float, low: float, high: float) -> str:
    return f"{min(max((value - low) / (high - low), 0.0), 1.0) * BAR:.1f}"
