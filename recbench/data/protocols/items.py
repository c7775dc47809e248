"""What a benchmark tells of each item beside the rows: its attributes, as fields, and a given vector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recbench.data.protocols.encoding import UNSEEN, Categorical, Encoder, Floats, Ints, Lists, Numbers, Tokens
from recbench.data.protocols.labelled import ITEMS
from recbench.data.store import Writer
from recbench.errors import RecbenchError


class ItemRows:
    """The items of a log on their way to arrays: one row for each id of the field ``item``.

    Attributes are read behind the rows of the log, with the encoders of their fields, so that an item has the ids there
    that it has in rows. The first row, of the id "unseen", has unseen or empty attributes and a zero vector.
    """

    def __init__(
        self, item: Tokens, attributes: Sequence[Encoder], vectors: Sequence[str], table: pl.DataFrame
    ) -> None:
        self._item = item
        self._attributes = attributes
        self._vectors = vectors
        # Items of the log that the table does not have are without attributes, as they are in rows.
        found = item.values().to_frame("item")
        self._found = found.join(table, on="item", how="left", maintain_order="left")
        for encoder in attributes:
            encoder.read(self._found[encoder.spec.source])

    def write(self, out: Writer) -> None:
        """Write the shared arrays, when the encoders have given the ids of all rows of the log."""
        n = len(self._found)
        ids = self._item.vocabulary.ids(np.arange(n, dtype=np.int32)) - self._item.offset
        order = np.argsort(ids, kind="stable")
        order = order[np.searchsorted(ids[order], UNSEEN + 1) :]
        columns = [np.arange(self._item.size, dtype=np.int32) + np.int32(self._item.offset)]
        dense = []
        for encoder in self._attributes:
            if isinstance(encoder, Numbers):
                dense.append(np.append(np.float32(0), encoder.floats(n)[order]))
            elif isinstance(encoder, Lists):
                _write_lists(out, encoder.spec.name, *_taken(*encoder.rows(n), order))
            elif isinstance(encoder, Categorical):
                columns.append(np.append(np.int32(encoder.offset + UNSEEN), encoder.ids(n)[order]))
        out.write("shared", f"{ITEMS}ids", np.stack(columns, axis=1))
        if dense:
            out.write("shared", f"{ITEMS}dense", np.stack(dense, axis=1))
        if self._vectors:
            known = self._found[order]
            blocks = [_vector(known[name]) for name in self._vectors]
            vectors = np.concatenate(blocks, axis=1)
            out.write("shared", f"{ITEMS}vectors", np.concatenate([np.zeros_like(vectors[:1]), vectors]))


def _taken(lengths: Ints, values: Ints, order: NDArray[np.int64]) -> tuple[Ints, Ints]:
    """Return the given rows of ragged ones, behind an empty one."""
    starts = np.cumsum(lengths) - lengths
    chosen = lengths[order]
    ends = np.cumsum(chosen)
    places = np.arange(chosen.sum()) + np.repeat(starts[order] - ends + chosen, chosen)
    return np.append(np.int32(0), chosen), values[places]


def _write_lists(out: Writer, name: str, lengths: Ints, values: Ints) -> None:
    out.write("shared", f"{ITEMS}{name}_offsets", np.append(0, np.cumsum(lengths, dtype=np.int64)))
    out.write("shared", f"{ITEMS}{name}_values", values)


def _vector(values: pl.Series) -> Floats:
    """Return numbers (n, 1), a missing one as 0, or which of their distinct tokens lists have (n, number of tokens)."""
    if values.dtype.is_numeric():
        numbers: Floats = values.cast(pl.Float32).fill_nan(None).fill_null(0).to_numpy()[:, None]
        return numbers
    if values.dtype != pl.List(pl.String):
        raise RecbenchError(
            f"item: vectors: the column '{values.name}' is of type {values.dtype}, expected numbers or lists of tokens"
        )
    lengths = values.list.len().fill_null(0).to_numpy()
    tokens = values.explode(keep_nulls=False, empty_as_null=False).to_numpy().astype(str)
    vocabulary, places = np.unique(tokens, return_inverse=True)
    flags = np.zeros((len(values), len(vocabulary)), dtype=np.float32)
    flags[np.repeat(np.arange(len(values)), lengths), places] = 1
    return flags
