"""Pairs of single-valued fields as vectors. Shapes: B batch, S single-valued fields, P pairs, D dims.

A pair's joint value may have a vector of its own (``CrossEmbedding``), or be the product of the vectors of its two
values (``ProductEmbedding``): Lyu et al., ICDE 2022, arXiv:2108.01265. Both can ``take`` some of their pairs, with the
weights that these need.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbench.tasks.ctr import FieldSpace

BEYOND = torch.iinfo(torch.int64).max


def field_pairs(fields: FieldSpace) -> Tensor:
    """Return all pairs i < j of columns of ``CTRBatch.ids``, shape (P, 2)."""
    return torch.combinations(torch.arange(len(fields.single)))


@dataclass(frozen=True)
class CrossValues:
    """The joint values of P pairs that occur often enough, each as a number: its key.

    The key of a pair's joint value (i, j) is ``i * scale + j + shift``, with the pair's ``scale`` and ``shift`` (P,);
    no two pairs have a key in common. ``pairs`` (P, 2) are columns, ``keys`` (n,) the sorted keys of what is known, the
    first ``counts[0]`` of them of the first pair, and so on.
    """

    pairs: Tensor
    scale: Tensor
    shift: Tensor
    counts: Tensor
    keys: Tensor

    @classmethod
    def of(cls, fields: FieldSpace, ids: Tensor, min_count: int) -> CrossValues:
        """Count the joint values of all pairs in rows ``ids`` (N, S), and keep those of at least ``min_count`` rows."""
        pairs = field_pairs(fields)
        sizes = torch.tensor([field.size for field in fields.single])[pairs]
        offsets = torch.tensor([field.offset for field in fields.single])[pairs]
        spans = sizes.prod(1)
        scale = sizes[:, 1]
        shift = spans.cumsum(0) - spans - offsets[:, 0] * scale - offsets[:, 1]
        keys = []
        for (first, second), by, plus in zip(pairs.tolist(), scale.tolist(), shift.tolist(), strict=True):
            found, counts = (ids[:, first] * by + ids[:, second] + plus).unique(return_counts=True)
            keys.append(found[counts >= min_count])
        counts = torch.tensor([len(found) for found in keys])
        return cls(pairs, scale, shift, counts, torch.cat(keys).to("cpu"))

    def take(self, kept: Tensor) -> tuple[CrossValues, Tensor]:
        """Return the values of the pairs ``kept`` (numbers in rising order) alone, and where their keys were, (n,)."""
        pair_of_key = torch.repeat_interleave(torch.arange(len(self.pairs)), self.counts)
        places = torch.isin(pair_of_key, kept).nonzero().squeeze(1)
        taken = CrossValues(self.pairs[kept], self.scale[kept], self.shift[kept], self.counts[kept], self.keys[places])
        return taken, places


class CrossEmbedding(nn.Module):
    """A vector for each joint value of each pair; all that are rare or were never seen share one vector a pair.

    Initial weights are uniform with a variance of 1 / (P D). Shapes: ids (B, S) -> (B, P, D).
    """

    first: Tensor
    second: Tensor
    scale: Tensor
    shift: Tensor
    keys: Tensor
    rare: Tensor

    def __init__(self, values: CrossValues, dim: int, weight: Tensor | None = None) -> None:
        super().__init__()
        self.values = values
        n_keys, n_pairs = len(values.keys), len(values.pairs)
        # What follows from the training rows is in no checkpoint.
        self.register_buffer("first", values.pairs[:, 0], persistent=False)
        self.register_buffer("second", values.pairs[:, 1], persistent=False)
        self.register_buffer("scale", values.scale, persistent=False)
        self.register_buffer("shift", values.shift, persistent=False)
        # A last key above all others: every search then ends at a key that can be compared.
        self.register_buffer("keys", torch.cat([values.keys, torch.tensor([BEYOND])]), persistent=False)
        self.register_buffer("rare", n_keys + torch.arange(n_pairs), persistent=False)
        if weight is None:
            weight = uniform(n_keys + n_pairs, dim, n_pairs * dim)
        self.weight = nn.Parameter(weight)

    def rows(self, ids: Tensor) -> Tensor:
        """Return the rows of the table that the joint values have, shape (B, P)."""
        wanted = ids[:, self.first] * self.scale + ids[:, self.second] + self.shift
        places = torch.searchsorted(self.keys, wanted)
        return torch.where(self.keys[places] == wanted, places, self.rare)

    def forward(self, ids: Tensor) -> Tensor:
        """Look the pairs up."""
        return functional.embedding(self.rows(ids), self.weight)

    def take(self, kept: Tensor) -> CrossEmbedding:
        """Return the pairs ``kept`` alone, with only their rows of the table."""
        values, places = self.values.take(kept)
        rows = torch.cat([places, len(self.values.keys) + kept]).to(self.weight.device)
        taken = CrossEmbedding(values, self.weight.shape[1], self.weight.detach()[rows])
        return taken.to(self.weight.device)


class ProductEmbedding(nn.Module):
    """The product (elementwise) of the vectors of a pair's two values, from a table of the fields that take part.

    Initial weights are uniform with a variance of 1 / (S D). Shapes: ids (B, S) -> (B, P, D).
    """

    first: Tensor
    second: Tensor
    columns: Tensor
    shift: Tensor

    def __init__(self, fields: FieldSpace, pairs: Tensor, dim: int, weight: Tensor | None = None) -> None:
        super().__init__()
        self.fields = fields
        self.pairs = pairs
        columns, places = pairs.unique(return_inverse=True)
        self.ids = _ids(fields, columns)
        starts = torch.tensor([field.offset for field in fields.single])[columns]
        self.register_buffer("columns", columns, persistent=False)
        self.register_buffer("first", places[:, 0], persistent=False)
        self.register_buffer("second", places[:, 1], persistent=False)
        self.register_buffer("shift", torch.searchsorted(self.ids, starts) - starts, persistent=False)
        if weight is None:
            weight = uniform(len(self.ids), dim, len(fields.single) * dim)
        self.weight = nn.Parameter(weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Multiply the pairs' vectors."""
        vectors = functional.embedding(ids[:, self.columns] + self.shift, self.weight)
        return vectors[:, self.first] * vectors[:, self.second]

    def take(self, kept: Tensor) -> ProductEmbedding:
        """Return the pairs ``kept`` alone, with only the rows of the fields that are in one."""
        pairs = self.pairs[kept]
        rows = torch.isin(self.ids, _ids(self.fields, pairs.unique())).to(self.weight.device)
        taken = ProductEmbedding(self.fields, pairs, self.weight.shape[1], self.weight.detach()[rows])
        return taken.to(self.weight.device)


def uniform(rows: int, dim: int, width: int) -> Tensor:
    """Return a table (rows, dim) uniform between -sqrt(3 / width) and sqrt(3 / width)."""
    bound = math.sqrt(3 / width)
    return torch.empty(rows, dim).uniform_(-bound, bound)


def _ids(fields: FieldSpace, columns: Tensor) -> Tensor:
    """Return the ids of the given columns' fields in rising order; fields that share a vocabulary share them."""
    ranges = [torch.arange(field.offset, field.offset + field.size) for field in fields.single]
    return torch.cat([torch.empty(0, dtype=torch.int64), *(ranges[column] for column in columns.tolist())]).unique()
