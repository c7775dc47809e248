"""Models around a backbone: another model of the package, named in the configuration, whose parts they gate or replace.

What a procedure needs of any backbone: its embeddings (``embeddings``), a gate on their tables (torch's own
parametrisations, so that the backbone's code does not change), and its initial weights again (``copy.deepcopy`` of
``state_dict()`` before training, ``load_state_dict`` after).
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from recbench.models.base import CTRModel, Model, ModelConfig
from recbench.models.layers.embedding import FieldEmbedding
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
        backbone: Any = load_model(config.backbone).create(config.of_backbone(), data)
        return cls(config, data.fields, backbone)

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        logits: Tensor = self.backbone(batch)
        return logits

    def loss(self, batch: CTRBatch) -> Tensor:
        """Return the backbone's loss."""
        return self.backbone.loss(batch)


def embeddings(model: Model) -> list[nn.Module]:
    """Return the modules of a model that hold its tables, in the order in which it made them."""
    return [module for module in model.modules() if isinstance(module, FieldEmbedding | nn.Embedding)]
