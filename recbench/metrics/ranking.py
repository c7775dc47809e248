"""Top-k lists with fair ties, and the metrics of such lists.

Ties    Equal scores are ordered by a hash of (user, item): random, yet the same for any batch size, order of users,
        chunking and device. A scorer that cannot tell items apart therefore scores like the random one.
Metrics For a user with n relevant items, h_i = 1 if the item at rank i (from 1) is relevant, and a cutoff k:

        recall@k      sum h_i / n
        recall_min@k  sum h_i / min(k, n)                                     can reach 1 also when n > k
        precision@k   sum h_i / k                                             short lists count as filled with misses
        hit@k         1 if any h_i
        ndcg@k        sum h_i / log2(i + 1)  /  sum_{i <= min(k, n)} 1 / log2(i + 1)        Järvelin & Kekäläinen 2002
        mrr@k         1 / rank of the first relevant item, 0 if there is none
        map@k         sum h_i (h_1 + ... + h_i) / i  /  min(k, n)             some libraries divide by n instead
"""

# Shape suffixes: B users in a batch, I items, k length of a list, N rows, G groups.

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from recbench.errors import RecbenchError, UsageError
from recbench.metrics.names import parse

__all__ = ["grouped_ndcg", "hits", "parse", "ranking_metrics", "top_k"]

_INT64 = torch.iinfo(torch.int64)


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
    # amax hands NaN on, so one reduction finds both kinds.
    best = scores.amax(dim=1)
    broken = int((best.isnan() | best.isposinf()).sum())
    if broken:
        raise RecbenchError(
            f"scores of {broken} of {n_users} users contain NaN or +inf, expected finite numbers or -inf; "
            "the model has probably diverged: try a lower learning rate"
        )
    values, columns = scores.topk(min(k + 1, n_items), dim=1)
    tied = ((values[:, 1:] == values[:, :-1]) & ~values[:, 1:].isneginf()).any(dim=1)
    values, columns = values[:, :k], columns[:, :k]
    ids = torch.arange(n_items, device=scores.device) if items is None else items
    rows = tied.nonzero().squeeze(1)
    if len(rows):
        keys = _tie_keys(users[rows, None], ids[rows] if ids.ndim == 2 else ids)
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


def ranking_metrics(hits: Tensor, n_relevant: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Compute metrics of each user's list; the definitions are at the top of this module.

    Args:
        hits: (B, K) bool, best rank first; K at least the largest cutoff.
        n_relevant: (B,) number of relevant items of each user, in the list or not.
        names: such as ``ndcg@10``.

    Returns:
        One (B,) float64 tensor for each name; NaN for users without a relevant item, for the caller to leave out.

    Raises:
        UsageError: an unknown name, or a cutoff larger than the list.
    """
    n = n_relevant.double()
    values = {}
    for name in names:
        kind, k = parse(name)
        if k > hits.shape[1]:
            raise UsageError(f"metric '{name}' needs lists of {k} items, found {hits.shape[1]}; rank more items")
        values[name] = _DEFINITIONS[kind](hits[:, :k].double(), n).masked_fill(n_relevant == 0, torch.nan)
    return values


def grouped_ndcg(scores: Tensor, labels: Tensor, groups: Tensor, k: int, ids: Tensor) -> tuple[Tensor, Tensor]:
    """NDCG@k of each group's own candidates, with the label as gain and 1 / log2(rank + 1) as discount.

    For test sets that hold a random sample of items with their ratings, where a user's list is the user's test rows.

    Args:
        scores: (N,) floating point; ties are ordered by a hash of (group, id).
        labels: (N,) gains, not negative.
        groups: (N,) int64, for instance user ids, in any order.
        k: cutoff.
        ids: (N,) int64, distinct within a group, for instance item ids.

    Returns:
        The group ids, ascending, (G,) int64; and the values (G,) float64, NaN for a group without a positive label,
        for the caller to leave out and count.

    Raises:
        RecbenchError: a score is NaN or infinite.
    """
    broken = int((~scores.isfinite()).sum())
    if broken:
        raise RecbenchError(f"{broken} of {len(scores)} scores are NaN or infinite, expected finite numbers")
    group_ids, group = torch.unique(groups, return_inverse=True)
    by_key = _tie_keys(groups, ids).argsort()
    gains = labels.double()
    ideal = _grouped_dcg(gains, gains, group, by_key, k)
    values = _grouped_dcg(gains, scores, group, by_key, k) / ideal
    return group_ids, values.masked_fill(ideal == 0, torch.nan)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser (Steele, Lea & Flood 2014), a bijection of the 64-bit integers; int64 wraps around."""
    x = x + (0x9E3779B97F4A7C15 - 2**64)
    x = (x ^ _shift_right(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _shift_right(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift without repeating the sign, as for unsigned integers, which torch lacks here."""
    return torch.bitwise_right_shift(x, bits).bitwise_and(2 ** (64 - bits) - 1)


def _tie_keys(users: Tensor, items: Tensor) -> Tensor:
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


def _grouped_dcg(gains: Tensor, scores: Tensor, group: Tensor, by_key: Tensor, k: int) -> Tensor:
    """DCG@k (G,) of rows in groups numbered from 0, ordered by score and then as in ``by_key``."""
    order = by_key[scores[by_key].argsort(descending=True, stable=True)]
    order = order[group[order].argsort(stable=True)]
    sizes = group.bincount()
    group = group[order]
    rank = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[group]
    listed = rank < k
    lists_Gk = torch.zeros(len(sizes), k, dtype=torch.float64, device=gains.device)
    lists_Gk[group[listed], rank[listed]] = gains[order[listed]]
    return (lists_Gk * _discount(lists_Gk)).sum(1)


def _ranks(lists: Tensor) -> Tensor:
    """1, 2, ..., k as float64, for lists (B, k)."""
    return torch.arange(1, lists.shape[1] + 1, dtype=torch.float64, device=lists.device)


def _discount(lists: Tensor) -> Tensor:
    return 1 / torch.log2(_ranks(lists) + 1)


def _attainable(hits: Tensor, n: Tensor) -> Tensor:
    """Return the largest possible number of hits, min(k, n)."""
    return n.clamp(max=hits.shape[1])


def _recall(hits: Tensor, n: Tensor) -> Tensor:
    return hits.sum(1) / n


def _recall_min(hits: Tensor, n: Tensor) -> Tensor:
    return hits.sum(1) / _attainable(hits, n)


def _precision(hits: Tensor, n: Tensor) -> Tensor:
    return hits.mean(1)


def _hit(hits: Tensor, n: Tensor) -> Tensor:
    return hits.amax(1)


def _ndcg(hits: Tensor, n: Tensor) -> Tensor:
    discount = _discount(hits)
    ideal = discount.cumsum(0)[(_attainable(hits, n).long() - 1).clamp(min=0)]
    return (hits * discount).sum(1) / ideal


def _mrr(hits: Tensor, n: Tensor) -> Tensor:
    return (hits / _ranks(hits)).amax(1)


def _map(hits: Tensor, n: Tensor) -> Tensor:
    return (hits * hits.cumsum(1) / _ranks(hits)).sum(1) / _attainable(hits, n)


_DEFINITIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "recall": _recall,
    "recall_min": _recall_min,
    "precision": _precision,
    "hit": _hit,
    "ndcg": _ndcg,
    "mrr": _mrr,
    "map": _map,
}
