"""Embeddings of categorical fields, and the base of CTR models that penalise them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional

from recbench.errors import UsageError
from recbench.models.base import (
    CTRModel,
    Factor,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Share,
    TrainedConfig,
    tunable,
)
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
        self.sparse = False
        """Whether gradients are sparse, for an optimiser that updates only the rows looked up."""
        self.weight = nn.Parameter(torch.empty(fields.n_ids, dim).normal_(std=1e-4))

    def forward(self, batch: CTRBatch, fields: FieldSpace | None = None) -> Tensor:
        """Look up the fields of a batch, shape (B, F, D); ``fields`` are the batch's, where it has not all."""
        fields = self.fields if fields is None else fields
        weight = self.weight  # once: a table with a parametrisation is computed at each access
        single = functional.embedding(batch.ids, weight, sparse=self.sparse)
        if len(fields.single) == len(fields):
            return single
        columns, numbers = iter(single.unbind(1)), iter([] if batch.dense is None else batch.dense.unbind(1))
        vectors = []
        for field in fields:
            if field.multi:
                ragged = batch.multi[field.name]
                vectors.append(
                    functional.embedding_bag(
                        ragged.values, weight, ragged.offsets[:-1], mode="mean", sparse=self.sparse
                    )
                )
            elif field.dense:
                row = batch.ids.new_full((1,), field.offset)  # filled on the device, no copy from the host
                vectors.append(next(numbers)[:, None] * functional.embedding(row, weight, sparse=self.sparse))
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
        optimizer: Literal["adam", "lazy-adam", "rowwise-adagrad"] = "adam"
        """For large tables: the lazy ones update and penalise only the rows of the batch. All else has Adam."""

        @model_validator(mode="after")
        def _lazy_is_not_clipped(self) -> Self:
            if self.optimizer != "adam" and self.max_norm is not None:
                raise UsageError(f"max_norm: expected none with optimizer={self.optimizer}, found {self.max_norm}")
            return self

    @classmethod
    def deviations(cls, config: Any) -> list[str]:
        """Name the lazy optimisers."""
        if config.optimizer == "adam":
            return []
        return [f"optimizer {config.optimizer}: a step updates and penalises only the table rows of its batch"]

    def procedure(self, data: CTRData) -> Iterator[Stage]:
        """One stage of one phase."""
        config = self.config
        lazy = config.optimizer != "adam"
        for embedding in self.embeddings():
            embedding.sparse = lazy
        phase = Phase(
            "train",
            self.batches(data),
            self.loss,
            list(self.parameters()),
            config.learning_rate,
            config.weight_decay,
            optimizer=config.optimizer,
            sparse=[table(embedding) for embedding in self.embeddings()] if lazy else (),
            sparse_decay=config.embedding_l2,
            max_norm=config.max_norm,
        )
        yield Stage("train", [phase], config.epochs, config.patience, lr_decay=config.lr_decay)

    def loss(self, batch: CTRBatch) -> Tensor:
        """Mean binary cross-entropy and the penalty on the embeddings."""
        return super().loss(batch) + self.penalty()

    def embeddings(self) -> list[FieldEmbedding]:
        """Return the modules that hold the tables."""
        return [module for module in self.modules() if isinstance(module, FieldEmbedding)]

    def penalty(self) -> Tensor:
        """Half of embedding_l2 times the sum of squares of all tables; a lazy optimiser does the same by decay."""
        tables = [table(embedding) for embedding in self.embeddings()]
        if self.config.optimizer != "adam":
            return tables[0].new_zeros(())
        squares = torch.stack([weight.square().sum() for weight in tables]).sum()
        penalty: Tensor = self.config.embedding_l2 / 2 * squares
        return penalty


class DeepConfig(EmbeddingModel.Config):
    """Of a model with a perceptron over its embeddings; the defaults are for small data."""

    embedding_l2: NonNegativeFloat = tunable(1e-2, low=1e-7, high=1e-1, log=True)
    embedding_dim: Positive = tunable(10, choices=(4, 8, 10, 16, 32))
    hidden: tuple[Positive, ...] = (64, 64)
    """Widths of the perceptron's hidden layers."""
    dropout: Share = tunable(0.2, low=0.0, high=0.6)
    """Of the hidden units."""
    batch_norm: bool = False
    """In the perceptron."""
