"""OptFS: a set of feature values chosen by gates that close during training; then training again without the others.

Source      Lyu, Tang, Liu, Chen, He, Liu: Optimizing Feature Set for Click-Through Rate Prediction. WWW 2023,
            arXiv:2301.10909; the schedule and the constants are those of the authors' code, fuyuanlyu/OptFS.
Gates       row k of every table of the backbone is multiplied by g_k = s * sigmoid(tau * c_k), with c_k = 0.5 and
            tau = 1 at first and s = 1 / sigmoid(0.5), so that g_k = 1; in the end by s * [c_k > 0]
Search      loss of the backbone + lambda * sum_k sigmoid(tau * c_k), where tau grows by the same factor after each of E
            epochs, from 1 to gamma in the last one; Adam, without weight decay on the gates
Retraining  from the weights of the beginning of epoch ``rewind``, gates fixed at s * [c_k > 0], loss of the backbone
Departures  the backbone is the model of this package: its initialisation, its first-order weights, which have the same
            gates, and its penalty, which is on the ungated tables; all its weights are rewound, those outside of linear
            and batch normalisation layers too; the optimiser begins anew at the rewind point also in the search; the
            gates may have a learning rate of their own, which small data with few steps need; retraining stops after
            the backbone's patience, not after the first epoch without a better validation value
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from recbench.errors import UsageError
from recbench.models.base import CTRModel, NonNegative, NonNegativeFloat, PositiveFloat, tunable
from recbench.models.explanation import Explanation, Table
from recbench.models.layers.backbone import (
    BackboneConfig,
    BackboneModel,
    embedding_parameters,
    ids_of_rows,
    rewind,
    snapshot,
)
from recbench.models.layers.embedding import FieldEmbedding
from recbench.models.procedure import Phase, Stage, Sweep
from recbench.tasks.ctr import CTRBatch, CTRData, FieldSpace

INITIAL = 0.5


class FeatureGates(nn.Module):
    """One gate for each of n ids."""

    temperature: Tensor
    hard: Tensor
    unit: Tensor

    def __init__(self, n_ids: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.full((n_ids, 1), INITIAL))
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("hard", torch.tensor(False))
        self.register_buffer("unit", torch.tensor(INITIAL).sigmoid(), persistent=False)

    def openness(self) -> Tensor:
        """Return how far each gate is open, shape (n, 1): between 0 and 1, or one of them for hard gates."""
        return torch.where(self.hard, (self.logits > 0).float(), (self.temperature * self.logits).sigmoid())

    def forward(self) -> Tensor:
        """Return the factor of each id, shape (n, 1); 1 for gates half open, as all are at first."""
        return self.openness() / self.unit


class GatedRows(nn.Module):
    """Parametrisation of a table (m, D): each row times the gate of its id; ``ids`` (m,)."""

    ids: Tensor

    def __init__(self, gates: FeatureGates, ids: Tensor) -> None:
        super().__init__()
        self.gates = gates
        self.register_buffer("ids", ids, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the table after its gates."""
        return weight * self.gates()[self.ids]


class OptFS(BackboneModel):
    """Gates on single feature values around any CTR model: search, then retraining with those that are kept."""

    class Config(BackboneConfig):
        """Hyper-parameters; batches, learning rate, weight decay and the end of retraining are the backbone's."""

        search_epochs: Annotated[int, Field(ge=2)] = 10
        rewind: NonNegative = 1
        """Retraining starts from the weights with which this epoch of the search began; 0: the initial ones."""
        temperature: Annotated[float, Field(gt=1, allow_inf_nan=False)] = tunable(2000.0, low=100.0, high=1e4, log=True)
        """Gamma: of the last epoch of the search."""
        sparsity: NonNegativeFloat = tunable(2e-2, low=1e-3, high=1.0, log=True)
        """Lambda times the number of feature values, so that it means the same for data sets of all sizes."""
        gate_learning_rate: PositiveFloat | None = None
        """The backbone's where it is not given."""

        @model_validator(mode="after")
        def _rewinds_to_the_search(self) -> Self:
            if self.rewind >= self.search_epochs:
                raise UsageError(
                    f"rewind: expected an epoch below search_epochs ({self.search_epochs}), found {self.rewind}"
                )
            return self

    def __init__(self, config: Config, fields: FieldSpace, backbone: CTRModel) -> None:
        super().__init__(config, fields, backbone)
        self.gates = FeatureGates(fields.n_ids)
        tables = [module for module in backbone.modules() if isinstance(module, FieldEmbedding)]
        if not tables:
            raise UsageError(f"backbone: expected a model with embeddings of fields, found '{config.backbone}'")
        for module in tables:
            register_parametrization(module, "weight", GatedRows(self.gates, ids_of_rows(module, fields)))

    def procedure(self, data: CTRData) -> Iterator[Stage]:
        """Search up to the rewind point, search after it, retraining."""
        config, gates = self.config, self.gates
        stage, phase = self.own_stage(data)
        weights = [parameter for parameter in self.parameters() if parameter is not gates.logits]
        gate_rate = config.gate_learning_rate or phase.learning_rate
        groups: list[dict[str, Any]] = [
            {"params": weights},
            {"params": [gates.logits], "lr": gate_rate, "weight_decay": 0.0},
        ]
        searching = replace(phase, name="search", loss=self.search_loss, parameters=groups)
        # At the end of an epoch, so that the first one has the temperature 1.
        steps: list[Phase | Sweep] = [searching, Sweep("temperature", self.anneal)]
        if config.rewind:
            yield Stage("search", steps, config.rewind)
        earlier = snapshot(self)
        yield Stage("search on", steps, config.search_epochs - config.rewind)
        rewind(self, earlier, selection=gates)
        gates.hard.fill_(True)
        yield replace(stage, name="retrain", steps=[replace(phase, name="retrain", loss=self.loss, parameters=weights)])

    def search_loss(self, batch: CTRBatch) -> Tensor:
        """Return the backbone's loss plus the price of open gates."""
        return self.loss(batch) + self.config.sparsity * self.gates.openness().mean()

    def anneal(self) -> None:
        """Raise the temperature by one epoch's factor, up to the last epoch's."""
        last = self.config.temperature
        self.gates.temperature.mul_(last ** (1 / (self.config.search_epochs - 1))).clamp_(max=last)

    def kept(self) -> Tensor:
        """Return which ids have an open gate, shape (n,)."""
        return self.gates.logits.detach().squeeze(1) > 0

    def explain(self, data: CTRData) -> Explanation:
        """Tell the share of feature values kept, in all and by field, and the size of the tables."""
        kept = self.kept()
        of_field = [kept[field.offset : field.offset + field.size] for field in self.fields]
        before, after = embedding_parameters(self.backbone)
        figures = {
            "features": len(kept),
            "features kept": int(kept.sum()),
            "share of features kept": float(kept.float().mean()),
            "embedding parameters before": before,
            "embedding parameters after": after,
        }
        columns: dict[str, list[str | float]] = {
            "field": [field.name for field in self.fields],
            "features": [field.size for field in self.fields],
            "kept": [int(gates.sum()) for gates in of_field],
            "share kept": [float(gates.float().mean()) for gates in of_field],
        }
        return Explanation(figures, [Table("Features kept by field", columns)])
