"""FinalMLP: two perceptrons over gated embeddings, fused by a bilinear form of many heads.

Source      Mao, Zhu, Su, Cai, Li, Dong: FinalMLP. AAAI 2023, arXiv:2304.00902
Layers      g_s = 2 sigmoid(MLP(context_s)), x_s = MLP_s(g_s * [e_1; ...; e_F]), for the streams s = 1, 2
Logit       w_1^T x_1 + w_2^T x_2 + b + sum over heads h of x_1h^T W_h x_2h; a stream is cut into equal heads
Loss        binary cross-entropy + embedding_l2 / 2 * ||E||^2, over the tables of the contexts too
Departures  the learned vector that stands for an empty context starts like an embedding, not at zero as in FuxiCTR,
            where ReLUs of zero never let it learn; w_1 and w_2 have one bias in FuxiCTR each, and so here
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from recbench.errors import UsageError, unknown
from recbench.models.base import NonNegativeFloat, Positive, Reference, Share, tunable
from recbench.models.layers.embedding import EmbeddingModel, FieldEmbedding
from recbench.models.layers.mlp import MLP, linear
from recbench.models.layers.subspace import Subspace
from recbench.tasks.ctr import CTRBatch, FieldSpace


class FinalMLP(EmbeddingModel):
    """Two gated perceptrons and the bilinear interactions of their outputs."""

    class Config(EmbeddingModel.Config):
        """Hyper-parameters."""

        embedding_l2: NonNegativeFloat = tunable(1e-2, low=1e-7, high=1e-1, log=True)
        embedding_dim: Positive = tunable(10, choices=(4, 8, 10, 16, 32))
        hidden1: tuple[Positive, ...] = (64, 64)
        """Widths of the first perceptron."""
        hidden2: tuple[Positive, ...] = (64, 64)
        """Widths of the second perceptron."""
        dropout1: Share = tunable(0.2, low=0.0, high=0.6)
        dropout2: Share = tunable(0.2, low=0.0, high=0.6)
        batch_norm: bool = False
        """In both perceptrons."""
        num_heads: Positive = tunable(4, choices=(1, 2, 4, 8))
        """Divides the last width of both perceptrons."""
        gates: bool = True
        """The paper's stream-specific feature selection."""
        gate_hidden: tuple[Positive, ...] = (64,)
        fs1_context: tuple[str, ...] = ()
        """Fields that the first gate depends on, from embeddings of its own; none: a learned vector."""
        fs2_context: tuple[str, ...] = ()

        @model_validator(mode="after")
        def _heads_divide_the_streams(self) -> Self:
            for key, widths in (("hidden1", self.hidden1), ("hidden2", self.hidden2)):
                if not widths or widths[-1] % self.num_heads:
                    raise UsageError(
                        f"{key}: expected a last width that num_heads = {self.num_heads} divides, found {list(widths)}"
                    )
            return self

    reference = Reference("BARS, FinalMLP_frappe_x1", "ctr/frappe", "auc", 0.9861, 0.004)

    def __init__(self, config: Config, fields: FieldSpace) -> None:
        super().__init__(config, fields)
        self.embedding = FieldEmbedding(fields, config.embedding_dim)
        inputs = len(fields) * config.embedding_dim
        norm = config.batch_norm
        self.mlp1 = MLP(inputs, config.hidden1, None, dropout=config.dropout1, batch_norm=norm)
        self.mlp2 = MLP(inputs, config.hidden2, None, dropout=config.dropout2, batch_norm=norm)
        self.gates = nn.ModuleList()
        if config.gates:
            for key in ("fs1_context", "fs2_context"):
                context = Context(fields, getattr(config, key), config.embedding_dim, key)
                self.gates.append(nn.Sequential(context, MLP(context.width, config.gate_hidden, inputs)))
        self.output1 = linear(config.hidden1[-1], 1)
        self.output2 = linear(config.hidden2[-1], 1)
        heads = config.num_heads
        self.bilinear = nn.Parameter(torch.empty(heads, config.hidden1[-1] // heads, config.hidden2[-1] // heads))
        # Xavier's rule for one layer from all products to the logit, as in FuxiCTR.
        nn.init.normal_(self.bilinear, std=(2 / (1 + self.bilinear.numel())) ** 0.5)

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        flat = self.embedding(batch).flatten(1)
        gated = [flat * (2 * gate(batch).sigmoid()) for gate in self.gates] or [flat, flat]
        x1, x2 = self.mlp1(gated[0]), self.mlp2(gated[1])
        heads = len(self.bilinear)
        projected = torch.einsum("bhi,hij->bhj", x1.unflatten(1, (heads, -1)), self.bilinear).flatten(1)
        logits: Tensor = (self.output1(x1) + self.output2(x2)).squeeze(1) + (projected * x2).sum(1)
        return logits


class Context(nn.Module):
    """What a gate depends on: embeddings of the named fields in a table of their own, or one learned vector.

    Shapes: a batch of B rows -> (B, width), fields in the order of ``fields``, or (1, width) where none is named.

    Raises:
        UsageError: ``names``, which the configuration has as ``key``, are not all fields.
    """

    def __init__(self, fields: FieldSpace, names: Sequence[str], dim: int, key: str) -> None:
        super().__init__()
        known = {field.name for field in fields}
        for name in names:
            if name not in known:
                raise unknown("field", name, known, f"in {key}")
        self.fields = fields
        self.subspace = Subspace(fields, names)
        self.width = dim * max(1, len(self.subspace.fields))
        if names:
            self.embedding = FieldEmbedding(self.subspace.fields, dim)
        else:
            self.vector = nn.Parameter(torch.empty(1, dim).normal_(std=1e-4))

    def forward(self, batch: CTRBatch) -> Tensor:
        """Look the context up."""
        if not self.subspace.fields:
            return self.vector
        flat: Tensor = self.embedding(self.subspace.batch(batch, self.fields)).flatten(1)
        return flat
