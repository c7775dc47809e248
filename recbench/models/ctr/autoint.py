"""AutoInt: feature interactions learned by multi-head self-attention over fields.

Source      Song, Shi, Xiao, Duan, Xu, Zhang, Tang: AutoInt. CIKM 2019, arXiv:1810.11921, equations 5-9.
Layers      e_m <- ReLU(concat over heads of sum_k a_mk V e_k + R e_m), a_m = softmax over k of <Q e_m, K e_k>
Logit       w^T [e_1; ...; e_F] + b after the last layer; with ``hidden`` (AutoInt+) plus an MLP of the embeddings
Loss        binary cross-entropy + embedding_l2 / 2 * ||E||^2

Three published forms differ in four switches; the defaults are the paper's.

              projections           psi / sqrt(head_dim)  layer norm           residual
paper         no bias, linear       no                    none                 learned in every layer
authors' code ``activated``         ``scaled``            after the ReLU       learned in every layer
FuxiCTR       no bias, linear       either                none or before ReLU  ``identity_residual``

Departures  none by default; ``wide`` adds first-order weights, as both codes can
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from recbench.models.base import NonNegative, NonNegativeFloat, Positive, PositiveFloat, Reference, Share, tunable
from recbench.models.explanation import Explanation, Matrix
from recbench.models.layers.dropout import Dropout
from recbench.models.layers.embedding import EmbeddingModel, FieldEmbedding
from recbench.models.layers.interaction import InteractingLayer
from recbench.models.layers.mlp import MLP, linear
from recbench.models.layers.sample import sample_rows
from recbench.tasks.ctr import CTRBatch, CTRData, FieldSpace


class AutoInt(EmbeddingModel):
    """Self-attention over field embeddings."""

    class Config(EmbeddingModel.Config):
        """Hyper-parameters."""

        learning_rate: PositiveFloat = tunable(2e-3, low=1e-4, high=1e-2, log=True)
        embedding_l2: NonNegativeFloat = tunable(3e-3, low=1e-7, high=1e-1, log=True)
        embedding_dim: Positive = tunable(16, choices=(8, 16, 24))
        num_layers: NonNegative = tunable(1, choices=(1, 2))
        num_heads: Positive = 2
        head_dim: Positive = tunable(16, choices=(8, 16))
        """The paper's d'; a layer gives num_heads * head_dim values a field."""
        hidden: tuple[Positive, ...] = ()
        """Widths of the perceptron of AutoInt+; none: AutoInt."""
        dropout: Share = 0.0
        """Of the hidden units of the perceptron."""
        attention_dropout: Share = 0.0
        embedding_dropout: Share = 0.0
        activated: bool = False
        """Bias and ReLU on the projections, as in the authors' code."""
        scaled: bool = False
        """Divide attention scores by sqrt(head_dim), as in the authors' code."""
        layer_norm: Literal["before", "after"] | None = None
        """Before the ReLU as in FuxiCTR, or after it as in the authors' code."""
        identity_residual: bool = False
        """No residual matrix where the widths are equal, as in FuxiCTR."""
        wide: bool = False
        """Add first-order weights."""

    reference = Reference("Song et al. 2019, table 2", "ctr/ml-1m", "auc", 0.8456, 0.003)

    def __init__(self, config: Config, fields: FieldSpace) -> None:
        super().__init__(config, fields)
        self.embedding = FieldEmbedding(fields, config.embedding_dim)
        self.linear = FieldEmbedding(fields, 1) if config.wide else None
        self.dropout = Dropout(config.embedding_dropout)
        width = config.num_heads * config.head_dim
        self.layers = nn.Sequential(
            *(
                InteractingLayer(
                    config.embedding_dim if number == 0 else width,
                    config.head_dim,
                    config.num_heads,
                    dropout=config.attention_dropout,
                    activated=config.activated,
                    scaled=config.scaled,
                    layer_norm=config.layer_norm,
                    identity_residual=config.identity_residual,
                )
                for number in range(config.num_layers)
            )
        )
        self.output = linear(len(fields) * (width if config.num_layers else config.embedding_dim), 1)
        inputs = len(fields) * config.embedding_dim
        self.mlp = self._perceptron(inputs) if config.hidden else None

    def _perceptron(self, inputs: int) -> MLP:
        return MLP(inputs, self.config.hidden, 1, dropout=self.config.dropout)

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        embeddings = self.dropout(self.embedding(batch))  # (B, F, D)
        logits: Tensor = self.output(self.layers(embeddings).flatten(1))
        if self.mlp is not None:
            logits = logits + self.mlp(embeddings.flatten(1))
        if self.linear is not None:
            logits = logits + self.linear(batch).sum(1)
        return logits.squeeze(1)

    @torch.no_grad()
    def explain(self, data: CTRData) -> Explanation:
        """Say how much each field (row) attends to each (column) in every layer: the mean over rows and heads."""
        sums = [torch.zeros(()) for _ in self.layers]
        n_rows = 0
        for batch in sample_rows(data):
            embeddings = self.embedding(batch)
            n_rows += len(batch)
            for number, layer in enumerate(self.layers):
                attention = cast(InteractingLayer, layer).attention(embeddings)
                sums[number] = sums[number].to(embeddings) + attention.mean(1).sum(0)
                embeddings = layer(embeddings)
        names = [field.name for field in self.fields]
        return Explanation(
            parts=[
                Matrix(f"Attention in layer {number}", names, names, (total / n_rows).tolist())
                for number, total in enumerate(sums, 1)
            ]
        )
