"""Metrics of top-k lists beyond accuracy.

Lists are (B, k) item numbers, -1 where a list is short. I items; c_i: in how many lists item i is, C their sum;
n_i of n training users have item i; v_i its vector. Over all lists, which chunks share by adding their exposures:

coverage@k        share of the I items with c_i > 0; [0, 1], higher is better         Ge et al. 2010
gini@k            sum_j (2 j - I - 1) c_(j)  /  (I C),  c_(1) <= c_(2) <= ...; 0 if all items are listed equally
                  often, 1 - k/I if all lists are the same; lower is better           Gini 1912; Castells et al. 2015
entropy@k         - sum_i (c_i / C) log(c_i / C)  /  log I; [0, 1], 1 if all items are listed equally often; higher is
                  better                                                              Shannon 1948

Of one list, as means over the m <= k items that are there (serendipity: over its k places, like precision):

popularity@k      n_i / n; [0, 1]; neither end is the better one                      Abdollahpouri et al. 2019, ARP
tail@k            1 if i is outside the short head, the most popular fifth of the items; items that are level at its
                  border are in the head with the same share each; [0, 1], .8 on average over random lists; neither
                  end is the better one                                               Abdollahpouri et al. 2019, APLT
novelty@k         - log2(max(n_i, 1) / n) bits; [0, log2 n], higher is better         Vargas & Castells 2011, MSI
serendipity@k     1 if i is relevant and not in the user's list of k items by popularity; [0, precision@k], higher is
                  better                                                              after Ge et al. 2010
ild@k             1 - cos(v_i, v_j), the mean over pairs; [0, 2], [0, 1] if no vector has negative entries; higher is
                  better                                                              Ziegler et al. 2005
miscalibration@k  sum_g p_g ln(p_g / (.99 q_g + .01 p_g)), p and q the mean genre shares of the user's training items
                  and of the list; [0, ln 100 = 4.61], lower is better                Steck 2018, C_KL

Not defined, NaN for the caller to leave out and count: any but serendipity for an empty list; ild of fewer than two
items with a vector; miscalibration without a training item, or a listed item, that has a genre. Items without vector
(all zeros) count neither in ild nor in miscalibration.
"""

# Shape suffixes: B users, K length of the lists, I items, D entries of an item's vector, G groups of users.

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from recbench.errors import RecbenchError, UsageError, unknown
from recbench.metrics.names import BEYOND, parse, pattern
from recbench.metrics.topk import hits as found_in

ALPHA = 0.01
"""Weight of the wanted distribution in the smoothing of the one given, which keeps miscalibration finite."""

PartT = TypeVar("PartT")


@dataclass(frozen=True)
class Catalogue:
    """What is known of the items from training.

    ``popularity`` (I,) is the number of training users of each item, of ``n_users`` training users in all; ``vectors``
    (I, D), if there are any, describe the items, for instance by genres.

    Raises ``RecbenchError`` where these contradict each other.
    """

    popularity: Tensor
    n_users: int
    vectors: Tensor | None = None

    def __post_init__(self) -> None:
        most = int(self.popularity.max())
        if most > self.n_users:
            raise RecbenchError(f"an item has {most} training users, expected at most all {self.n_users}")
        if self.vectors is not None and len(self.vectors) != len(self.popularity):
            raise RecbenchError(f"expected a vector of each of {len(self.popularity)} items, found {len(self.vectors)}")


@dataclass(frozen=True)
class Lists:
    """The lists to judge, best item first, and what some of the metrics need besides.

    ``items`` (B, K) int64, -1 where a list is short; ``hits`` (B, K) bool; ``popular`` (B, K), the lists of the
    popularity recommender, which leaves out the same items for a user and orders ties in the same way; ``history``
    the users' training items, values (n,) and offsets (B + 1,).
    """

    items: Tensor
    hits: Tensor | None = None
    popular: Tensor | None = None
    history: tuple[Tensor, Tensor] | None = None


def beyond_metrics(names: Sequence[str], lists: Lists, catalogue: Catalogue) -> dict[str, float | Tensor]:
    """Compute metrics beyond accuracy; the definitions are at the top of this module.

    Args:
        names: such as ``ild@10``.
        lists: K at least the largest cutoff.
        catalogue: of all items, listed or not.

    Returns:
        For coverage, gini and entropy, one number of all lists together; for the others (B,) float64, NaN where a
        user's value is not defined. Where there are vectors, (B, D) numbers are held; users may come in chunks then,
        all but the first three metrics depending on the user's own list alone.

    Raises:
        UsageError: an unknown name, a cutoff larger than the lists, or a metric of something that is not given.
        RecbenchError: all lists are empty, or vectors with entries that are not finite, or for miscalibration negative.
    """
    popularity, n_users, n_items = catalogue.popularity, catalogue.n_users, len(catalogue.popularity)

    def top(k: int) -> Tensor:
        return lists.items[:, :k]

    counts = cache(lambda k: exposure(top(k), n_items))

    def vectors(kind: str) -> Tensor:
        return _given(catalogue.vectors, kind, "item vectors")

    def serendipity_at(k: int) -> Tensor:
        hits = _given(lists.hits, "serendipity", "the marks of relevant items")
        popular = _given(lists.popular, "serendipity", "the lists of the popularity recommender")
        return serendipity(top(k), hits[:, :k], popular[:, :k], n_items)

    def miscalibration_at(k: int) -> Tensor:
        history = _given(lists.history, "miscalibration", "the users' training items")
        return miscalibration(top(k), history, vectors("miscalibration"))

    definitions: dict[str, Callable[[int], float | Tensor]] = {
        "coverage": lambda k: coverage(counts(k)),
        "gini": lambda k: gini(counts(k)),
        "entropy": lambda k: entropy(counts(k)),
        "popularity": lambda k: mean_popularity(top(k), popularity, n_users),
        "tail": lambda k: tail_share(top(k), popularity),
        "novelty": lambda k: novelty(top(k), popularity, n_users),
        "serendipity": serendipity_at,
        "ild": lambda k: intra_list_diversity(top(k), vectors("ild")),
        "miscalibration": miscalibration_at,
    }
    values: dict[str, float | Tensor] = {}
    for name in names:
        if pattern(name) not in BEYOND:
            raise unknown("metric beyond accuracy", name, BEYOND)
        kind, k = parse(name)
        if k > lists.items.shape[1]:
            raise UsageError(f"metric '{name}' needs lists of {k} items, found {lists.items.shape[1]}; rank more items")
        values[name] = definitions[kind](k)
    return values


def exposure(items: Tensor, n_items: int) -> Tensor:
    """Count in how many lists each item is, shape (I,) int64; the counts of chunks of users may be added.

    Raises ``RecbenchError`` for an item that is not in the catalogue.
    """
    # Shifted by one, the places that are empty are counted first.
    counts = torch.bincount(items.flatten() + 1, minlength=n_items + 1)[1:]
    if len(counts) > n_items:
        raise RecbenchError(f"a list has item number {len(counts) - 1}, expected numbers below {n_items}")
    return counts


def coverage(exposure: Tensor) -> float:
    """Share of the items that are in at least one list; ``exposure`` has shape (I,)."""
    return float((exposure > 0).double().mean())


def gini(exposure: Tensor) -> float:
    """Gini index of exposure (I,), items in no list included. Raises ``RecbenchError`` if all lists are empty."""
    total, n_items = _listings(exposure), len(exposure)
    weights = 2 * torch.arange(1, n_items + 1, device=exposure.device) - n_items - 1
    return int((weights * exposure.sort().values).sum()) / (n_items * total)


def entropy(exposure: Tensor) -> float:
    """Shannon entropy of exposure (I,) in units of log I. Raises ``RecbenchError`` if all lists are empty or I is 1."""
    shares = exposure.double() / _listings(exposure)
    if len(shares) == 1:
        raise RecbenchError("entropy of exposure is not defined for one item, expected two at least")
    return float(torch.special.entr(shares).sum()) / math.log(len(shares))


def mean_popularity(items: Tensor, popularity: Tensor, n_users: int) -> Tensor:
    """Mean share of the training users who have a listed item, (B,); ``popularity`` (I,) counts them."""
    return _mean(items, popularity.double() / n_users)


def tail_share(items: Tensor, popularity: Tensor) -> Tensor:
    """Share of the listed items that are outside the short head, (B,).

    The head has exactly a fifth of the items' number. Where its border runs through items of equal popularity, each is
    in the head with the share of them that there is room for: what ties broken at random give on average.
    """
    room = len(popularity) / 5
    border = popularity.topk(math.ceil(room)).values[-1]
    above, level = popularity > border, popularity == border
    in_head = above.double() + level * ((room - above.sum().double()) / level.sum())
    return _mean(items, 1 - in_head)


def novelty(items: Tensor, popularity: Tensor, n_users: int) -> Tensor:
    """Mean self-information of the listed items in bits, (B,); ``popularity`` (I,) counts an item's training users.

    An item without training users would have infinitely much; it counts as if one user had it.
    """
    return _mean(items, -(popularity.clamp(min=1).double() / n_users).log2())


def serendipity(items: Tensor, hits: Tensor, popular: Tensor, n_items: int) -> Tensor:
    """Relevant items that the popularity recommender does not list, as a share of the k places, (B,).

    ``hits`` (B, k) bool marks the relevant ones of ``items`` (B, k); ``popular`` (B, k) are the other's lists. Empty
    places of a short list count as misses, as in precision.
    """
    users = torch.arange(len(items), device=items.device)
    keys = (users[:, None] * n_items + popular)[popular >= 0].sort().values
    unexpected = hits & ~found_in(items, users, keys, n_items)
    return (unexpected & (items >= 0)).double().mean(1)


def intra_list_diversity(items: Tensor, vectors: Tensor) -> Tensor:
    """Mean over pairs of listed items of 1 - cosine of their vectors (I, D), (B,).

    The cosines of all pairs of m unit vectors sum up to (|their sum|^2 - m) / 2, so no pair is looked at.
    """
    vectors = _checked(vectors)
    norms = vectors.norm(dim=1, keepdim=True)
    units = torch.where(norms > 0, vectors / norms, 0)
    m = _sums(items, (norms > 0).double()).squeeze(1)
    cosine = (_sums(items, units).square().sum(1) - m) / (m * (m - 1))
    # Rounding may carry the distance of equal items below 0. 0 / 0 where m is 0 or 1 is NaN, as it shall be.
    return (1 - cosine).clamp(min=0).masked_fill(m < 2, torch.nan)


def miscalibration(items: Tensor, history: tuple[Tensor, Tensor], vectors: Tensor) -> Tensor:
    """Kullback-Leibler divergence in nats of the list's genres from those of the user's training items, (B,).

    Args:
        items: (B, k), weighted alike whatever their rank.
        history: the users' training items, values (n,) and offsets (B + 1,), weighted alike.
        vectors: (I, D) not negative, an item's genres; scaled to sum to 1 here, so that marks of 0 and 1 will do.
    """
    vectors = _checked(vectors)
    if vectors.min() < 0:
        raise RecbenchError(
            f"miscalibration needs item vectors of shares, such as genres, found the entry {float(vectors.min()):g}; "
            "leave it out"
        )
    totals = vectors.sum(1, keepdim=True)
    shares = torch.where(totals > 0, vectors / totals, 0)
    values, offsets = history
    wanted = _scaled(embedding_bag(values, shares, offsets[:-1], mode="sum"))
    smoothed = (1 - ALPHA) * _scaled(_sums(items, shares)) + ALPHA * wanted
    # Written as a difference, a genre that neither has contributes 0 and not 0 * log(0 / 0).
    divergence = (torch.xlogy(wanted, wanted) - torch.xlogy(wanted, smoothed)).sum(1)
    return divergence.clamp(min=0)


class GroupGap(NamedTuple):
    """The gap of a metric between groups of users: largest minus smallest mean, with the groups' values, each (G,).

    ``standard_errors`` are those of the means, NaN for groups of one user.
    """

    gap: float
    means: Tensor
    sizes: Tensor
    standard_errors: Tensor


def group_gap(values: Tensor, groups: Tensor) -> GroupGap:
    """Return the largest minus the smallest mean of a metric over groups of users; lower is better, 0 the best.

    Chance alone makes a gap, the larger the smaller the groups and the more of them there are: with G groups of m users
    without any difference it is about 1.1 (G = 2), 1.7 (3), 2.3 (5) standard errors sd / sqrt(m) on average. A gap says
    something only next to ``standard_errors``, and gaps compare models only on the same users.

    Args:
        values: (U,) a metric of each user; NaN values are left out.
        groups: (U,) int64, numbers from 0; users with a negative number belong to no group and are left out.

    Returns:
        The gap, NaN if fewer than two groups have a value; and of each group the mean (NaN without values), the number
        of values, and the mean's standard error.
    """
    used = ~values.isnan() & (groups >= 0)
    n_groups = int(groups.max()) + 1 if len(groups) else 0
    values, groups = values[used].double(), groups[used]
    sizes = torch.bincount(groups, minlength=n_groups)

    def total(of: Tensor) -> Tensor:
        return of.new_zeros(len(sizes)).index_add(0, groups, of)

    means = total(values) / sizes
    errors = (total((values - means[groups]).square()) / (sizes - 1).clamp(min=0) / sizes).sqrt()
    known = means[sizes > 0]
    gap = float(known.max() - known.min()) if len(known) > 1 else math.nan
    return GroupGap(gap, means, sizes, errors)


def _given(part: PartT | None, kind: str, what: str) -> PartT:
    if part is None:
        raise UsageError(f"metric '{kind}@k' needs {what}, found none; leave the metric out")
    return part


def _listings(exposure: Tensor) -> int:
    """Return the number of places in all lists together, not 0."""
    total = int(exposure.sum())
    if not total:
        raise RecbenchError("the spread of exposure is not defined: expected items in the lists, all lists are empty")
    return total


def _lengths(items: Tensor) -> Tensor:
    return (items >= 0).sum(1)


def _sums(items: Tensor, table: Tensor) -> Tensor:
    """Sum the rows (I, D) of a table over the items of each list (B, k), without their (B, k, D) copies: (B, D)."""
    table = torch.cat([table, table.new_zeros(1, table.shape[1])])
    return embedding_bag(torch.where(items >= 0, items, len(table) - 1), table, mode="sum")


def _mean(items: Tensor, values: Tensor) -> Tensor:
    """Mean of the items' values (I,) over each list, (B,); 0 / 0 of an empty list is NaN."""
    return _sums(items, values[:, None]).squeeze(1) / _lengths(items)


def _scaled(sums: Tensor) -> Tensor:
    """Scale rows to sum up to 1; rows of zeros become NaN."""
    return sums / sums.sum(1, keepdim=True)


def _checked(vectors: Tensor) -> Tensor:
    broken = int((~vectors.isfinite()).sum())
    if broken:
        raise RecbenchError(f"{broken} of {vectors.numel()} entries of the item vectors are NaN or infinite")
    return vectors.double()
