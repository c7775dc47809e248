"""Which fields tell most of the label, before any model is trained: cardinality-aware mutual information.

Source: Skrlj & Mramor (OutRank), RecSys 2023, arXiv:2309.01552, and the definitions of its public implementation. Plain
mutual information of a label Y and a field X grows with the number of X's values even where X is noise. Here the
entropy H(Y|X) is compared with H_bg(Y|X), what the same groups of rows have with labels from elsewhere, so that the
bias of small groups cancels:

    score = H_bg(Y|X) - H(Y|X),    H(Y|X) = sum over values v with c_v >= 2 of c_v / n * entropy of Y among X = v

The labels from elsewhere are the same labels in one random order. (The public implementation gives row r of the group
X = v the label of row r + c_v: in a sorted file that is the same label, and some labels are drawn twice, which is noise
where labels are not balanced.) Nats throughout. A score may be slightly below zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from math import comb
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recbench.data.store import Arrays
from recbench.errors import UsageError

Codes = NDArray[np.int64]
"""Numbers of the values of n rows, from 0 on without gaps, shape (n,)."""

GROUPS = 64
"""A number is cut into this many groups of equal size."""
MOST_COMBINATIONS = 2**15
TABLE_SHARE = 4
"""Codes are counted in a table of all possible ones while it has at most that many entries a row, else by sorting."""


@dataclass(frozen=True)
class Ranked:
    """A field, or several taken together, with what it tells of the label."""

    fields: tuple[str, ...]
    cardinality: int
    """Number of values in the rows."""
    score: float
    """Cardinality-aware mutual information, nats."""
    information: float
    """Plain mutual information H(Y) - H(Y|X), in which values seen once count as if they told everything; nats."""


class Labels:
    """Labels of n rows, and the order in which they serve as background."""

    def __init__(self, labels: NDArray[Any], seed: int = 0) -> None:
        self.codes = recode(labels)
        self._size = int(self.codes.max()) + 1
        self._mixed = np.random.default_rng(seed).permutation(self.codes)
        self.entropy = entropy(np.bincount(self.codes))

    def score(self, codes: Codes) -> tuple[float, float]:
        """Return the cardinality-aware and the plain mutual information of a field's codes and the labels.

        The labels themselves get their entropy for both: no background is taken off.
        """
        counts = np.bincount(codes)
        information = self.entropy - self._conditional(codes, counts, self.codes)
        if np.array_equal(codes, self.codes):
            return information, information
        background = self.entropy - self._conditional(codes, counts, self._mixed)
        return information - background, information

    def _conditional(self, codes: Codes, counts: Codes, labels: Codes) -> float:
        """Return H(labels | codes) over the values seen more than once."""
        kept = counts[codes] >= 2
        joint = _occurrences(codes[kept] * self._size + labels[kept], len(counts) * self._size)
        return float((_n_log_n(counts[counts >= 2]) - _n_log_n(joint)) / len(codes))


def recode(values: NDArray[Any]) -> Codes:
    """Return codes of values; of rows where there are several columns."""
    if values.ndim == 1 and np.issubdtype(values.dtype, np.integer):
        codes = values.astype(np.int64) - int(values.min())
        return _dense(codes, int(codes.max()) + 1)
    axis = 0 if values.ndim > 1 else None
    return np.unique(values, return_inverse=True, axis=axis)[1].reshape(len(values)).astype(np.int64)


def combine(left: Codes, right: Codes) -> Codes:
    """Return codes of the pairs of values."""
    size = int(right.max()) + 1
    return _dense(left * size + right, (int(left.max()) + 1) * size)


def _dense(codes: Codes, possible: int) -> Codes:
    """Return codes without gaps of numbers below ``possible``."""
    if possible > TABLE_SHARE * len(codes):
        return np.unique(codes, return_inverse=True)[1].astype(np.int64)
    seen = np.zeros(possible, dtype=np.int64)
    seen[codes] = 1
    return (seen.cumsum() - 1)[codes]


def entropy(counts: NDArray[np.integer]) -> float:
    """Return the entropy of what was counted, in nats."""
    total = counts.sum()
    return float(np.log(total) - _n_log_n(counts) / total)


def _occurrences(codes: Codes, possible: int) -> NDArray[np.int64]:
    """Return how often each code occurs, in no order; some may be zeros."""
    return np.bincount(codes) if possible <= TABLE_SHARE * len(codes) else np.unique(codes, return_counts=True)[1]


def _n_log_n(counts: NDArray[np.integer]) -> float:
    counts = counts[counts > 0]
    return float((counts * np.log(counts)).sum())


class Rows:
    """The fields of a part of prepared rows as codes, made when they are asked for.

    A row's values of a multi-valued field are one value together, whatever their order. A number's value is the one of
    up to 64 groups of equal size that it falls in.

    Args:
        part: arrays as the protocol ``labelled`` writes them.
        fields: their description, at least ``name, multi, dense``.
    """

    def __init__(self, part: Arrays, fields: Sequence[Mapping[str, Any]]) -> None:
        self._part = part
        self.names = [field["name"] for field in fields]
        self._multi = {field["name"] for field in fields if field["multi"]}
        dense = [field["name"] for field in fields if field.get("dense")]
        self._dense = {name: column for column, name in enumerate(dense)}
        single = [name for name in self.names if name not in self._multi and name not in self._dense]
        self._single = {name: column for column, name in enumerate(single)}

    @property
    def labels(self) -> NDArray[Any]:
        """Labels of the rows; several of a row count as one together."""
        return self._part["labels"]

    def codes(self, name: str) -> Codes:
        """Return the codes of a field."""
        if name in self._single:
            return recode(self._part["ids"][:, self._single[name]])
        if name in self._dense:
            return _groups(self._part["dense"][:, self._dense[name]])
        return _sets(self._part[f"{name}_values"], self._part[f"{name}_offsets"])


def _groups(numbers: NDArray[np.floating]) -> Codes:
    edges = np.unique(np.quantile(numbers, np.arange(1, GROUPS) / GROUPS))
    return recode(np.searchsorted(edges, numbers, side="right"))


def _sets(values: NDArray[np.integer], offsets: NDArray[np.integer]) -> Codes:
    # The sum of 64 random bits of each value is the same in any order, and for two different sets by chance alone.
    distinct, codes = np.unique(values, return_inverse=True)
    bits = np.random.default_rng(0).integers(2**63, size=len(distinct), dtype=np.int64)
    sums = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(bits[codes])])
    return np.unique(sums[offsets[1:]] - sums[offsets[:-1]], return_inverse=True)[1].astype(np.int64)


def rank_fields(rows: Rows, order: int = 1, tell: Callable[[str], None] = lambda how_far: None) -> list[Ranked]:
    """Score all fields, and all combinations of up to ``order`` of them, and return them from the best on.

    Raises:
        UsageError: ``order`` is not from 1 to the number of fields, or gives more than 32,768 combinations.
    """
    n_fields = len(rows.names)
    if not 1 <= order <= n_fields:
        raise UsageError(f"order: expected from 1 to {n_fields}, the number of fields, found {order}")
    wanted = sum(comb(n_fields, size) for size in range(1, order + 1))
    if wanted > MOST_COMBINATIONS:
        raise UsageError(
            f"order {order} of {n_fields} fields is {wanted:,} combinations, expected at most {MOST_COMBINATIONS:,}; "
            "choose a lower order"
        )
    labels = Labels(rows.labels)
    # One field's codes are made again for each combination, so that memory does not grow with the number of fields.
    ranked: list[Ranked] = []
    for names in _combinations(rows.names, order):
        tell(f"{len(ranked):,} of {wanted:,}")
        codes = reduce(combine, map(rows.codes, names))
        ranked.append(Ranked(names, int(codes.max()) + 1, *labels.score(codes)))
    return sorted(ranked, key=lambda each: -each.score)


def _combinations(names: Sequence[str], order: int) -> Iterator[tuple[str, ...]]:
    for size in range(1, order + 1):
        yield from combinations(names, size)


def rank_3mr(
    relevance: NDArray[np.float64],
    redundancy: NDArray[np.float64],
    relation: NDArray[np.float64],
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    aggregate: Literal["median", "mean", "sum"] = "median",
) -> list[int]:
    """Return all features in the order in which they are chosen for relevance, little redundancy, and relation.

    The first has the highest relevance; then always the one with the highest

        relevance(f) - alpha * aggregate over chosen s of redundancy(s, f) + beta * the same of relation(s, f).

    Each input is scaled to [0, 1] before. An unknown pair is NaN and counts 0.

    Args:
        relevance: (F,) scores with the label.
        redundancy: (F, F) scores of features with features; the diagonal is not looked at.
        relation: (F, F) scores of pairs with the label; the diagonal is not looked at.
        alpha: weight of the redundancy.
        beta: weight of the relation.
        aggregate: over the chosen ones.
    """
    aggregated: Any = {"median": np.median, "mean": np.mean, "sum": np.sum}[aggregate]
    relevance = _scaled(relevance)
    between = [np.where(np.eye(len(relevance), dtype=bool), np.nan, pairs) for pairs in (redundancy, relation)]
    redundancy, relation = (np.nan_to_num(_scaled(pairs)) for pairs in between)
    chosen = [int(relevance.argmax())]
    while len(chosen) < len(relevance):
        value = relevance - alpha * aggregated(redundancy[chosen], axis=0) + beta * aggregated(relation[chosen], axis=0)
        value[chosen] = -np.inf
        chosen.append(int(value.argmax()))
    return chosen


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = values[~np.isnan(values)]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 0.0)
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def rank_fields_3mr(rows: Rows) -> list[Ranked]:
    """Return the fields by ``rank_3mr``, each with its own score with the label."""
    names = rows.names
    ranked = {each.fields: each for each in rank_fields(rows, min(2, len(names)))}
    relevance = np.array([ranked[name,].score for name in names])
    redundancy, relation = np.full((2, len(names), len(names)), np.nan)
    for right, name in enumerate(names):
        others = Labels(rows.codes(name))
        for left, other in enumerate(names):
            if left != right:
                redundancy[left, right] = others.score(rows.codes(other))[0]
                pair = (names[min(left, right)], names[max(left, right)])
                relation[left, right] = ranked[pair].score
    return [ranked[names[place],] for place in rank_3mr(relevance, redundancy, relation)]
