"""SASRec: self-attention over a user's items in their order.

Source      Kang, McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, arXiv:1808.09781, section III; details
            from the authors' code. gbce as in Petrov, Macdonald, "gSASRec", RecSys 2023, arXiv:2308.07192; the full
            cross-entropy as in Klenitskiy, Vasilev, RecSys 2023, arXiv:2309.07602
Input       x_t = dropout(sqrt(D) E[i_t] + P[L - n + t]) of the last n <= L items
Block       q = LN(x); x = q + softmax(W_q q (W_k x)^T / sqrt(D / heads)) W_v x, each position attending to itself and
            those before it, weights dropped out; y = LN(x); x = y + FFN(y), FFN two layers of width D with a ReLU
            between, dropout after each
Score       <LN(x_n), E[i]>, one table E for input and output
Loss        -log sigmoid(s_t,pos) - log(1 - sigmoid(s_t,neg)), the mean over all positions t, one unseen item drawn for
            each; others by configuration: gbce with num_negatives, or softmax with the sampler all
Departures  an epoch has every user once, where the authors draw users with replacement; half the loss, being the mean
            over positives and negatives alike
"""

# Shapes: B sequences, P positions of all of them together, I items, L max_length, D embedding_dim, H heads.

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional

from recbench.errors import UsageError
from recbench.models.base import PerRow, Positive, Reference, Share, tunable
from recbench.models.layers.dropout import Dropout
from recbench.models.layers.losses import LossName
from recbench.models.layers.sequence import SequentialConfig, SequentialRecommender
from recbench.models.procedure import Phase, Stage
from recbench.tasks.interactions import TopNData
from recbench.tasks.sequential import Rectangle, Sequences

SEQUENCES_AT_ONCE = {"cpu": 16, "cuda": 1024}
"""Rows of a rectangle: on a CPU few of about the same length, so that little of it is padding."""

EPSILON = 1e-8
"""Of the normalisation, the authors'."""

BETAS = 0.9, 0.98


class SASRec(SequentialRecommender):
    """Self-attentive sequential recommendation (Kang & McAuley, ICDM 2018)."""

    class Config(SequentialConfig):
        """Hyper-parameters."""

        loss: LossName = "bce"
        embedding_dim: Positive = tunable(50, low=32, high=256, log=True)
        """D. Published: 50."""
        blocks: Positive = 2
        heads: Positive = 1
        dropout: Share = tunable(0.2, low=0.0, high=0.6)
        """Published: 0.2 on MovieLens-1M, 0.5 on sparser data."""
        max_length: PerRow = 200
        """L. Published: 200 on MovieLens-1M, 50 on sparser data."""
        batch_size: Positive = 128
        """Users in a batch."""
        epochs: Positive = 200
        patience: Positive = 20

        @model_validator(mode="after")
        def _heads_share_the_width(self) -> Self:
            if self.embedding_dim % self.heads:
                dim = self.embedding_dim
                raise UsageError(f"heads: expected a divisor of embedding_dim = {dim}, found {self.heads}")
            return self

    reference = Reference("gSASRec-pytorch's SASRec", "sequential/ml-1m-sasrec", "recall@10", 0.2392, 0.012)
    later: Tensor

    def __init__(self, config: Config, data: TopNData) -> None:
        super().__init__(config, data)
        dim = config.embedding_dim
        self.item = nn.Embedding(data.n_items, dim)
        self.position = nn.Embedding(config.max_length, dim)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(dim, config.heads, config.dropout) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(dim, eps=EPSILON)
        later = torch.full((config.max_length,) * 2, -torch.inf).triu(1)
        self.register_buffer("later", later, persistent=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.xavier_uniform_(parameter)

    def procedure(self, data: TopNData) -> Iterator[Stage]:
        """One phase, with the momenta of the authors."""
        config = self.config
        phase = Phase(
            "train",
            self.batches(data),
            self.loss,
            list(self.parameters()),
            config.learning_rate,
            config.weight_decay,
            betas=BETAS,
        )
        yield Stage("train", [phase], config.epochs, config.patience)

    def states(self, sequences: Sequences) -> Tensor:
        """Return the normalised last layer, shape (P, D)."""
        places = self.config.max_length - 1 - sequences.from_end()
        x = self.item(sequences.items) * self.config.embedding_dim**0.5 + self.position(places)
        x = self.dropout(x)
        rectangles = sequences.rectangles(SEQUENCES_AT_ONCE[x.device.type])
        for block in self.blocks:
            x = block(x, rectangles, self.later)
        x = self.norm(x)
        return x

    def item_vectors(self) -> Tensor:
        """Return the embeddings."""
        return self.item.weight


class Block(nn.Module):
    """Causal self-attention and a feed-forward layer, each added to its normalised input."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(dim, eps=EPSILON)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.weight_dropout = Dropout(dropout)
        self.forward_norm = nn.LayerNorm(dim, eps=EPSILON)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), Dropout(dropout), nn.Linear(dim, dim), Dropout(dropout)
        )
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, rectangles: list[Rectangle], later: Tensor) -> Tensor:
        """Return the next layer, (P, D), of ``x`` (P, D); ``later`` (L, L) is -inf where a position is yet to come."""
        query = self.attention_norm(x)
        projected = torch.cat([self.query(query), self.key(x), self.value(x)], dim=1)
        parts = projected.split([rectangle.size for rectangle in rectangles])
        attended = [
            rectangle.flat(self._attend(rectangle.pad(part), later))
            for rectangle, part in zip(rectangles, parts, strict=True)
        ]
        x = self.forward_norm(query + torch.cat(attended))
        x = x + self.feed_forward(x)
        return x

    def _attend(self, projected: Tensor, later: Tensor) -> Tensor:
        """Attend within rows: queries, keys and values (b, length, 3 D) -> (b, length, D)."""
        # (b, length, 3, H, D / H) -> three of (b, H, length, D / H)
        query, key, value = projected.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropped = self.weight_dropout.p if self.training else 0.0
        if dropped and projected.device.type == "cpu":
            # There torch draws the dropout with the slow generator, and attends without its fast kernel.
            length, dim = query.shape[2:]
            scores = torch.baddbmm(
                later[:length, :length], query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), alpha=dim**-0.5
            )
            output = torch.bmm(self.weight_dropout(scores.softmax(2)), value.flatten(0, 1)).view(query.shape)
        else:
            output = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropped, is_causal=True)
        return output.transpose(1, 2).flatten(2)
