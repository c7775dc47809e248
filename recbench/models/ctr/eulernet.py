"""EulerNet: products of fields of learned orders, as sums of logarithms and phases of complex numbers.

Source      Tian, Bai, Zhao, Wen, Cao: EulerNet. SIGIR 2023, arXiv:2304.10711, and the authors' code
Layers      at first r_j = mu_j cos e_j, p_j = mu_j sin e_j, the real and the imaginary part of field j, each of D dims;
            explicit: l = ln(r^2 + p^2) / 2, t = atan2(p, r), l'_k = sum_j a_jk l_j + b_k, t'_k = sum_j a_jk t_j + c_k,
            implicit: ReLU(W r + v) and ReLU(W p + v) of all fields;
            r' = e^l' cos t' + ReLU(W r + v), p' = e^l' sin t' + ReLU(W p + v), then layer normalisation over the D dims
Logit       w^T r + w^T p + 2 b after the last layer
Loss        binary cross-entropy + embedding_l2 / 2 * ||E||^2 + net_l2 / 2 * (sum of squares of all other parameters)
Departures  as in the authors' code, mu_j is one number for all dims, e_j the embedding itself, 1e-8 is added to
            r^2 + p^2, and layer normalisation is optional
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recbench.models.base import NonNegativeFloat, Positive, Reference, Share, tunable
from recbench.models.layers.dropout import Dropout
from recbench.models.layers.embedding import EmbeddingModel, FieldEmbedding
from recbench.tasks.ctr import CTRBatch, FieldSpace

SMALLEST_SQUARE = 1e-8


class EulerNet(EmbeddingModel):
    """Interactions of learned orders in the complex plane."""

    class Config(EmbeddingModel.Config):
        """Hyper-parameters."""

        embedding_l2: NonNegativeFloat = tunable(1e-2, low=1e-7, high=1e-1, log=True)
        net_l2: NonNegativeFloat = tunable(1e-5, low=1e-7, high=1e-3, log=True)
        """Adds net_l2 / 2 times the sum of squares of all parameters but the tables to the loss."""
        embedding_dim: Positive = tunable(10, choices=(4, 8, 10, 16, 32))
        shape: Annotated[tuple[Positive, ...], Field(min_length=1)] = (32,)
        """Complex features of each layer; the most important choice, and small ones lose accuracy."""
        explicit_dropout: Share = tunable(0.0, low=0.0, high=0.6)
        """Of log moduli and phases."""
        implicit_dropout: Share = tunable(0.0, low=0.0, high=0.6)
        """Of the inputs of the linear layer."""
        layer_norm: bool = True

    reference = Reference("Tian et al., run EulerNet_frappe in FuxiCTR", "ctr/frappe", "auc", 0.9848, 0.004)

    def __init__(self, config: Config, fields: FieldSpace) -> None:
        super().__init__(config, fields)
        self.embedding = FieldEmbedding(fields, config.embedding_dim)
        self.modulus = nn.Parameter(torch.ones(len(fields), 1))
        self.layers = nn.Sequential(
            *(
                EulerLayer(
                    before,
                    after,
                    config.embedding_dim,
                    explicit_dropout=config.explicit_dropout,
                    implicit_dropout=config.implicit_dropout,
                    layer_norm=config.layer_norm,
                )
                for before, after in pairwise([len(fields), *config.shape])
            )
        )
        self.output = nn.Linear(config.shape[-1] * config.embedding_dim, 1)
        nn.init.xavier_normal_(self.output.weight)

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        phases = self.embedding(batch)  # (B, F, D)
        parts = self.modulus * torch.stack([phases.cos(), phases.sin()])
        logits: Tensor = self.output(self.layers(parts).flatten(2)).sum((0, 2))
        return logits

    def penalty(self) -> Tensor:
        """Half of embedding_l2 times the sum of squares of all tables, and of net_l2 times that of all else."""
        # A procedure may put gates on the tables: these are its own, and no part of the network.
        tables = {id(parameter) for module in self.embeddings() for parameter in module.parameters()}
        others = [parameter.square().sum() for parameter in self.parameters() if id(parameter) not in tables]
        penalty: Tensor = super().penalty() + self.config.net_l2 / 2 * torch.stack(others).sum()
        return penalty


class EulerLayer(nn.Module):
    """Complex powers of the inputs with learned exponents, plus a ReLU layer of the real and of the imaginary parts.

    Shapes: (2, B, inputs, dim) -> (2, B, outputs, dim), the real parts first.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        dim: int,
        *,
        explicit_dropout: float,
        implicit_dropout: float,
        layer_norm: bool,
    ) -> None:
        super().__init__()
        # An output starts as one of the inputs: its own, or a random one.
        orders = torch.eye(inputs) if inputs == outputs else (torch.randn(inputs, outputs) / 0.01).softmax(0)
        self.orders = nn.Parameter(orders)
        self.bias = nn.Parameter(0.01 * torch.randn(2, 1, dim, outputs))
        self.linear = nn.Linear(inputs * dim, outputs * dim)
        nn.init.xavier_uniform_(self.linear.weight)
        self.explicit_dropout = Dropout(explicit_dropout)
        self.implicit_dropout = Dropout(implicit_dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2 * layer_norm))

    def forward(self, parts: Tensor) -> Tensor:
        """Interact."""
        real, imaginary = parts.unbind(0)
        log_modulus = (real.square() + imaginary.square() + SMALLEST_SQUARE).log() / 2
        polar = self.explicit_dropout(torch.stack([log_modulus, torch.atan2(imaginary, real)]))
        log_modulus, phase = (polar.transpose(2, 3) @ self.orders + self.bias).transpose(2, 3).unbind(0)
        modulus = log_modulus.exp()
        implicit = functional.relu(self.linear(self.implicit_dropout(parts.flatten(2))))
        explicit = torch.stack([modulus * phase.cos(), modulus * phase.sin()])
        mixed = explicit + implicit.view_as(explicit)
        if not self.norms:
            return mixed
        return torch.stack([norm(part) for norm, part in zip(self.norms, mixed, strict=True)])
