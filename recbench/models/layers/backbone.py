"""Models around a backbone: another model of the package, named in the configuration, whose parts they gate or replace.

What a procedure needs of any backbone: how it is trained by itself (``own_stage``), its embeddings (``embeddings``), a
gate on their tables (torch's own parametrisations, so that the backbone's code does not change), its weights of an
earlier time again (``snapshot``, ``rewind``), and what is kept (``largest``, ``embedding_parameters``).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from recbench.errors import UsageError
from recbench.models.base import CTRModel, Model, ModelConfig
from recbench.models.layers.embedding import FieldEmbedding, table
from recbench.models.procedure import Phase, Stage
from recbench.models.registry import load_model
from recbench.tasks.ctr import CTRBatch, CTRData, FieldSpace


class BackboneConfig(ModelConfig):
    """Which model, with which configuration."""

    backbone: str = "deepfm"
    """Name of a model, or file.py, or package.module:Class."""
    backbone_config: dict[str, Any] = Field(default_factory=dict)
    """Keys of the backbone that differ from its defaults; how it is trained too."""

    @model_validator(mode="after")
    def _backbone_takes_its_keys(self) -> Self:
        self.of_backbone()
        return self

    def of_backbone(self) -> Any:
        """Return the backbone's whole configuration."""
        return load_model(self.backbone).Config.parse(self.backbone_config, "backbone_config")

    def make_backbone(self, data: Any) -> Any:
        """Return the backbone, made for the data.

        Raises UsageError where it is a model of another task.
        """
        model = load_model(self.backbone)
        task = "ctr" if isinstance(data, CTRData) else "rating"
        if task not in model.tasks:
            raise UsageError(f"backbone: expected a model of the task '{task}', found '{self.backbone}'")
        return model.create(self.of_backbone(), data)


class BackboneModel(CTRModel):
    """A CTR model whose ``backbone`` is another one; by itself it scores as the backbone does."""

    Config = BackboneConfig
    backbone: CTRModel

    def __init__(self, config: BackboneConfig, fields: FieldSpace, backbone: CTRModel) -> None:
        super().__init__(config, fields)
        self.backbone = backbone

    @classmethod
    def create(cls, config: Any, data: CTRData) -> Self:
        """Make the model and its backbone."""
        return cls(config, data.fields, config.make_backbone(data))

    @classmethod
    def deviations(cls, config: Any) -> list[str]:
        """Name those of the backbone."""
        named: list[str] = load_model(config.backbone).deviations(config.of_backbone())
        return named

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        logits: Tensor = self.backbone(batch)
        return logits

    def loss(self, batch: Any) -> Tensor:
        """Return the backbone's loss."""
        return self.backbone.loss(batch)

    def own_stage(self, data: Any) -> tuple[Stage, Phase]:
        """Return the stage by which the backbone alone is trained on the data, and the phase that it consists of.

        Raises UsageError where its training is more than that, or updates only the rows of a batch in tables that have
        gates: these make gradients of whole tables.
        """
        # What is around a backbone itself may pass on a single phase, but with batches that only its own loss reads.
        match [] if isinstance(self.backbone, BackboneModel) else list(self.backbone.procedure(data)):
            case [Stage(steps=[Phase() as phase]) as stage]:
                if phase.sparse and any(map(is_parametrized, embeddings(self.backbone))):
                    raise UsageError(
                        f"backbone_config: {self.model_name()} needs optimizer 'adam', found '{phase.optimizer}'"
                    )
                return stage, phase
        raise UsageError(
            f"backbone: expected a model that is trained in one phase, found '{self.config.backbone}', "
            "which has a procedure of its own"
        )


def embeddings(model: Model) -> list[nn.Module]:
    """Return the modules of a model that hold its tables, in the order in which it made them."""
    return [module for module in model.modules() if isinstance(module, FieldEmbedding | nn.Embedding)]


def ids_of_rows(embedding: FieldEmbedding, fields: FieldSpace) -> Tensor:
    """Return the id in ``fields`` of each row of a table, shape (n,).

    They are the rows' own numbers, except in a table of some of the fields only, which may number them anew.
    """
    ids = torch.arange(len(table(embedding)), device=table(embedding).device)
    offsets = {field.name: field.offset for field in fields}
    for field in embedding.fields:
        ids[field.offset : field.offset + field.size] += offsets[field.name] - field.offset
    return ids


def gated(embedding: nn.Module) -> Tensor:
    """Return the table of a FieldEmbedding or nn.Embedding as its gates leave it, without gradients."""
    weight: Any = embedding.weight
    return weight.detach()


def embedding_parameters(model: Model) -> tuple[int, int]:
    """Return the number of entries of a model's tables, and how many of them are not zero after their gates."""
    modules = embeddings(model)
    kept = [int(gated(module).count_nonzero()) for module in modules]
    return sum(table(module).numel() for module in modules), sum(kept)


def largest(values: Sequence[Tensor], share: float) -> list[Tensor]:
    """Return which entries are that share of all entries, of all tensors together, that is largest in size.

    Each mask has its tensor's shape. Their sum is the share of the number of entries, rounded; among equal entries it
    is left open which ones are taken.
    """
    sizes = torch.cat([value.abs().flatten() for value in values])
    mask = torch.zeros_like(sizes, dtype=torch.bool)
    mask[sizes.topk(round(share * len(sizes)), sorted=False).indices] = True
    parts = mask.split([value.numel() for value in values])
    return [part.view_as(value) for part, value in zip(parts, values, strict=True)]


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a model's parameters and buffers as they are now."""
    return copy.deepcopy(model.state_dict())


def rewind(model: nn.Module, earlier: dict[str, Tensor], selection: nn.Module) -> None:
    """Bring back the weights of an earlier ``snapshot``, except in the part of the model that holds the selection."""
    selected = snapshot(selection)
    model.load_state_dict(earlier)
    selection.load_state_dict(selected)
