"""INFNet: field, sequence and task tokens that exchange information through a few proxies of each kind.

Source      Li et al.: INFNet, a Task-aware Information Flow Network for Large-Scale Recommendation Systems.
            arXiv:2508.11565v1, section 3
Tokens      C: embeddings of the fields; S: embeddings of the values of all sequences; T: a learned vector for each task
Proxies     C~ = MLP([C_1; ...; C_M]), cut into ``num_proxies`` vectors; S~: for each sequence the sum of its projected
            values; T~: ``num_shared`` learned vectors
Attention   CA(Q, X) = softmax(Q W_Q (X W_K)^T / sqrt(key_dim)) X W_V, weights of its own for each call
Block       C~ <- CA(C~, S) + CA(C~, T),  S~ <- CA(S~, C) + CA(S~, T),  T~ <- CA(T~, C) + CA(T~, S),
            T <- CA(T, C) + CA(T, S), each with a residual; then X <- X * sigmoid(MLP(flatten X~)) for X = C, S, T
Logit       tower_t(T_t) after the last block
Loss        sum over tasks of weight_t times binary cross-entropy, + embedding_l2 / 2 * ||E||^2

Where the paper is silent or says two things:

residual    the text has residual connections, the equations none: on by default, ``residual=false`` takes them off
gates       are made of the proxies that the block has just made, as in the text; ``gate_with=previous``: of those that
            it was given, as in the equations
sequences   padding has no part in attention and sums; no positions; S~ are as many as sequences, or
            ``sequence_proxies`` made of these by one linear layer
MLPs        one hidden layer as wide as the output

Departures  a number is its value times a vector, where the paper makes it a category; multi-valued fields without order
            are one token each, the mean of their values. What no logit depends on is not computed: of the last block
            that is all but the task tokens, and of an attention over a single token its query and key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbench.models.base import Positive, Reference, tunable
from recbench.models.layers.attention import softmax
from recbench.models.layers.embedding import FieldEmbedding
from recbench.models.layers.mlp import MLP
from recbench.models.layers.multitask import MultiTaskModel, Towers
from recbench.tasks.ctr import CTRBatch, FieldSpace

# Shapes: B rows, D dims, N tokens of a kind, P proxies of a kind.
Kind = str
"""fields, sequences or tasks"""
GateWith = Literal["refreshed", "previous"]


class CrossAttention(nn.Module):
    """One head of attention over tokens. Shapes: queries (B, Q, D), tokens (B, N, D) -> (B, Q, D).

    One token alone is attended to whatever the query is: then there are no query and key weights.
    """

    def __init__(self, dim: int, key_dim: int, n_tokens: int) -> None:
        super().__init__()
        self.value = _projection(dim, dim)
        self.query, self.key = (_projection(dim, key_dim) if n_tokens > 1 else None for _ in range(2))

    def forward(self, queries: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Attend where ``mask`` (B, N) is true; zero for a row without any token."""
        if self.query is None or self.key is None:
            alone: Tensor = self.value(tokens)  # a masked token is zero
            return alone.expand_as(queries)
        # Queries and results are projected in place of keys and values: they are fewer.
        readers = self.query(queries) @ self.key.weight / self.key.out_features**0.5
        scores = readers @ tokens.transpose(1, 2)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)
        read = softmax(scores) @ tokens  # masked tokens are zero, so that a row without tokens reads zero
        output: Tensor = self.value(read)
        return output


def _projection(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.xavier_normal_(layer.weight)
    return layer


class Reading(nn.Module):
    """What queries read from all kinds of tokens but their own: a sum of attentions, and the queries if ``residual``.

    Shapes: queries (B, Q, D) -> (B, Q, D).
    """

    def __init__(self, kind: Kind, n_tokens: Mapping[Kind, int], dim: int, key_dim: int, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.attentions = nn.ModuleDict(
            {source: CrossAttention(dim, key_dim, count) for source, count in n_tokens.items() if source != kind}
        )

    def forward(self, queries: Tensor, tokens: Mapping[Kind, Tensor], mask: Tensor | None) -> Tensor:
        """Attend to the tokens of each kind; ``mask`` is of the sequences."""
        read = [queries] if self.residual else []
        for source, attention in self.attentions.items():
            read.append(attention(queries, tokens[source], mask if source == "sequences" else None))
        return torch.stack(read).sum(0)


class Block(nn.Module):
    """Proxies read the tokens of the other kinds, then tokens are gated by the proxies of their own kind.

    ``wanted`` are the kinds whose tokens and whose proxies are made, out of all tokens and of the proxies of both.
    ``n_tokens`` and ``n_proxies`` are numbers by kind.
    """

    def __init__(
        self,
        n_tokens: Mapping[Kind, int],
        n_proxies: Mapping[Kind, int],
        wanted: tuple[set[Kind], set[Kind]],
        dim: int,
        key_dim: int,
        *,
        residual: bool,
        gate_with: GateWith,
    ) -> None:
        super().__init__()
        tokens, proxies = wanted
        self.gate_with = gate_with
        refreshed = proxies | tokens if gate_with == "refreshed" else proxies
        self.refresh = nn.ModuleDict(
            {kind: Reading(kind, n_tokens, dim, key_dim, residual) for kind in n_tokens if kind in refreshed}
        )
        self.ask = Reading("tasks", n_tokens, dim, key_dim, residual)
        self.gates = nn.ModuleDict(
            {kind: MLP(n_proxies[kind] * dim, [dim], dim) for kind in n_tokens if kind in tokens}
        )

    def forward(
        self, tokens: dict[Kind, Tensor], proxies: dict[Kind, Tensor], mask: Tensor | None
    ) -> tuple[dict[Kind, Tensor], dict[Kind, Tensor]]:
        """Return the gated tokens (B, N, D) and the refreshed proxies (B, P, D) of each kind that is made."""
        refreshed = {kind: read(proxies[kind], tokens, mask) for kind, read in self.refresh.items()}
        asked = tokens | {"tasks": self.ask(tokens["tasks"], tokens, mask)}
        gating = refreshed if self.gate_with == "refreshed" else proxies
        gated = {
            kind: asked[kind] * gate(gating[kind].flatten(1)).sigmoid()[:, None] for kind, gate in self.gates.items()
        }
        return gated, refreshed


class SequenceProxies(nn.Module):
    """A vector for each sequence: the sum of its projected values; or ``n_proxies`` that one layer makes of them.

    Shapes: tokens of all sequences (B, N, D), zero where padded -> (B, P, D).
    """

    def __init__(self, lengths: Sequence[int], dim: int, n_proxies: int | None) -> None:
        super().__init__()
        self.lengths = list(lengths)
        self.projection = _projection(dim, dim)
        self.mix = None if n_proxies is None else _projection(len(lengths) * dim, n_proxies * dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool the tokens."""
        pooled = torch.stack([part.sum(1) for part in tokens.split(self.lengths, 1)], 1)
        proxies: Tensor = self.projection(pooled)  # of the sum: the sum of the projected values
        return proxies if self.mix is None else self.mix(proxies.flatten(1)).unflatten(1, (-1, proxies.shape[2]))


class INFNet(MultiTaskModel):
    """Task-aware information flow: proxies attend across fields, sequences and tasks, and gate their own tokens."""

    class Config(MultiTaskModel.Config):
        """Hyper-parameters."""

        embedding_dim: Positive = tunable(16, choices=(8, 16, 32, 64, 96, 128))
        num_blocks: Positive = tunable(2, choices=(1, 2, 3))
        num_proxies: Positive = tunable(4, choices=(2, 4, 8))
        """Of the fields."""
        sequence_proxies: Positive | None = None
        """None: one for each sequence."""
        num_shared: Positive = tunable(2, choices=(1, 2, 3))
        """Learned vectors that are the proxies of the tasks."""
        key_dim: Positive | None = None
        """Of queries and keys; None: embedding_dim."""
        residual: bool = True
        """Add proxies and task tokens to what they read."""
        gate_with: GateWith = "refreshed"
        """The proxies that gate a block's tokens: those it makes, or those it was given."""

    reference = Reference("Li et al. 2025, table 1, click", "ctr/kuairand-pure", "auc", 0.7736, 0.004)

    def __init__(self, config: Config, fields: FieldSpace, labels: Sequence[str] = ("label",)) -> None:
        super().__init__(config, fields, labels)
        dim = config.embedding_dim
        self.sequences = fields.sequences
        self.token_fields = FieldSpace(field for field in fields if field.sequence is None)
        self.embedding = FieldEmbedding(fields, dim)
        lengths = [field.sequence or 0 for field in self.sequences]
        n_tokens: dict[Kind, int] = {"fields": len(self.token_fields)}
        n_proxies: dict[Kind, int] = {"fields": config.num_proxies}
        if self.sequences:
            n_tokens["sequences"] = sum(lengths)
            n_proxies["sequences"] = config.sequence_proxies or len(lengths)
        n_tokens["tasks"], n_proxies["tasks"] = len(self.labels), config.num_shared

        # From the last block, of which only the task tokens count, back to the first.
        blocks: list[Block] = []
        tokens: set[Kind] = {"tasks"}
        proxies: set[Kind] = set()
        for _ in range(config.num_blocks):
            block = Block(
                n_tokens,
                n_proxies,
                (tokens, proxies),
                dim,
                config.key_dim or dim,
                residual=config.residual,
                gate_with=config.gate_with,
            )
            blocks.insert(0, block)
            tokens, proxies = set(n_tokens), tokens | proxies
        self.blocks = nn.ModuleList(blocks)

        self.field_proxies = self.sequence_proxies = None
        if "fields" in proxies:
            width = config.num_proxies * dim
            self.field_proxies = MLP(len(self.token_fields) * dim, [width], width)
        if "sequences" in proxies:
            self.sequence_proxies = SequenceProxies(lengths, dim, config.sequence_proxies)
        self.task_vectors, self.shared_vectors = (
            nn.Parameter(nn.init.xavier_normal_(torch.empty(count, dim)))
            for count in (len(self.labels), config.num_shared)
        )
        self.towers = Towers(len(self.labels), dim, config.tower, config.dropout)

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B, T), or (B,) for one label."""
        tokens, proxies, mask = self.tokens(batch)
        for block in self.blocks:
            tokens, proxies = block(tokens, proxies, mask)
        logits: Tensor = self.towers(tokens["tasks"])
        return logits

    def tokens(self, batch: CTRBatch) -> tuple[dict[Kind, Tensor], dict[Kind, Tensor], Tensor | None]:
        """Return the first block's tokens and the proxies it reads, and where sequences are not padded."""
        fields = self.embedding(batch, self.token_fields)
        tokens: dict[Kind, Tensor] = {"fields": fields, "tasks": self.task_vectors.expand(len(batch), -1, -1)}
        proxies: dict[Kind, Tensor] = {"tasks": self.shared_vectors.expand(len(batch), -1, -1)}
        mask = None
        if self.sequences:
            padded = [batch.multi[field.name].padded(field.sequence or 0) for field in self.sequences]
            mask = torch.cat([part for _, part in padded], 1)
            ids = torch.cat([part for part, _ in padded], 1)
            vectors = functional.embedding(ids, self.embedding.weight, sparse=self.embedding.sparse)
            tokens["sequences"] = vectors * mask[:, :, None]
        if self.field_proxies is not None:
            proxies["fields"] = self.field_proxies(fields.flatten(1)).unflatten(1, (-1, fields.shape[2]))
        if self.sequence_proxies is not None:
            proxies["sequences"] = self.sequence_proxies(tokens["sequences"])
        return tokens, proxies, mask
