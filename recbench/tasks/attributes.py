"""What a dataset tells of its users and items beside the interactions, for metrics beyond accuracy.

Only the evaluator reads it: it is in no prepared array, and so no model gets it by accident.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbench.data.cards import load_card
from recbench.data.source import Source
from recbench.errors import UsageError

if TYPE_CHECKING:
    import polars as pl


def user_groups(dataset: str, column: str, user_ids: NDArray[Any]) -> Tensor:
    """Return each user's group, (U,) int64, numbered from 0 in the order of the values; -1 where none is known.

    ``column`` is ``<table>.<column>`` with a value a user; the table has a column ``user``.
    """
    import polars as pl

    table = _read(dataset, column, "user", user_ids)
    if table["value"].dtype == pl.List:
        raise UsageError(f"{dataset}: users cannot be grouped by {column}, a column of lists")
    known = _filled(table).unique()
    if known.is_empty():
        raise UsageError(f"{dataset}: {column} has no value for any of {len(user_ids)} users; choose another column")
    if n_ambiguous := int((known["number"].value_counts()["count"] > 1).sum()):
        raise UsageError(f"{dataset}: {column} has more than one value for {n_ambiguous} users, expected one each")
    groups = np.full(len(user_ids), -1)
    groups[known["number"].to_numpy()] = known["value"].rank("dense").to_numpy().astype(np.int64) - 1
    return torch.from_numpy(groups)


def item_vectors(dataset: str, column: str, item_ids: NDArray[Any]) -> Tensor:
    """Return marks of what each item has, (I, D) float32 of 0 and 1, a column a distinct value; zeros if unknown.

    ``column`` is ``<table>.<column>`` with a value or a list of values a row; the table has a column ``item``, and one
    row or more an item.
    """
    import polars as pl

    table = _read(dataset, column, "item", item_ids)
    if table["value"].dtype == pl.List:
        table = table.explode("value")
    table = _filled(table)
    codes = table["value"].rank("dense").to_numpy().astype(np.int64) - 1
    if not len(codes):
        raise UsageError(f"{dataset}: {column} has no value for any of {len(item_ids)} items; choose another column")
    vectors = torch.zeros(len(item_ids), int(codes.max()) + 1)
    vectors[table["number"].to_torch(), torch.from_numpy(codes)] = 1.0
    return vectors


def activity(n_training_items: Tensor) -> Tensor:
    """Return each user's quartile by the number of training items, (U,) int64 from 0; equal numbers share one."""
    counts = n_training_items.double()
    return torch.searchsorted(counts.quantile(torch.tensor([0.25, 0.5, 0.75]).to(counts)), counts)


def _read(dataset: str, column: str, key: str, ids: NDArray[Any]) -> pl.DataFrame:
    """Return ``number`` and ``value`` of the known ids: the position of each and what the column says, row by row."""
    import polars as pl

    source = Source(load_card(dataset))
    table, _, name = column.partition(".")
    if not source.has(table):
        raise UsageError(f"{dataset}: {column} is in no table; tables are {', '.join(source.card.tables)}")
    columns = source.columns(table)
    for needed in (key, name):
        if needed not in columns:
            raise UsageError(f"{dataset}: table {table} has no column '{needed}'; it has {', '.join(columns)}")
    numbers = pl.DataFrame({"id": ids, "number": np.arange(len(ids))})
    return numbers.join(source.table(table).select(id=key, value=name), on="id").select("number", "value")


def _filled(table: pl.DataFrame) -> pl.DataFrame:
    """Return the rows that have a value."""
    import polars as pl

    return table.filter(pl.col("value").is_not_null() & (pl.col("value").cast(pl.String) != ""))
