"""ARM-Net: cross features of any order, with fields chosen for each row by sparse attention.

Source      Cai, Zheng, Chen, Jagadish, Ooi, Zhang: ARM-Net. SIGMOD 2021, arXiv:2107.01830, equations 3-8. The
            paper's AUC is a mean of AUCs of batches (its released code), here it is one of all rows
Neurons     y_i = exp(sum_j w_ij e_j) = product over fields of exp(e_j)^w_ij, elementwise;  w_i = z_i * v_i,
            z_i = alpha-entmax over fields j of q_i^T W e_j / sqrt(D), with a W for each head of neurons
Logit       MLP([y_1; ...; y_N]) of the batch-normalised neurons; the MLP is batch-normalised too
Loss        binary cross-entropy + embedding_l2 / 2 * ||E||^2
Departures  the norm of the gradient is bounded (code: each element, to [-1, 1]); a dense field is not clamped to
            [0.001, 1]; the MLP's weights are Xavier normal (code: torch's default); embedding_l2 = 0 is the paper's.
            As in the released code and not in the paper scores are divided by sqrt(D) and neurons batch-normalised
"""

# Shapes: B rows, F fields, D embedding_dim, K heads, O neurons of a head, N = K O neurons.

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recbench.models.base import Positive, Reference, Share, tunable
from recbench.models.explanation import Explanation, Matrix, Table
from recbench.models.layers.embedding import EmbeddingModel, FieldEmbedding
from recbench.models.layers.entmax import entmax
from recbench.models.layers.mlp import MLP
from recbench.models.layers.sample import sample_rows
from recbench.tasks.ctr import CTRBatch, CTRData, FieldSpace

GAIN = 1.414
NEURONS_SHOWN = 32


class ExponentialNeurons(nn.Module):
    """Products of powers of the fields' exponentials, the powers being gated by sparse attention (equations 3-6).

    Shapes: (B, F, D) -> (B, D, N).
    """

    def __init__(self, n_fields: int, dim: int, num_heads: int, num_neurons: int, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.bilinear = nn.Parameter(torch.empty(num_heads, dim, dim))
        self.query = nn.Parameter(torch.empty(num_heads, num_neurons, dim))
        self.value = nn.Parameter(torch.empty(num_heads, num_neurons, n_fields))
        for parameter in self.parameters():
            nn.init.xavier_uniform_(parameter, gain=GAIN)

    def gates(self, embeddings: Tensor) -> Tensor:
        """Return z, shape (B, F, N): of each neuron a distribution over fields."""
        # q^T W e = (W^T q)^T e: one vector a neuron, and one matrix product for all heads.
        queries = (self.query @ self.bilinear).flatten(0, 1) * embeddings.shape[-1] ** -0.5
        return entmax(functional.linear(embeddings, queries), self.alpha, dim=1)

    def values(self) -> Tensor:
        """Return v, shape (F, N)."""
        return self.value.flatten(0, 1).T.contiguous()

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return y."""
        weights = self.gates(embeddings) * self.values()
        return (embeddings.transpose(1, 2) @ weights).exp()


class ARMNet(EmbeddingModel):
    """Adaptive relation modelling: exponential neurons with sparse attention over fields, and a perceptron."""

    class Config(EmbeddingModel.Config):
        """Hyper-parameters; the defaults of the layers are the paper's for Frappe."""

        max_norm: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = 10.0
        embedding_dim: Positive = tunable(10, choices=(8, 10, 16))
        num_heads: Positive = tunable(8, choices=(1, 4, 8))
        """Each has a bilinear form of its own."""
        num_neurons: Positive = tunable(32, choices=(4, 8, 16, 32))
        """Exponential neurons of a head."""
        alpha: Annotated[float, Field(ge=1, allow_inf_nan=False)] = tunable(2.0, choices=(1.5, 2.0))
        """Sparsity of the attention: 1 is softmax, 2 sparsemax; 1.5 and 2 are the fast ones of the others."""
        hidden: tuple[Positive, ...] = (300, 300)
        dropout: Share = tunable(0.0, low=0.0, high=0.6)
        """Of the hidden units of the MLP."""

    reference = Reference("Cai et al. 2021, table 2 (a mean of AUCs of batches)", "ctr/frappe", "auc", 0.9786, 0.005)

    def __init__(self, config: Config, fields: FieldSpace) -> None:
        super().__init__(config, fields)
        self.embedding = self._table()
        self.neurons = ExponentialNeurons(
            len(fields), config.embedding_dim, config.num_heads, config.num_neurons, config.alpha
        )
        n_neurons = config.num_heads * config.num_neurons
        self.norm = nn.BatchNorm1d(n_neurons)
        self.mlp = self._perceptron(n_neurons * config.embedding_dim)

    def _table(self) -> FieldEmbedding:
        embedding = FieldEmbedding(self.fields, self.config.embedding_dim)
        nn.init.xavier_uniform_(embedding.weight)
        return embedding

    def _perceptron(self, inputs: int) -> MLP:
        return MLP(inputs, self.config.hidden, 1, dropout=self.config.dropout, batch_norm=True)

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,)."""
        neurons: Tensor = self.neurons(self.embedding(batch))  # (B, D, N)
        # A neuron is normalised over rows and dimensions together: B D rows of N.
        normal: Tensor = self.norm(neurons.flatten(0, 1)).view(len(batch), -1)
        logits: Tensor = self.mlp(normal).squeeze(1)
        return logits

    @torch.no_grad()
    def explain(self, data: CTRData) -> Explanation:
        """Say which fields the strongest neurons attend to: their mean weight is a quarter of the greatest or more."""
        weights, support, n_rows = torch.zeros(()), torch.zeros(()), 0
        for batch in sample_rows(data):
            gates = self.neurons.gates(self.embedding(batch))  # (B, F, N)
            weights = weights.to(gates) + gates.sum(0)
            support = support.to(gates) + (gates > 0).sum((0, 1))
            n_rows += len(batch)
        weights = (weights / n_rows * self.neurons.values().abs()).T  # (N, F)
        support = support / n_rows
        strongest = weights.sum(1).topk(min(NEURONS_SHOWN, len(weights))).indices
        weights = weights[strongest]
        fields = [field.name for field in self.fields]
        neurons = [self._neuron_name(number) for number in strongest.tolist()]
        attended = [
            " ".join(name for name, chosen in zip(fields, row, strict=True) if chosen)
            for row in (weights >= weights.amax(1, keepdim=True) / 4).tolist()
        ]
        return Explanation(
            figures={"fields in the support of a gate, mean": float(support.mean())},
            parts=[
                Matrix("Mean weight of fields, without sign", neurons, fields, weights.tolist()),
                Table(
                    "Attended fields",
                    {"neuron": neurons, "fields": attended, "mean support": support[strongest].tolist()},
                ),
            ],
        )

    def _neuron_name(self, number: int) -> str:
        head, neuron = divmod(number, self.config.num_neurons)
        return f"head {head + 1} neuron {neuron + 1}"
