"""RankMixer: tokens that exchange their parts without parameters, and a perceptron of its own for each of them.

Source      Zhu et al.: RankMixer: Scaling Up Ranking Models in Industrial Recommenders. arXiv:2507.15551
Layers      tokens x_t = P_t [embeddings of group t] + q_t, of T groups of consecutive fields;
            S = LN(Mix(X) + X), X <- LN(FFN_t(S_t) + S), with Mix: cut each token into T heads and put heads of the
            same number together; FFN_t two layers with a GELU between, different for each token
Logit       w^T (mean over the tokens) + b
Loss        binary cross-entropy + embedding_l2 / 2 * ||E||^2
Departures  groups are equal parts of the list of fields, as the paper's semantic groups need knowledge of a data set;
            no sparse mixture of experts
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional

from recbench.errors import UsageError
from recbench.models.base import NonNegativeFloat, Positive, Reference, tunable
from recbench.models.layers.embedding import EmbeddingModel, FieldEmbedding
from recbench.models.layers.mlp import linear
from recbench.tasks.ctr import CTRBatch, FieldSpace


class RankMixer(EmbeddingModel):
    """Token mixing without parameters and perceptrons of each token."""

    class Config(EmbeddingModel.Config):
        """Hyper-parameters."""

        embedding_l2: NonNegativeFloat = tunable(1e-2, low=1e-7, high=1e-1, log=True)
        embedding_dim: Positive = tunable(10, choices=(4, 8, 10, 16, 32))
        num_tokens: Positive = 4
        """T, at most as many as fields, and a divisor of token_dim."""
        token_dim: Positive = tunable(32, choices=(16, 32, 64, 128))
        num_layers: Positive = tunable(2, choices=(1, 2, 3, 4))
        expansion: Positive = 4
        """Hidden width of a token's perceptron over token_dim."""

        @model_validator(mode="after")
        def _tokens_have_whole_heads(self) -> Self:
            if self.token_dim % self.num_tokens:
                raise UsageError(
                    f"token_dim: expected a multiple of num_tokens = {self.num_tokens}, found {self.token_dim}"
                )
            return self

    # From a variant without the residual connection around the perceptrons.
    reference = Reference("MLCC's code, RankMixer on Criteo", "ctr/criteo-mlcc", "auc", 0.8008, 0.004)

    def __init__(self, config: Config, fields: FieldSpace) -> None:
        super().__init__(config, fields)
        if config.num_tokens > len(fields):
            raise UsageError(
                f"num_tokens: expected at most the number of fields, {len(fields)}, found {config.num_tokens}"
            )
        self.embedding = FieldEmbedding(fields, config.embedding_dim)
        groups = torch.arange(len(fields)).tensor_split(config.num_tokens)
        self.widths = [len(group) * config.embedding_dim for group in groups]
        self.projections = nn.ModuleList(linear(width, config.token_dim) for width in self.widths)
        self.layers = nn.Sequential(
            *(MixerLayer(config.num_tokens, config.token_dim, config.expansion) for _ in range(config.num_layers))
        )
        self.output = linear(config.token_dim, 1)

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        parts = self.embedding(batch).flatten(1).split(self.widths, 1)
        tokens = torch.stack([project(part) for project, part in zip(self.projections, parts, strict=True)], 1)
        logits: Tensor = self.output(self.layers(tokens).mean(1)).squeeze(1)
        return logits


class MixerLayer(nn.Module):
    """Mixing and the tokens' perceptrons, each with a residual connection and layer normalisation behind it.

    Shapes: (B, T, D) -> (B, T, D).
    """

    def __init__(self, n_tokens: int, dim: int, expansion: int) -> None:
        super().__init__()
        inner = expansion * dim
        std = (2 / (dim + inner)) ** 0.5  # Xavier's for each token's matrices
        self.up = nn.Parameter(torch.empty(n_tokens, dim, inner).normal_(std=std))
        self.up_bias = nn.Parameter(torch.zeros(n_tokens, 1, inner))
        self.down = nn.Parameter(torch.empty(n_tokens, inner, dim).normal_(std=std))
        self.down_bias = nn.Parameter(torch.zeros(n_tokens, 1, dim))
        self.mixed_norm = nn.LayerNorm(dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix and map."""
        mixed = self.mixed_norm(mix(tokens) + tokens)
        by_token = mixed.transpose(0, 1)
        hidden = functional.gelu(torch.baddbmm(self.up_bias, by_token, self.up))
        mapped = torch.baddbmm(self.down_bias, hidden, self.down).transpose(0, 1)
        output: Tensor = self.norm(mapped + mixed)
        return output


def mix(tokens: Tensor) -> Tensor:
    """Cut each of T tokens into T heads, and make a token of all heads of the same number: (B, T, D) -> (B, T, D)."""
    n_tokens = tokens.shape[1]
    return tokens.unflatten(2, (n_tokens, -1)).transpose(1, 2).flatten(2)
