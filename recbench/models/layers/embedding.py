"""Embeddings of categorical fields, and the base of CTR models that penalise them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbench.models.base import CTRModel, NonNegativeFloat, TrainedConfig, tunable
from recbench.tasks.ctr import CTRBatch, FieldSpace


class FieldEmbedding(nn.Module):
    """One vector per id, in one table for all fields; a multi-valued field is the mean of its values' vectors.

    A dense field is its number times its one vector, as in LibFM (Rendle, TIST 2012). A row without any value of a
    multi-valued field gets a zero vector there. Initial weights are normal with standard deviation 1e-4, as in FuxiCTR
    (Zhu et al., CIKM 2021, arXiv:2009.05794).

    Shapes: a batch of B rows -> (B, F, D), fields in the order of the ``FieldSpace``.
    """

    def __init__(self, fields: FieldSpace, dim: int) -> None:
        super().__init__()
        self.fields = fields
        self.weight = nn.Parameter(torch.empty(fields.n_ids, dim).normal_(std=1e-4))

    def forward(self, batch: CTRBatch) -> Tensor:
        """Look up the fields of a batch, shape (B, F, D)."""
        single = functional.embedding(batch.ids, self.weight)
        if len(self.fields.single) == len(self.fields):
            return single
        columns, numbers = iter(single.unbind(1)), iter([] if batch.dense is None else batch.dense.unbind(1))
        vectors = []
        for field in self.fields:
            if field.multi:
                vectors.append(self._mean(batch, field.name))
            elif field.dense:
                vectors.append(next(numbers)[:, None] * self.weight[field.offset])
            else:
                vectors.append(next(columns))
        return torch.stack(vectors, 1)

    def _mean(self, batch: CTRBatch, name: str) -> Tensor:
        ragged = batch.multi[name]
        return functional.embedding_bag(ragged.values, self.weight, ragged.offsets[:-1], mode="mean")


class EmbeddingModel(CTRModel):
    """A CTR model on field embeddings: binary cross-entropy plus the penalty on every table, in each step on all rows.

    Source: the training protocol of BARS (Zhu et al., SIGIR 2022, arXiv:2205.09626).
    """

    class Config(TrainedConfig):
        """Hyper-parameters every such model has."""

        embedding_l2: NonNegativeFloat = tunable(1e-5, low=1e-7, high=1e-1, log=True)
        """Adds embedding_l2 / 2 times the sum of squares of every table, first-order weights too, to the loss."""

    def loss(self, batch: CTRBatch) -> Tensor:
        """Mean binary cross-entropy and the penalty on the embeddings."""
        tables = [module.weight for module in self.modules() if isinstance(module, FieldEmbedding)]
        squares = torch.stack([table.square().sum() for table in tables]).sum()
        penalty: Tensor = self.config.embedding_l2 / 2 * squares
        return super().loss(batch) + penalty
