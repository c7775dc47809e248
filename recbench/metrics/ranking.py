"""Metrics of each user's list of items, and of each user's ranking of all candidates.

For a user with n relevant items, h_i = 1 if the item at rank i (from 1) is relevant, and a cutoff k:

recall@k      sum h_i / n
recall_min@k  sum h_i / min(k, n)                                     can reach 1 also when n > k
precision@k   sum h_i / k                                             short lists count as filled with misses
f1@k          2 sum h_i / (k + n)                                     harmonic mean of recall@k and precision@k
hit@k         1 if any h_i
ndcg@k        sum h_i / log2(i + 1)  /  sum_{i <= min(k, n)} 1 / log2(i + 1)        Järvelin & Kekäläinen 2002
mrr@k         1 / rank of the first relevant item, 0 if there is none
map@k         A / min(k, n),  A = sum h_i (h_1 + ... + h_i) / i       can reach 1 also when n > k
map_n@k       A / n                                                   trec_eval's map_cut, ranx
map_hits@k    A / sum h_i, 0 if there is none                         torchmetrics; one more hit can lower it
rbp.NN@k      (1 - p) sum h_i p^(i - 1),  p = .NN                     Moffat & Zobel 2008; at most 1 - p^min(k, n)
rprecision    sum_{i <= n} h_i / n                                    of the first n items, whatever k
uauc          share of the pairs (relevant, other candidate) in the right order, ties counting half

Sums run over i <= k. All lie in [0, 1], and higher is better. Two metrics are of graded gains g_i in place of h_i:

ndcg          sum G_i / log2(i + 1), over the same sum of the k largest gains, best first
              G = g (linear, Järvelin & Kekäläinen 2002) or G = 2^g - 1 (exponential, Burges et al. 2005)
"""

# Shape suffixes: B users in a batch, I items, K length of a list, M relevant items at most, P relevant pairs, N rows,
# G groups.

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from recbench.errors import RecbenchError, UsageError, unknown
from recbench.metrics.names import parse, pattern, share
from recbench.metrics.topk import tie_keys


def ranking_metrics(hits: Tensor, n_relevant: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """Compute metrics of each user's list; the definitions are at the top of this module.

    Args:
        hits: (B, K) bool, or 0 and 1, best rank first; K at least the largest cutoff.
        n_relevant: (B,) number of relevant items of each user, in the list or not.
        names: such as ``ndcg@10`` and ``rbp.80@100``; or ``rprecision``, for which K is at least the largest number
            of relevant items.

    Returns:
        One (B,) float64 tensor in [0, 1] for each name; NaN for users without a relevant item, for the caller to leave
        out and count.

    Raises:
        UsageError: an unknown name, or a list too short for a metric.
        RecbenchError: a list has more hits than its user has relevant items.
    """
    lists = _Hits(hits, n_relevant)
    undefined = n_relevant == 0
    values = {}
    for name in names:
        form = pattern(name)
        if form not in _DEFINITIONS or ":" in name:
            raise unknown("metric of lists", name, _DEFINITIONS)
        k = parse(name)[1] if "@" in name else int(n_relevant.max())
        if k > hits.shape[1]:
            raise _too_short(name, k, hits)
        shares = [share(name)] if ".NN" in form else []
        values[name] = _DEFINITIONS[form](lists, k, *shares).masked_fill_(undefined, torch.nan)
    return values


def graded_ndcg(gains: Tensor, ideal: Tensor, k: int, *, exponential: bool = False) -> Tensor:
    """NDCG@k of graded relevance.

    Args:
        gains: (B, K) of the listed items, best rank first, not negative; 0 for an item that nobody judged.
        ideal: (B, M) gains of all relevant items of each user, listed or not, in any order, filled up with 0.
        k: cutoff, at most K.
        exponential: take 2^gain - 1 (Burges et al. 2005) in place of the gain (Järvelin & Kekäläinen 2002).

    Returns:
        (B,) float64 in [0, 1]; NaN for users without a positive gain, for the caller to leave out and count.

    Raises:
        UsageError: lists shorter than k.
        RecbenchError: a gain is negative or not finite, or a list gains more than is ideal.
    """
    if k > gains.shape[1]:
        raise _too_short(f"ndcg@{k}", k, gains)
    _check_gains(gains)
    _check_gains(ideal)
    best = ideal.topk(min(k, ideal.shape[1]), dim=1).values
    values = _dcg(gains[:, :k], exponential) / _dcg(best, exponential)
    # Rounding may end an ulp above 1.
    if bool((values > 1 + 1e-9).any()):
        raise RecbenchError("a list gains more than is ideal; the ideal gains must include those of the list")
    return values.clamp(max=1)


class GroupedLists(NamedTuple):
    """Lists of groups of rows, see ``grouped_lists``."""

    groups: Tensor
    gains: Tensor
    n_relevant: Tensor
    tied: Tensor


def grouped_lists(scores: Tensor, labels: Tensor, groups: Tensor, ids: Tensor, k: int) -> GroupedLists:
    """Rank each group's own rows, so that they can be judged as lists.

    For test sets that hold a random sample of items with their ratings, where a user's candidates are the user's rows.

    Args:
        scores: (N,) floating point; ties are in ascending order of ``tie_keys(group, id)``.
        labels: (N,) 0 or 1, or gains that are not negative.
        groups: (N,) int64, for instance user ids, in any order.
        ids: (N,) int64, distinct within a group, for instance item ids.
        k: length of the lists.

    Returns:
        groups (G,) int64, ascending; gains (G, k) float64, the labels best rank first, 0 behind a group's last row;
        n_relevant (G,) int64, each group's rows with a positive label; and tied (G,) bool, whether two of the group's
        k + 1 best scores are equal. Gains of 0 or 1 are hits for ``ranking_metrics``. The ideal that ``graded_ndcg``
        needs are the gains when the labels are the scores.

    Raises:
        RecbenchError: a score is NaN or infinite, or a label is negative, NaN or infinite.
    """
    broken = int((~scores.isfinite()).sum())
    if broken:
        raise RecbenchError(f"{broken} of {len(scores)} scores are NaN or infinite, expected finite numbers")
    _check_gains(labels)
    group_ids, group, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
    # By group, then score, then hash: sorts that keep the order of equal keys, the last key first.
    order = tie_keys(groups, ids).argsort()
    order = order[scores[order].argsort(descending=True, stable=True)]
    order = order[group[order].argsort(stable=True)]
    scores, labels, group = scores[order], labels[order], group[order]
    place = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[group]
    listed = place < k
    gains = torch.zeros(len(sizes), k, dtype=torch.float64, device=order.device)
    gains[group[listed], place[listed]] = labels[listed].double()
    level = (scores[1:] == scores[:-1]) & (group[1:] == group[:-1]) & (place[1:] <= k)
    return GroupedLists(
        group_ids, gains, _count(group[labels > 0], len(sizes)), _count(group[1:][level], len(sizes)) > 0
    )


def user_auc(scores: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return each user's AUC of the relevant items against all other candidates, ties counting half.

    Pairs are counted in integers, so the value is exact. A relevant item that is no candidate is behind all
    candidates, as it is a miss in every list. Memory: about 20 bytes for each score.

    Args:
        scores: (B, I) floating point; -inf marks an item that is no candidate.
        rows: (P,) int64, the row of each relevant item.
        columns: (P,) int64, its column; no pair (row, column) occurs twice.

    Returns:
        (B,) float64 in [0, 1]; NaN for users without a relevant item or without any other candidate, for the caller
        to leave out and count.

    Raises:
        RecbenchError: a score is NaN or +inf.
    """
    broken = int((~(scores < torch.inf)).any(1).sum())
    if broken:
        raise RecbenchError(f"scores of {broken} of {len(scores)} users contain NaN or +inf, expected others or -inf")
    relevant = _padded(scores[rows, columns], rows, len(scores))
    others = scores > -torch.inf
    others[rows, columns] = False
    # The relevant items below each score; the next one up, if level with it, starts a run of equal ones.
    below = torch.searchsorted(relevant, scores.contiguous())
    level = (relevant.gather(1, below) == scores) & others
    runs = torch.searchsorted(relevant, relevant, right=True) - torch.searchsorted(relevant, relevant)
    n_level = runs.gather(1, below).masked_fill_(~level, 0).sum(1)
    n_below = below.masked_fill_(~others, 0).sum(1)
    n_pairs = _count(rows, len(scores)) * others.sum(1)
    return (2 * (n_pairs - n_below) - n_level).double() / (2 * n_pairs)


def _padded(values: Tensor, rows: Tensor, n_rows: int) -> Tensor:
    """Values (P,) of rows as a table (n_rows, M + 1), each row ascending and filled up with +inf, at least once."""
    sizes = _count(rows, n_rows)
    by_row = rows.argsort()
    rows = rows[by_row]
    place = torch.arange(len(rows), device=rows.device) - (sizes.cumsum(0) - sizes)[rows]
    table = values.new_full((n_rows, int(sizes.max()) + 1), torch.inf)
    table[rows, place] = values[by_row]
    return table.sort(dim=1).values


def _too_short(name: str, k: int, lists: Tensor) -> UsageError:
    return UsageError(f"metric '{name}' needs lists of {k} items, found {lists.shape[1]}; rank more items")


def _check_gains(gains: Tensor) -> None:
    broken = int((~((gains >= 0) & (gains < torch.inf))).sum())
    if broken:
        raise RecbenchError(
            f"{broken} of {gains.numel()} labels or gains are negative, NaN or infinite, expected numbers from 0"
        )


def _dcg(gains: Tensor, exponential: bool) -> Tensor:
    """Discounted cumulative gain (B,) of lists (B, K)."""
    gains = gains.double()
    return ((torch.exp2(gains) - 1 if exponential else gains) * _discount(_ranks(gains))).sum(1)


def _count(groups: Tensor, n_groups: int) -> Tensor:
    """Return how often each of the groups 0, ..., n_groups - 1 occurs."""
    return torch.bincount(groups, minlength=n_groups)


class _Hits:
    """Hits of lists and the running sums over their places that metrics share, each computed once.

    A running sum (B, K) holds the value at every cutoff; and unlike a product of matrices it adds up each row in one
    order whatever the batch, so values do not change with its size.
    """

    def __init__(self, hits: Tensor, n_relevant: Tensor) -> None:
        self.hits = hits.double()
        self.n = n_relevant.double()
        self.ranks = _ranks(hits)
        self.found = self.hits.cumsum(1)
        if bool((self.hits.sum(1) > self.n).any()):
            raise RecbenchError("a list has more hits than its user has relevant items; count all relevant items")

    @cached_property
    def first(self) -> Tensor:
        """Rank of the first hit (B,), K + 1 where there is none."""
        return (self.found == 0).sum(1) + 1

    @cached_property
    def dcg(self) -> Tensor:
        return (self.hits * _discount(self.ranks)).cumsum(1)

    @cached_property
    def ideal_dcg(self) -> Tensor:
        """DCG (K,) of a list with hits alone."""
        return _discount(self.ranks).cumsum(0)

    @cached_property
    def precisions(self) -> Tensor:
        """Sum of the precision at the rank of every hit, A in the definitions."""
        return (self.hits * self.found / self.ranks).cumsum(1)


def _ranks(lists: Tensor) -> Tensor:
    """1, 2, ..., K as float64, for lists (B, K)."""
    return torch.arange(1, lists.shape[1] + 1, dtype=torch.float64, device=lists.device)


def _discount(ranks: Tensor) -> Tensor:
    return 1 / torch.log2(ranks + 1)


def _recall(lists: _Hits, k: int) -> Tensor:
    return lists.found[:, k - 1] / lists.n


def _recall_min(lists: _Hits, k: int) -> Tensor:
    return lists.found[:, k - 1] / lists.n.clamp(max=k)


def _precision(lists: _Hits, k: int) -> Tensor:
    return lists.found[:, k - 1] / k


def _f1(lists: _Hits, k: int) -> Tensor:
    return 2 * lists.found[:, k - 1] / (k + lists.n)


def _hit(lists: _Hits, k: int) -> Tensor:
    return (lists.first <= k).double()


def _ndcg(lists: _Hits, k: int) -> Tensor:
    # Users without a relevant item become NaN later; their index must only be valid.
    return lists.dcg[:, k - 1] / lists.ideal_dcg[lists.n.long().clamp(1, k) - 1]


def _mrr(lists: _Hits, k: int) -> Tensor:
    return (lists.first <= k) / lists.first.double()


def _map(lists: _Hits, k: int) -> Tensor:
    return lists.precisions[:, k - 1] / lists.n.clamp(max=k)


def _map_n(lists: _Hits, k: int) -> Tensor:
    return lists.precisions[:, k - 1] / lists.n


def _map_hits(lists: _Hits, k: int) -> Tensor:
    return lists.precisions[:, k - 1] / lists.found[:, k - 1].clamp(min=1)


def _rbp(lists: _Hits, k: int, persistence: float) -> Tensor:
    weights = persistence ** (lists.ranks - 1)
    return (1 - persistence) * (lists.hits * weights).cumsum(1)[:, k - 1]


def _rprecision(lists: _Hits, _: int) -> Tensor:
    return lists.found.gather(1, lists.n.long().clamp(min=1)[:, None] - 1).squeeze(1) / lists.n


_DEFINITIONS: dict[str, Callable[..., Tensor]] = {
    "recall@k": _recall,
    "recall_min@k": _recall_min,
    "precision@k": _precision,
    "f1@k": _f1,
    "hit@k": _hit,
    "ndcg@k": _ndcg,
    "mrr@k": _mrr,
    "map@k": _map,
    "map_n@k": _map_n,
    "map_hits@k": _map_hits,
    "rbp.NN@k": _rbp,
    "rprecision": _rprecision,
}
"""By the form of the name: functions of the lists, the cutoff, and the share where the name has one."""
