"""Histories of a row and the targets that read them: base of CTR models with behaviour sequences.

Shapes: B rows of a batch, C fields that no target or history stands for, D dims of an embedding, W dims of a target and
of each value of its history, n values of the histories of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbench.errors import UsageError
from recbench.models.layers.embedding import EmbeddingModel, FieldEmbedding
from recbench.tasks.batches import Ragged
from recbench.tasks.ctr import CTRBatch, CTRData, Field, FieldSpace, ItemTable


@dataclass(frozen=True)
class History:
    """The histories of one field in a batch: value k has the vector ``table[places.values[k]]``, and there is no padding.

    ``target`` (B, W), ``table`` (any, W).
    """

    target: Tensor
    table: Tensor
    places: Ragged

    @cached_property
    def rows(self) -> Tensor:
        """Row of the batch that each value belongs to, shape (n,)."""
        return self.places.rows()

    def vectors(self) -> Tensor:
        """Return the vectors of all values, shape (n, W)."""
        return functional.embedding(self.places.values, self.table)

    def sum(self, weights: Tensor) -> Tensor:
        """Return the sum of a row's vectors, each times its weight (n,), shape (B, W); zero for an empty history."""
        weights = weights.to(self.table.dtype)
        values, offsets = self.places.values, self.places.offsets
        return functional.embedding_bag(
            values, self.table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
        )


class ItemVectors(nn.Module):
    """Vector of an item: the embeddings of its fields, and its given vector in D dims by a projection without bias."""

    def __init__(self, embedding: FieldEmbedding, items: ItemTable) -> None:
        super().__init__()
        self.embedding = embedding
        self.items = items
        dim = embedding.weight.shape[1]
        self.projection = None
        if items.vectors is not None:
            self.projection = nn.Linear(items.vectors.shape[1], dim, bias=False)
            nn.init.xavier_normal_(self.projection.weight)
        self.width = dim * (len(items.fields) + (self.projection is not None))

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return a table (any, W) and the places in it of the items with the given ids (n,), shape (n,)."""
        rows, vectors = self.items.rows, self.items.vectors
        places = ids - self.items.item.offset
        if len(places) < len(rows):  # otherwise the vectors of all items cost less than one for each id
            rows, vectors = rows.take(places), None if vectors is None else vectors[places]
            places = torch.arange(len(places), device=ids.device)
        table = self.embedding(rows, self.items.fields).flatten(1)
        if self.projection is not None:
            table = torch.cat([table, self.projection(vectors)], 1)
        return table, places


class HistoryEmbedding(nn.Module):
    """Embeds what a row is besides its histories (its context), and each history with the target that reads it.

    A sequence is read by the single-valued field whose vocabulary it has. Where that is the item of an item table,
    target and history have the item's attributes too, and the row's own fields of that name are left out of the context.
    All vectors come from one table.
    """

    positions: Tensor

    def __init__(self, fields: FieldSpace, items: ItemTable | None, dim: int) -> None:
        super().__init__()
        self.pairs = attended(fields)
        targets = {target.name: target for _, target in self.pairs}
        self.embedding = FieldEmbedding(fields, dim)
        self.item = None
        own = set(targets)
        if items is not None and items.item.name in targets:
            self.item = ItemVectors(self.embedding, items)
            own |= {field.name for field in items.fields}
        sequences = {sequence.name for sequence, _ in self.pairs}
        self.row_fields = FieldSpace(field for field in fields if field.name not in sequences)
        context = [place for place, field in enumerate(self.row_fields) if field.name not in own]
        self.register_buffer("positions", torch.tensor(context, dtype=torch.int64), persistent=False)
        self.columns = {field.name: column for column, field in enumerate(fields.single)}
        widths = {name: self.item.width if self._is_item(target) else dim for name, target in targets.items()}  # type: ignore[union-attr]
        self.widths = [widths[target.name] for _, target in self.pairs]
        """W of each history."""
        self.width = len(context) * dim + sum(widths.values())
        """Of the context and the targets together."""

    def _is_item(self, field: Field) -> bool:
        return self.item is not None and field.name == self.item.items.item.name

    def forward(self, batch: CTRBatch) -> tuple[Tensor, list[History]]:
        """Return the context and the targets, (B, width), and the histories in the order of the fields."""
        context = self.embedding(batch, self.row_fields).index_select(1, self.positions).flatten(1)
        histories: list[History] = []
        targets: dict[str, Tensor] = {}
        for sequence, target in self.pairs:
            ragged = batch.multi[sequence.name]
            ids = torch.cat([ragged.values, batch.ids[:, self.columns[target.name]]])
            table, places = self.item(ids) if self._is_item(target) else (self.embedding.weight, ids)  # type: ignore[misc]
            of_history, of_target = places.split([len(ragged.values), len(batch)])
            vector = functional.embedding(of_target, table)
            targets[target.name] = vector
            histories.append(History(vector, table, Ragged(of_history, ragged.offsets)))
        return torch.cat([context, *targets.values()], 1), histories


def attended(fields: FieldSpace) -> list[tuple[Field, Field]]:
    """Return the sequences that have the vocabulary of a single-valued field, each with that field."""
    single = {field.name: field for field in fields.single}
    return [(field, single[field.vocabulary]) for field in fields.sequences if field.vocabulary in single]
