"""Some of the fields of a data set, with ids of their own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from recbench.tasks.batches import Ragged
from recbench.tasks.ctr import CTRBatch, CTRData, Field, FieldSpace, ItemTable


class Subspace:
    """The fields of a ``FieldSpace`` with the given names, in its order, without the ids of the others.

    ``fields`` are the chosen ones with their new ids.
    """

    def __init__(self, fields: FieldSpace, names: Collection[str]) -> None:
        chosen = [field for field in fields if field.name in names]
        offsets: dict[int, int] = {}
        owners: dict[int, str] = {}
        size = 0
        # Fields that own a vocabulary before those that borrow it: another owner is needed only where that is left out.
        for field in sorted(chosen, key=lambda field: field.vocabulary is not None):
            owners.setdefault(field.offset, field.name)
        for field in chosen:
            if field.offset not in offsets:
                offsets[field.offset] = size
                size += field.size

        def moved(field: Field) -> Field:
            owner = owners[field.offset]
            return replace(field, offset=offsets[field.offset], vocabulary=None if owner == field.name else owner)

        self.fields = FieldSpace(map(moved, chosen))
        self._shift = {field.name: offsets[field.offset] - field.offset for field in chosen}

    def batch(self, batch: CTRBatch, fields: FieldSpace) -> CTRBatch:
        """Return the chosen ones of the ``fields`` of a batch, with their new ids."""
        # Column by column: a list of columns would be copied to the device, which waits for the copy.
        columns = [
            batch.ids[:, column] + self._shift[field.name]
            for column, field in enumerate(fields.single)
            if field.name in self._shift
        ]
        ids = torch.stack(columns, 1) if columns else batch.ids[:, :0]
        multi = {
            name: Ragged(ragged.values + self._shift[name], ragged.offsets)
            for name, ragged in batch.multi.items()
            if name in self._shift
        }
        dense: list[Tensor] = []
        if batch.dense is not None:
            numbers = zip(fields.dense, batch.dense.unbind(1), strict=True)
            dense = [values for field, values in numbers if field.name in self._shift]
        return CTRBatch(ids, multi, batch.labels, torch.stack(dense, 1) if dense else None)

    def data(self, data: CTRData) -> CTRData:
        """Return training data of the chosen fields; the table of items too, where the item is among them."""
        items = data.items
        if items is not None:
            items = self._items(items) if items.item.name in self._shift else None
        return CTRData(self.fields, self.batch(data.all_rows(), data.fields), data.labels, items)

    def _items(self, items: ItemTable) -> ItemTable:
        by_name = {field.name: field for field in self.fields}
        fields = FieldSpace(by_name[field.name] for field in items.fields if field.name in by_name)
        return ItemTable(by_name[items.item.name], fields, self.batch(items.rows, items.fields), items.vectors)
