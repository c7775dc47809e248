"""Embeddings of categorical fields, and the base of CTR models that penalise them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbench.models.base import CTRModel, Factor, NonNegativeFloat, PositiveFloat, TrainedConfig, tunable
from recbench.models.procedure import Phase, Stage
from recbench.tasks.ctr import CTRBatch, CTRData, FieldSpace


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

    def forward(self, batch: CTRBatch, fields: FieldSpace | None = None) -> Tensor:
        """Look up the fields of a batch, shape (B, F, D); ``fields`` are the batch's, where it has not all."""
        fields = self.fields if fields is None else fields
        weight = self.weight  # once: a table with a parametrisation is computed at each access
        single = functional.embedding(batch.ids, weight)
        if len(fields.single) == len(fields):
            return single
        columns, numbers = iter(single.unbind(1)), iter([] if batch.dense is None else batch.dense.unbind(1))
        vectors = []
        for field in fields:
            if field.multi:
                ragged = batch.multi[field.name]
                vectors.append(functional.embedding_bag(ragged.values, weight, ragged.offsets[:-1], mode="mean"))
            elif field.dense:
                vectors.append(next(numbers)[:, None] * weight[field.offset])
            else:
                vectors.append(next(columns))
        return torch.stack(vectors, 1)


def table(embedding: nn.Module) -> nn.Parameter:
    """Return the trained table of a FieldEmbedding or nn.Embedding, under a parametrisation if it has one."""
    parameters: dict[str, nn.Parameter] = dict(embedding.named_parameters())
    return parameters.get("parametrizations.weight.original", parameters.get("weight"))  # type: ignore[return-value]


class EmbeddingModel(CTRModel):
    """A CTR model on field embeddings: binary cross-entropy plus the penalty on every table, in each step on all rows.

    Source: the training protocol of BARS (Zhu et al., SIGIR 2022, arXiv:2205.09626), which has lr_decay = 0.1,
    patience = 2 and max_norm = 10.
    """

    class Config(TrainedConfig):
        """Hyper-parameters every such model has."""

        embedding_l2: NonNegativeFloat = tunable(1e-5, low=1e-7, high=1e-1, log=True)
        """Adds embedding_l2 / 2 times the sum of squares of every table, first-order weights too, to the loss."""
        lr_decay: Factor = 1.0
        """The learning rate is multiplied by it after an epoch without a better validation value."""
        max_norm: PositiveFloat | None = None
        """The gradient is scaled down to this norm."""

    def procedure(self, data: CTRData) -> Iterator[Stage]:
        """One stage of one phase."""
        config = self.config
        phase = Phase(
            "train",
            self.batches(data),
            self.loss,
            list(self.parameters()),
            config.learning_rate,
            config.weight_decay,
            max_norm=config.max_norm,
        )
        yield Stage("train", [phase], config.epochs, config.patience, lr_decay=config.lr_decay)

    def loss(self, batch: CTRBatch) -> Tensor:
        """Mean binary cross-entropy and the penalty on the embeddings."""
        return super().loss(batch) + self.penalty()

    def penalty(self) -> Tensor:
        """Half of embedding_l2 times the sum of squares of all tables."""
        tables = [table(module) for module in self.modules() if isinstance(module, FieldEmbedding)]
        squares = torch.stack([weight.square().sum() for weight in tables]).sum()
        penalty: Tensor = self.config.embedding_l2 / 2 * squares
        return penalty
