"""Atomic Feature Mimicking: a trained backbone made small by low-rank layers with nearly the same outputs.

Source      Yu, Fu, Ding, Zhou, Wu: Unified Low-rank Compression Framework for Click-through Rate Prediction.
            KDD 2024, arXiv:2405.18146.
Stages      the backbone's own; ``compress``: one pass over the training rows, then the replacements; ``finetune``: as
            in the backbone's first stage, with a learning rate and a number of epochs of its own
Linear      y = W x + b, outputs with mean mu and principal axes U_r, becomes W_2 act(W_1 x + b_1) + b_2 with
            W_1 = U_r^T W, b_1 = U_r^T b, W_2 = U_r, b_2 = (I - U_r U_r^T) mu; act is the identity or a ReLU
Embedding   the table T of a vocabulary becomes codes (T - mu) U_r, reconstructed as U_r code + mu, where mu and U_r are
            of the vectors that training rows look up
Fusion      a linear layer that reads the flattened embeddings and nothing else reads the codes instead; where no other
            part of the backbone reads the embeddings, the reconstruction is left out
Loss        the backbone's; an L2 penalty on tables is on the codes
Departures  the authors' training code is not public: fine-tuning is ours; ranks may be given by a share of variance;
            no layer is replaced by one that is not smaller; multi-valued and dense fields have no mean taken off, as
            a row may have no value; signs of axes are chosen so that outputs' means pass through the ReLU
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from recbench.errors import UsageError
from recbench.models.base import CTRModel, Positive, PositiveFloat, parameter_count, tunable
from recbench.models.explanation import Explanation, Table
from recbench.models.layers.backbone import BackboneConfig, BackboneModel
from recbench.models.layers.dropout import Dropout
from recbench.models.layers.embedding import FieldEmbedding
from recbench.models.layers.lowrank import (
    FusedLinear,
    LowRankEmbedding,
    Moments,
    fuse,
    low_rank_linear,
    mimic_embedding,
    mimic_linear,
)
from recbench.models.layers.mlp import MLP
from recbench.models.procedure import Phase, Stage, Sweep
from recbench.models.registry import load_model
from recbench.tasks.ctr import CTRBatch, CTRData, FieldSpace

TRACED_ROWS = 64
ROWS_AT_ONCE = 4096
TIMED_ROWS = 10_000
TIMES = 7


def _whole_from_one_on(rank: float) -> float:
    if rank >= 1 and rank != int(rank):
        raise ValueError("expected a whole number, the rank, or less than 1, a share of variance")
    return rank


Rank = Annotated[PositiveFloat, AfterValidator(_whole_from_one_on)]


class Mimicking(BackboneModel):
    """A backbone compressed to low rank after its training, then fine-tuned."""

    class Config(BackboneConfig):
        """Hyper-parameters; a rank below 1 is the share of the outputs' variance that is kept."""

        embedding_rank: Rank = tunable(0.95, choices=(2, 4, 8, 0.8, 0.9, 0.95, 0.99))
        """Of the tables; at least their width: they stay whole."""
        linear_rank: Rank = tunable(0.95, choices=(16, 32, 64, 0.8, 0.9, 0.95, 0.99))
        """Of the linear layers; at least their width: they stay whole."""
        layers: Literal["mlp", "all"] = "mlp"
        """Linear layers of perceptrons but the first of each, or all that do not read the flattened embeddings."""
        activated: bool = True
        """Put a ReLU between the two layers that replace one."""
        finetune_epochs: Positive = 5
        """All are run; the best on validation is kept."""
        finetune_learning_rate: PositiveFloat = tunable(1e-4, low=1e-5, high=1e-2, log=True)

    def __init__(self, config: Config, fields: FieldSpace, backbone: CTRModel, wiring: Wiring) -> None:
        super().__init__(config, fields, backbone)
        self.wiring = wiring
        self.register_load_state_dict_pre_hook(_take_shape)

    @classmethod
    def create(cls, config: Any, data: CTRData) -> Mimicking:
        """Make the model and its backbone, and see on a few rows how the backbone's layers are wired."""
        rows = data.all_rows()
        backbone: Any = load_model(config.backbone).create(config.of_backbone(), data)
        # Where the rows are, so that a few can be passed through.
        backbone.to(rows.ids.device)
        sample = rows.take(torch.arange(min(TRACED_ROWS, len(rows)), device=rows.ids.device))
        return cls(config, data.fields, backbone, trace(backbone, sample, config.layers))

    def procedure(self, data: CTRData) -> Iterator[Stage]:
        """Train the backbone; compress it; fine-tune it."""
        config = self.config
        yield from self.backbone.procedure(data)
        yield Stage("compress", [Sweep("compress", lambda: self.compress(data))], patience=1)
        stage = next(iter(self.backbone.procedure(data)))
        steps = [
            replace(step, learning_rate=config.finetune_learning_rate) if isinstance(step, Phase) else step
            for step in stage.steps
        ]
        epochs = config.finetune_epochs
        yield replace(stage, name="finetune", steps=steps, epochs=epochs, patience=epochs)

    def compress(self, data: CTRData) -> None:
        """Replace tables and layers by low-rank ones that mimic them on the training rows."""
        config, modules = self.config, dict(self.backbone.named_modules())
        counts, outputs = self._observe(data)
        for name, moments in outputs.items():
            thin = mimic_linear(modules[name], moments, config.linear_rank, activated=config.activated)
            if thin is not None:
                _replace(self.backbone, modules[name], thin)
        for name, count in counts.items():
            embedding = mimic_embedding(modules[name], count, config.embedding_rank)
            if embedding is None:
                continue
            readers = [reader for reader, read in self.wiring.fused.items() if read == name]
            for reader in readers:
                _replace(self.backbone, modules[reader], fuse(modules[reader], embedding))
            alone = name in self.wiring.alone
            _replace(self.backbone, modules[name], embedding.codes if alone else embedding)
