"""OutRank: a backbone on the fields that tell most of the label, ranked before any training.

Source      Skrlj & Mramor: OutRank: Speeding up AutoML-based Model Search for Large Sparse Data sets with
            Cardinality-aware Feature Ranking. RecSys 2023, arXiv:2309.01552; the algorithm of its implementation.
Score       H_bg(Y|X) - H(Y|X) on the training rows: see recbench/data/feature_ranking.py
Ranking     by score, or by 3MR: greedily by the scaled score with the label minus the median score with the fields
            chosen before plus the median score of the pairs with them
Loss        the backbone's, on the fields that are kept
Departures  all training rows at once, in place of the median over batches of a sample; the background is the labels
            in a random order; numbers in groups of equal size; the table of items goes where the item does
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Literal, Self

from torch import Tensor

from recbench.data.feature_ranking import Ranked, Rows, rank_fields, rank_fields_3mr
from recbench.errors import UsageError
from recbench.models.base import CTRModel, Positive, tunable
from recbench.models.explanation import Explanation, Table
from recbench.models.layers.backbone import BackboneConfig, BackboneModel
from recbench.models.layers.subspace import Subspace
from recbench.models.procedure import Stage
from recbench.tasks.ctr import CTRBatch, CTRData, FieldSpace


class OutRank(BackboneModel):
    """A backbone on the fields with the highest cardinality-aware mutual information with the label."""

    class Config(BackboneConfig):
        """Hyper-parameters."""

        keep: Positive = tunable(5, low=1, high=20)
        """Number of fields."""
        ranking: Literal["score", "3mr"] = tunable("score", choices=("score", "3mr"))
        """By each field's own score, or also by redundancy and relation with those chosen before."""

    def __init__(
        self, config: Config, fields: FieldSpace, backbone: CTRModel, subspace: Subspace, ranking: Sequence[Ranked]
    ) -> None:
        super().__init__(config, fields, backbone)
        self.subspace = subspace
        self.ranking = ranking

    @classmethod
    def create(cls, config: Any, data: CTRData) -> Self:
        """Rank the fields on the training rows and make the backbone for the best."""
        if config.keep > len(data.fields):
            raise UsageError(f"keep: expected at most {len(data.fields)}, the number of fields, found {config.keep}")
        rows = as_rows(data)
        ranking = rank_fields_3mr(rows) if config.ranking == "3mr" else rank_fields(rows)
        subspace = Subspace(data.fields, {name for each in ranking[: config.keep] for name in each.fields})
        return cls(config, data.fields, config.make_backbone(subspace.data(data)), subspace, ranking)

    def procedure(self, data: CTRData) -> Iterator[Stage]:
        """Train the backbone on rows that have the kept fields only."""
        return self.backbone.procedure(self.subspace.data(data))

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        return super().forward(self.subspace.batch(batch, self.fields))

    def loss(self, batch: CTRBatch) -> Tensor:
        """Return the backbone's loss."""
        return super().loss(self.subspace.batch(batch, self.fields))

    def explain(self, data: CTRData) -> Explanation:
        """Tell the ranking."""
        kept = {field.name for field in self.subspace.fields}
        columns: dict[str, list[str] | list[int] | list[float]] = {
            "field": [each.fields[0] for each in self.ranking],
            "kept": ["yes" if each.fields[0] in kept else "no" for each in self.ranking],
            "cardinality": [each.cardinality for each in self.ranking],
            "mutual information": [each.information for each in self.ranking],
            "score": [each.score for each in self.ranking],
        }
        figures = {"fields": len(self.fields), "fields kept": len(kept)}
        return Explanation(figures, [Table("fields by what they tell of the label (nats)", columns)])


def as_rows(data: CTRData) -> Rows:
    """Return the training rows as feature ranking reads them."""
    rows = data.all_rows()
    part = {"ids": rows.ids, "labels": rows.labels} | ({} if rows.dense is None else {"dense": rows.dense})
    for name, ragged in rows.multi.items():
        part |= {f"{name}_values": ragged.values, f"{name}_offsets": ragged.offsets}
    arrays = {name: values.cpu().numpy() for name, values in part.items()}
    return Rows(arrays, [asdict(field) for field in data.fields])
