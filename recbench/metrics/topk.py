"""Top-k lists with fair ties.

Equal scores are ordered by a hash of (user, item): random, yet the same for any batch size, order of users, chunking
and device. A scorer that cannot tell items apart therefore scores like the random one.
"""

# Shape suffixes: B users in a batch, I items, k length of a list.

import torch
from torch import Tensor

from recbench.errors import RecbenchError

_INT64 = torch.iinfo(torch.int64)

GROUP = 16
"""Columns of which one maximum is taken before the k best are looked for."""


def top_k(scores: Tensor, k: int, users: Tensor, items: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return each user's k best items, equal scores in an order drawn by a hash of (user, item).

    Args:
        scores: (B, I) floating point; -inf marks an item that must not be returned.
        k: length of the lists.
        users: (B,) int64 ids, the same for a user wherever that user appears.
        items: ids of the columns, (I,) or (B, I) int64; by default the columns' numbers. To rank item chunks, take
            the top k + 1 of each chunk, join their items and scores, and take the top k of those.

    Returns:
        items (B, k) int64 and scores (B, k), best first, filled up with item -1 and score -inf where fewer than k
        items are left; and tied (B,) bool: whether two of the k + 1 best scores are equal.

    Raises:
        RecbenchError: a score is NaN or +inf.
    """
    n_users, n_items = scores.shape
    values, columns = _highest(scores, min(k + 1, n_items))
    # NaN counts as the highest value, so one look finds both kinds.
    broken = int((values[:, :1].isnan() | values[:, :1].isposinf()).sum())
    if broken:
        raise RecbenchError(
            f"scores of {broken} of {n_users} users contain NaN or +inf, expected finite numbers or -inf; "
            "the model has probably diverged: try a lower learning rate"
        )
    tied = ((values[:, 1:] == values[:, :-1]) & ~values[:, 1:].isneginf()).any(dim=1)
    values, columns = values[:, :k], columns[:, :k]
    ids = torch.arange(n_items, device=scores.device) if items is None else items
    rows = tied.nonzero().squeeze(1)
    if len(rows):
        keys = tie_keys(users[rows, None], ids[rows] if ids.ndim == 2 else ids)
        columns[rows] = _ordered_by_score_and_key(scores[rows], keys, values[rows])
    found = (ids.gather(1, columns) if ids.ndim == 2 else ids[columns]).masked_fill(values.isneginf(), -1)
    missing = (0, k - values.shape[1])
    return (
        torch.nn.functional.pad(found, missing, value=-1),
        torch.nn.functional.pad(values, missing, value=-torch.inf),
        tied,
    )


def hits(top_items: Tensor, users: Tensor, truth_keys: Tensor, n_items: int) -> Tensor:
    """Mark the relevant items of each list.

    Args:
        top_items: (B, k) int64; -1 where a list is short.
        users: (B,) int64.
        truth_keys: sorted int64, ``user * n_items + item`` of every relevant pair.
        n_items: number of items.

    Returns:
        (B, k) bool.
    """
    if not len(truth_keys):
        return torch.zeros_like(top_items, dtype=torch.bool)
    keys = users[:, None] * n_items + top_items
    position = torch.searchsorted(truth_keys, keys).clamp_(max=len(truth_keys) - 1)
    return (truth_keys[position] == keys) & (top_items >= 0)


def _highest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k highest values (B, k) of each row, best first, and their columns; as ``torch.topk``, but faster.

    The k groups of columns with the highest maxima hold the k highest values: a value in another group has k group
    maxima at or above it. So one vectorised pass for maxima leaves a fraction of the columns to select from.
    """
    n_groups = scores.shape[1] // GROUP
    if n_groups <= 2 * k:
        return scores.topk(k, dim=1)
    grouped = n_groups * GROUP
    maxima = scores[:, :grouped].unflatten(1, (GROUP, n_groups)).amax(dim=1)
    groups = maxima.topk(k, dim=1).indices
    columns = (groups[:, :, None] + n_groups * torch.arange(GROUP, device=scores.device)).flatten(1)
    rest = torch.arange(grouped, scores.shape[1], device=scores.device).expand(len(scores), -1)
    columns = torch.cat([columns, rest], dim=1)
    values, places = scores.gather(1, columns).topk(k, dim=1)
    return values, columns.gather(1, places)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser (Steele, Lea & Flood 2014), a bijection of the 64-bit integers; int64 wraps around."""
    x = x + (0x9E3779B97F4A7C15 - 2**64)
    x = (x ^ _shift_right(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _shift_right(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift without repeating the sign, as for unsigned integers, which torch lacks here."""
    return torch.bitwise_right_shift(x, bits).bitwise_and(2 ** (64 - bits) - 1)


def tie_keys(users: Tensor, items: Tensor) -> Tensor:
    """Hash of (user, item), broadcast over both; for one user no two items share a key."""
    return _mix(_mix(users) + items)


def _ordered_by_score_and_key(scores: Tensor, keys: Tensor, best: Tensor) -> Tensor:
    """Columns (B, k) of the k highest (score, key) of each row, given the k highest scores ``best`` (B, k), sorted."""
    cutoff = best[:, -1:]
    # What scores above the cutoff is in the list; the places left go to the highest keys at the cutoff.
    priority = torch.where(scores == cutoff, keys, _INT64.min).masked_fill_(scores > cutoff, _INT64.max)
    columns = priority.topk(best.shape[1], dim=1).indices
    columns = columns.gather(1, keys.gather(1, columns).argsort(dim=1, descending=True))
    return columns.gather(1, scores.gather(1, columns).argsort(dim=1, descending=True, stable=True))
