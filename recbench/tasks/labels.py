"""Several labels a row: the evaluations of each label become one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recbench.metrics.names import LINEARISED_SUFFIX, of_label
from recbench.tasks.base import Evaluation, Tables

if TYPE_CHECKING:
    import polars as pl


def over_labels(of_each: Mapping[str, Evaluation]) -> Evaluation:
    """Join the evaluations of one set of rows by each label.

    A metric, and its values per user, is ``<metric>:<label>`` of one label and ``<metric>`` as the mean over them;
    predictions have a column ``score:<label>`` for each; other tables have a column ``label_name``.
    """
    evaluations = list(of_each.values())
    metrics = {name: float(np.mean([each.metrics[name] for each in evaluations])) for name in evaluations[0].metrics}
    for label, each in of_each.items():
        metrics |= {of_label(name, label): value for name, value in each.metrics.items()}

    def tables() -> Tables:
        return _tables({label: each.tables() for label, each in of_each.items()})

    return Evaluation(
        metrics,
        tables,
        diagnostics={
            "positive_share": {label: each.diagnostics["positive_share"] for label, each in of_each.items()},
            "undefined": {
                of_label(name, label): count
                for label, each in of_each.items()
                for name, count in each.diagnostics["undefined"].items()
            },
        },
    )


def _tables(of_each: Mapping[str, Tables]) -> Tables:
    import polars as pl

    first = next(iter(of_each.values()))
    scores = {f"score:{label}": each.predictions["score"] for label, each in of_each.items()}
    return Tables(
        per_user=_per_user({label: each.per_user for label, each in of_each.items()}),
        predictions=first.predictions.select("row").with_columns(**scores),
        others={
            name: pl.concat(
                each.others[name].select(pl.lit(label).alias("label_name"), pl.all()) for label, each in of_each.items()
            )
            for name in first.others
        },
    )


def _per_user(of_each: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Join values per user; a user's mean over the labels is NaN where that of one label is."""
    import polars as pl

    first = next(iter(of_each.values()))
    counts = {"user", "rows"}.intersection(first.columns)
    columns: dict[str, pl.Series] = {name: first[name] for name in first.columns if name in counts}
    for name in first.columns:
        if name not in counts:
            values = np.stack([each[name].to_numpy() for each in of_each.values()])
            columns[name] = pl.Series(_linearised_mean(values) if LINEARISED_SUFFIX in name else values.mean(0))
    for label, each in of_each.items():
        columns |= {of_label(name, label): each[name] for name in each.columns if name not in counts}
    return pl.DataFrame(columns)


def _linearised_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average pseudo-values (T, G) of T labels, each over the groups in which it is defined.

    Of a metric that the values of G groups have as their mean, ``(value - metric) / G`` is what a group contributes.
    Contributions are averaged, 0 where there is no value, and made values of all groups that have one.
    """
    defined = ~np.isnan(values)
    metrics = np.nanmean(values, axis=1, keepdims=True)
    contributions = np.where(defined, values - metrics, 0) / defined.sum(axis=1, keepdims=True)
    there = defined.any(axis=0)
    return np.where(there, metrics.mean() + there.sum() * contributions.mean(axis=0), np.nan)
