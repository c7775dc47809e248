"""Histories of a row and the targets that read them: base of CTR models with behaviour sequences.

Shapes: B rows of a batch, C fields that no target or history stands for, D dims of an embedding, W dims of a target and
of each value of its history, n values of the histories of all rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbench.errors import UsageError
from recbench.models.base import Positive, tunable
from recbench.models.layers.embedding import EmbeddingModel, FieldEmbedding
from recbench.tasks.batches import Ragged
from recbench.tasks.ctr import CTRBatch, CTRData, FieldSpace, ItemTable


@dataclass(frozen=True)
class History:
    """The histories of one field in a batch: value k has the vector ``table[places.values[k]]``; there is no padding.

    ``target`` (B, W), ``table`` (any, W). ``sparse``: whether the table's gradient is.
    """

    target: Tensor
    table: Tensor
    places: Ragged
    sparse: bool = False

    @cached_property
    def rows(self) -> Tensor:
        """Row of the batch that each value belongs to, shape (n,)."""
        return self.places.rows()

    def vectors(self) -> Tensor:
        """Return the vectors of all values, shape (n, W)."""
        return functional.embedding(self.places.values, self.table, sparse=self.sparse)

    def softmax(self, scores: Tensor) -> Tensor:
        """Return scores (n,) as weights that are positive and sum to 1 in each row, (n,)."""
        rows, n_rows = self.rows, len(self.places)
        peaks = scores.new_zeros(n_rows).scatter_reduce(0, rows, scores.detach(), "amax", include_self=False)
        exponentials = (scores - peaks[rows]).exp()
        return exponentials / exponentials.new_zeros(n_rows).index_add(0, rows, exponentials)[rows]

    def sum(self, weights: Tensor) -> Tensor:
        """Return the sum of a row's vectors, each times its weight (n,), shape (B, W); zero for an empty history."""
        weights = weights.to(self.table.dtype)
        values, offsets = self.places.values, self.places.offsets
        return functional.embedding_bag(
            values,
            self.table,
            offsets,
            mode="sum",
            per_sample_weights=weights,
            include_last_offset=True,
            sparse=self.sparse,
        )


class ItemVectors(nn.Module):
    """Vector of an item: the embeddings of its fields, and its given vector in D dims by a projection without bias."""

    def __init__(self, items: ItemTable, dim: int) -> None:
        super().__init__()
        self.items = items
        self.projection = None
        if items.vectors is not None:
            self.projection = nn.Linear(items.vectors.shape[1], dim, bias=False)
            nn.init.xavier_normal_(self.projection.weight)
        self.width = dim * (len(items.fields) + (self.projection is not None))

    def forward(self, ids: Tensor, embedding: FieldEmbedding) -> tuple[Tensor, Tensor]:
        """Return a table (any, W) and the places in it of the items with the given ids (n,), shape (n,)."""
        rows, vectors = self.items.rows, self.items.vectors
        places = ids - self.items.item.offset
        # Of all items, where they are fewer than the ids; but a lazy optimiser is to see no others than these ids.
        if len(places) < len(rows) or embedding.sparse:
            rows, vectors = rows.take(places), None if vectors is None else vectors[places]
            places = torch.arange(len(places), device=ids.device)
        table = embedding(rows, self.items.fields).flatten(1)
        if self.projection is not None:
            table = torch.cat([table, self.projection(vectors)], 1)
        return table, places


class HistoryEmbedding(nn.Module):
    """Embeds what a row is besides its histories (its context), and each history with the target that reads it.

    A sequence is read by the single-valued field whose vocabulary it has. Where that is the item of an item table,
    target and history have the item's attributes too, and the row's own fields of these names are not in the context.
    All ids have their vectors in one table.
    """

    positions: Tensor

    def __init__(self, fields: FieldSpace, items: ItemTable | None, dim: int) -> None:
        super().__init__()
        self.targets = histories_of(fields)
        self.embedding = FieldEmbedding(fields, dim)
        self.item: ItemVectors | None = None
        elsewhere = set(self.targets)
        if items is not None and items.item.name in self.targets:
            self.item = ItemVectors(items, dim)
            elsewhere |= {field.name for field in items.fields}
        sequences = {name for names in self.targets.values() for name in names}
        self.row_fields = FieldSpace(field for field in fields if field.name not in sequences)
        context = [place for place, field in enumerate(self.row_fields) if field.name not in elsewhere]
        self.register_buffer("positions", torch.tensor(context, dtype=torch.int64), persistent=False)
        self.columns = {field.name: column for column, field in enumerate(fields.single)}
        widths = {name: dim if (item := self._item(name)) is None else item.width for name in self.targets}
        self.widths = [widths[name] for name, names in self.targets.items() for _ in names]
        """W of each history, in the order of ``forward``."""
        self.width = len(context) * dim + sum(widths.values())
        """Of the context and the targets together."""

    def _item(self, target: str) -> ItemVectors | None:
        return self.item if self.item is not None and self.item.items.item.name == target else None

    def forward(self, batch: CTRBatch) -> tuple[Tensor, list[History]]:
        """Return the context and the targets side by side, (B, width), and the histories, grouped by target."""
        context = self.embedding(batch, self.row_fields).index_select(1, self.positions).flatten(1)
        targets, histories = [], []
        for name, sequences in self.targets.items():
            raggeds = [batch.multi[sequence] for sequence in sequences]
            parts = [batch.ids[:, self.columns[name]], *(ragged.values for ragged in raggeds)]
            ids, item = torch.cat(parts), self._item(name)
            sparse = item is None and self.embedding.sparse
            table, places = (self.embedding.weight, ids) if item is None else item(ids, self.embedding)
            of_target, *of_histories = places.split([len(part) for part in parts])
            target = functional.embedding(of_target, table, sparse=sparse)
            targets.append(target)
            for ragged, of_history in zip(raggeds, of_histories, strict=True):
                histories.append(History(target, table, Ragged(of_history, ragged.offsets), sparse))
        return torch.cat([context, *targets], 1), histories


def histories_of(fields: FieldSpace) -> dict[str, list[str]]:
    """Return the single-valued fields whose vocabulary sequences have: name -> names of these sequences."""
    found = {
        target.name: [field.name for field in fields.sequences if field.vocabulary == target.name]
        for target in fields.single
    }
    return {target: sequences for target, sequences in found.items() if sequences}


class HistoryModel(EmbeddingModel):
    """A CTR model with histories that their targets read. The penalty is on all vectors and on the projection."""

    class Config(EmbeddingModel.Config):
        """Hyper-parameters every such model has."""

        embedding_dim: Positive = tunable(16, choices=(8, 16, 32, 64, 128))

    def __init__(self, config: Any, fields: FieldSpace, items: ItemTable | None = None) -> None:
        super().__init__(config, fields)
        self.histories = HistoryEmbedding(fields, items, config.embedding_dim)

    @classmethod
    def create(cls, config: Any, data: CTRData) -> Self:
        """Make the model for the fields and the items of the data.

        Raises:
            UsageError: no field is a history of another one's values, or the data have several labels.
        """
        cls.check_labels(data)
        if not histories_of(data.fields):
            names = ", ".join(field.name for field in data.fields)
            raise UsageError(
                f"{cls.model_name()} needs a history: a field with `sequence`, and with the vocabulary of a "
                f"single-valued field, its target; this benchmark has none among its fields {names}"
            )
        return cls(config, data.fields, data.items)

    def penalty(self) -> Tensor:
        """Half of embedding_l2 times the sum of squares of the table, and of the projection of given vectors."""
        penalty = super().penalty()
        item = self.histories.item
        if item is None or item.projection is None:
            return penalty
        projected: Tensor = self.config.embedding_l2 / 2 * item.projection.weight.square().sum()
        return penalty + projected
