"""Predictions made elsewhere: from rows with raw ids to what a task judges.

A fault is one ``RecbenchError`` that says how many rows have it and shows the first; nothing is put right in silence.
Ids are text or integers, which are read as their decimal text. Columns that are not asked for are ignored.
"""

# Shape suffixes: U judged users, K length of the lists, N rows.

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbench.data.store import Arrays
from recbench.errors import RecbenchError
from recbench.metrics.topk import tie_keys

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger("recbench")

ListTensors = tuple[Tensor, Tensor, Tensor, Tensor]
"""Users (U,) int64, items (U, K) int64, scores (U, K) float64, tied (U,) bool."""


def lists(
    frame: pl.DataFrame, shared: Arrays, users: Tensor, length: int, seen: Sequence[Arrays]
) -> tuple[ListTensors, dict[str, float]]:
    """Make the lists of all judged users.

    Items are in the order of ``rank`` if there is that column, else of ``score``, equal scores in the order that
    ``top_k`` gives them. Lists are cut to K items. Users who are not judged are ignored. A judged user without a list
    has an empty one, all misses, so that nobody gains by leaving hard users out.

    Args:
        frame: columns ``user``, ``item``, ``score`` and optionally ``rank``, which counts 1, 2, ... for each user.
        shared: ``user_ids`` and ``item_ids``, the raw ids.
        users: (U,) int64 ascending, the numbers of the users who are judged.
        length: K.
        seen: ``users`` and ``items`` (n,) of interactions that must not be in the lists of their user.

    Returns:
        users, items filled up with -1, scores filled up with -inf, and whether two of the K + 1 best scores that are
        given are equal; and the diagnostics ``users_with_list``, the share in (0, 1] of judged users who have one, and
        ``users_ignored``, the number of users who are not judged.

    Raises:
        RecbenchError: a column is missing or of a wrong type; a value is missing; a score is NaN or infinite; a user or
            item is unknown; a pair is repeated; a seen item is listed; ranks are not 1, 2, ... or contradict scores; or
            none of the users is judged.
    """
    frame = _columns(frame, "user", "item", "score", *{"rank"}.intersection(frame.columns))
    n_items = len(shared["item_ids"])
    owners, items = _numbers(frame, "user", shared["user_ids"]), _numbers(frame, "item", shared["item_ids"])
    scores = _scores(frame)
    keys = owners * n_items + items
    _refuse(frame, _repeated(keys), "repeat a pair of user and item")

    judged = users.cpu().numpy()
    row = np.searchsorted(judged, owners).clip(max=len(judged) - 1)
    kept = judged[row] == owners
    n_ignored = len(np.unique(owners[~kept]))
    if not kept.any():
        raise RecbenchError(f"none of its {n_ignored} users has items in the part that is judged; check the user ids")
    seen_keys = np.unique(np.concatenate([part["users"].astype(np.int64) * n_items + part["items"] for part in seen]))
    _refuse(
        frame,
        kept & np.isin(keys, seen_keys),
        "list an item that the user has in training, in validation or in what is shown; only unseen items are ranked",
    )

    ranks = _integers(frame, "rank") if "rank" in frame.columns else None
    order = _by_score(owners, items, scores) if ranks is None else np.lexsort((ranks, owners))
    order = order[kept[order]]
    row, items, scores = row[order], items[order], scores[order]
    sizes = np.bincount(row, minlength=len(judged))
    place = np.arange(len(order)) - (np.cumsum(sizes) - sizes)[row]
    if ranks is not None:
        ordered = frame[order]
        _refuse(ordered, ranks[order] != place + 1, "have a rank out of order; each user's ranks must be 1, 2, 3, ...")
        _refuse(ordered, (place > 0) & (np.diff(scores, prepend=0) > 0), "have a higher score than the rank before")
    unseen = n_items - np.bincount(seen_keys // n_items, minlength=len(shared["user_ids"]))[judged]
    _warn(sizes, np.minimum(length, unseen), n_ignored)
    top, top_scores, tied = _filled(row, place, items, scores, (len(judged), length))
    device = users.device
    made = users, top.to(device), top_scores.to(device), tied.to(device)
    return made, {"users_with_list": float((sizes > 0).mean()), "users_ignored": n_ignored}


def row_scores(frame: pl.DataFrame, n_rows: int, labels: Sequence[str] = ()) -> Tensor:
    """Return the probability of every row of a part, (N,) float64 on the CPU, in the part's order.

    Args:
        frame: columns ``row``, from 0 to N - 1 in any order, and ``score`` in [0, 1].
        n_rows: N.
        labels: names of T labels, for probabilities (N, T) from the columns ``score:<label>``; none for one label.

    Raises:
        RecbenchError: a column is missing or of a wrong type; a value is missing; a score is not in [0, 1]; or a row is
            out of range, repeated or not there.
    """
    columns = [f"score:{label}" for label in labels] or ["score"]
    frame = _columns(frame, "row", *columns)
    rows = _integers(frame, "row")
    scores = np.stack([_scores(frame, column) for column in columns], axis=1)
    _refuse(
        frame,
        (scores.min(axis=1) < 0) | (scores.max(axis=1) > 1),
        "have a score outside [0, 1]; expected probabilities",
    )
    _refuse(frame, (rows < 0) | (rows >= n_rows), f"are not among the {n_rows} rows of the part, 0 to {n_rows - 1}")
    _refuse(frame, _repeated(rows), "repeat a row")
    missing = np.bincount(rows, minlength=n_rows) == 0
    if missing.any():
        raise RecbenchError(
            f"{np.count_nonzero(missing)} of the {n_rows} rows of the part have no score; the first is row "
            f"{missing.argmax()}"
        )
    probabilities = torch.from_numpy(scores[rows.argsort()])
    return probabilities if labels else probabilities.squeeze(1)


def pair_scores(frame: pl.DataFrame, shared: Arrays, users: NDArray[Any], items: NDArray[Any]) -> Tensor:
    """Return the score of every pair of a part, (N,) float64 on the CPU, in the part's order.

    Args:
        frame: columns ``user``, ``item`` and ``score``, one row for each pair, in any order.
        shared: ``user_ids`` and ``item_ids``, the raw ids.
        users: (N,) integers, the numbers of the part's users, row by row.
        items: (N,) integers, those of the items; no pair is there twice.

    Raises:
        RecbenchError: a column is missing or of a wrong type; a value is missing; a score is NaN or infinite; a user or
            item is unknown; or a pair is repeated, not in the part, or not in the frame.
    """
    frame = _columns(frame, "user", "item", "score")
    user_ids, item_ids = shared["user_ids"], shared["item_ids"]
    keys = _numbers(frame, "user", user_ids) * len(item_ids) + _numbers(frame, "item", item_ids)
    scores = _scores(frame)
    _refuse(frame, _repeated(keys), "repeat a pair of user and item")
    wanted = users.astype(np.int64) * len(item_ids) + items
    _refuse(frame, ~np.isin(keys, wanted), "are of pairs that are not in the part that is judged")
    missing = ~np.isin(wanted, keys)
    if missing.any():
        user, item = divmod(int(wanted[missing.argmax()]), len(item_ids))
        raise RecbenchError(
            f"{np.count_nonzero(missing)} of the {len(wanted)} pairs of the part have no score; the first is user "
            f"{user_ids[user]}, item {item_ids[item]}"
        )
    order = keys.argsort()
    return torch.from_numpy(scores[order[np.searchsorted(keys, wanted, sorter=order)]])


def _by_score(owners: NDArray[np.int64], items: NDArray[np.int64], scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the order of the rows by user, then highest score, then highest key as in ``top_k``."""
    keys = tie_keys(torch.from_numpy(owners), torch.from_numpy(items)).numpy()
    # The complement turns the order round as the minus does for scores, and cannot overflow.
    return np.lexsort((~keys, -scores, owners))


def _filled(
    row: NDArray[np.int64],
    place: NDArray[np.int64],
    items: NDArray[np.int64],
    scores: NDArray[np.float64],
    shape: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Put items and scores at their row and place, (U, K) each, and tell which rows have equal scores, (U,)."""
    top, top_scores = torch.full(shape, -1), torch.full(shape, -torch.inf, dtype=torch.float64)
    listed = place < shape[1]
    at = torch.from_numpy(row[listed]), torch.from_numpy(place[listed])
    top[at], top_scores[at] = torch.from_numpy(items[listed]), torch.from_numpy(scores[listed])
    equal = (place > 0) & (place <= shape[1]) & (np.diff(scores, prepend=np.nan) == 0)
    return top, top_scores, torch.from_numpy(np.bincount(row[equal], minlength=shape[0]) > 0)


def _columns(frame: pl.DataFrame, *names: str) -> pl.DataFrame:
    for name in names:
        if name not in frame.columns:
            raise RecbenchError(
                f"there is no column '{name}'; expected {', '.join(names)}, found {', '.join(frame.columns) or 'none'}"
            )
    if frame.is_empty():
        raise RecbenchError("there is no row; expected predictions")
    return frame.select(names)


def _numbers(frame: pl.DataFrame, column: str, known: NDArray[Any]) -> NDArray[np.int64]:
    """Return the position of each raw id among the known ones."""
    import polars as pl

    ids = frame[column]
    if not (ids.dtype.is_integer() or ids.dtype in (pl.String, pl.Categorical, pl.Enum)):
        raise _wrong_type(ids, "text or integers")
    _refuse(frame, ids.is_null().to_numpy(), f"have no {column}")
    numbers = pl.DataFrame({column: known, "number": np.arange(len(known))})
    found = ids.cast(pl.String).to_frame().join(numbers, on=column, how="left", maintain_order="left")["number"]
    _refuse(frame, found.is_null().to_numpy(), f"have an unknown {column}; expected raw ids of the benchmark")
    return found.to_numpy(writable=True)


def _integers(frame: pl.DataFrame, column: str) -> NDArray[np.int64]:
    values = frame[column]
    if not values.dtype.is_integer():
        raise _wrong_type(values, "integers")
    _refuse(frame, values.is_null().to_numpy(), f"have no {column}")
    return values.to_numpy().astype(np.int64)


def _scores(frame: pl.DataFrame, column: str = "score") -> NDArray[np.float64]:
    values = frame[column]
    if not (values.dtype.is_float() or values.dtype.is_integer()):
        raise _wrong_type(values, "numbers")
    _refuse(frame, values.is_null().to_numpy(), f"have no {column}")
    scores = values.to_numpy().astype(np.float64)
    _refuse(frame, ~np.isfinite(scores), "have a score that is NaN or infinite")
    return scores


def _wrong_type(column: pl.Series, expected: str) -> RecbenchError:
    return RecbenchError(f"column '{column.name}' is of type {column.dtype}, expected {expected}")


def _repeated(keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark the rows whose key was there before."""
    repeated = np.ones(len(keys), dtype=np.bool_)
    repeated[np.unique(keys, return_index=True)[1]] = False
    return repeated


def _refuse(frame: pl.DataFrame, faulty: NDArray[np.bool_], fault: str) -> None:
    """Raise an error if a row is faulty."""
    if faulty.any():
        first = frame.row(int(faulty.argmax()), named=True)
        shown = ", ".join(f"{column} {value}" for column, value in first.items())
        raise RecbenchError(f"{np.count_nonzero(faulty)} of {len(frame)} rows {fault}; the first is: {shown}")


def _warn(sizes: NDArray[np.int64], possible: NDArray[np.int64], n_ignored: int) -> None:
    """Tell of users without a list, of lists with fewer items than could be there, and of users who are not judged."""
    n_empty = np.count_nonzero((sizes == 0) & (possible > 0))
    n_short = np.count_nonzero((sizes > 0) & (sizes < possible))
    if n_empty:
        log.warning("users without a list: %d of %d; they count as misses in every metric", n_empty, len(sizes))
    if n_short:
        log.warning("lists of fewer than %d items: %d; the places left count as misses", possible.max(), n_short)
    if n_ignored:
        log.info("users ignored, who have no items in the part that is judged: %d", n_ignored)
