"""DNIS: how many and which dimensions the embeddings of frequent and of rare features need, searched and then pruned.

Source      Cheng, Shen, Huang: Differentiable Neural Input Search for Recommender Systems. arXiv:2006.04466; journal
            form: AutoSrh, Kong, Cheng, Shen, Huang, TKDE 2023. Details are those of the authors' code,
            SJTU-DMTai/AutoSrh.
Selection   the rows of a table, sorted by how often they occur in training, are cut into L blocks; a row e of block l
            enters the backbone as alpha_l * e (elementwise), with alpha (L, K) in [0, 1] and all 1 at first
Warm-up     alpha = 1, the backbone is trained as it is by itself
Search      in turn: a batch of training rows, for a step in the tables only, by the backbone's optimiser; a batch of
            rows held out of training, for a step in alpha only, by plain gradient descent: the gradient of
            loss + l1 * ||alpha||_1 is divided by its mean size in each block, and alpha is brought back to [0, 1]
Pruning     all entries of alpha_l * e but a share ``keep`` of all of them, the largest in size, are zero from then on
Retraining  everything but alpha, on all training rows, from the weights that the search ended with
Departures  the rows that alpha learns from are held out of the training part, never the validation part; what is
            compared in pruning is the selected embedding, as the paper words it, where the code compares the table; the
            search takes all its epochs and keeps the last weights, without a plateau schedule, and an epoch passes over
            the training rows, beginning the held-out ones anew as often as needed; the backbone is the model of this
            package, and of several tables each has an alpha: users and items, which the code has in one table, too
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.nn.utils.parametrize import register_parametrization

from recbench.errors import UsageError
from recbench.models.base import Factor, NonNegativeFloat, Positive, PositiveFloat, tunable
from recbench.models.explanation import Explanation, Table
from recbench.models.layers.backbone import (
    BackboneConfig,
    BackboneModel,
    embedding_parameters,
    embeddings,
    gated,
    ids_of_rows,
    largest,
)
from recbench.models.layers.embedding import FieldEmbedding, table
from recbench.models.procedure import Phase, Stage
from recbench.tasks.batches import BatchSource
from recbench.tasks.ctr import CTRData, FieldSpace
from recbench.tasks.rating import RatingData


class SoftSelection(nn.Module):
    """Parametrisation of a table (n, K): row i times the selection weights of its block, and pruned entries times 0.

    ``blocks`` (n,) is the block of each row, 0 to L - 1.
    """

    blocks: Tensor
    mask: Tensor

    def __init__(self, blocks: Tensor, n_blocks: int, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(n_blocks, dim, device=blocks.device))
        self.alpha.register_post_accumulate_grad_hook(normalise)
        self.register_buffer("blocks", blocks)
        self.register_buffer("mask", torch.ones(len(blocks), dim, dtype=torch.bool, device=blocks.device))

    def forward(self, weight: Tensor) -> Tensor:
        """Return what of the table is selected, shape (n, K)."""
        return weight * embedding(self.blocks, self.alpha) * self.mask

    def summary(self) -> dict[str, list[str | float]]:
        """Return a table of the blocks: their rows, and the mean over their selection weights and over their rows."""
        rows = self.blocks.bincount(minlength=len(self.alpha))
        kept = rows.new_zeros(len(rows)).index_add_(0, self.blocks, self.mask.sum(1))
        return {
            "block": [str(number) for number in range(1, len(rows) + 1)],
            "rows": rows.tolist(),
            "mean selection weight": self.alpha.detach().mean(1).tolist(),
            "dimensions kept of a row": (kept / rows.clamp_min(1)).tolist(),
        }


def normalise(alpha: Tensor) -> None:
    """Divide the gradient of each block by its mean size, so that rare blocks learn as fast as frequent ones."""
    assert alpha.grad is not None
    alpha.grad /= alpha.grad.abs().mean(1, keepdim=True).clamp_min(torch.finfo(alpha.dtype).tiny)


@dataclass(frozen=True)
class Repeated:
    """A source of batches, begun anew as often as needed for ``n_batches`` an epoch."""

    source: BatchSource[Any]
    n_batches: int
    batch_size: int

    @property
    def n_samples(self) -> int:
        """Number of samples in an epoch, as if all batches were full."""
        return self.n_batches * self.batch_size

    def epoch(self, generator: torch.Generator) -> Iterator[Any]:
        """Yield the batches of one epoch."""
        epochs = (self.source.epoch(again) for again in repeat(generator))
        yield from islice(chain.from_iterable(epochs), self.n_batches)


class DNIS(BackboneModel):
    """Embedding dimensions selected by frequency, in a CTR model or a matrix factorisation, and then pruned."""

    tasks = ("ctr", "rating")

    class Config(BackboneConfig):
        """Hyper-parameters; batches, learning rate, penalties and the end of training are the backbone's."""

        blocks: tuple[PositiveFloat, ...] = (0.1, 0.2, 0.2, 0.2, 0.3)
        """Shares of a table's rows, the most frequent ones first."""
        holdout: Annotated[float, Field(gt=0, lt=1)] = 0.1
        """Share of the training rows that only the selection weights learn from, until retraining."""
        search_epochs: Positive = 10
        selection_learning_rate: PositiveFloat = tunable(1e-2, low=1e-3, high=1e-1, log=True)
        l1: NonNegativeFloat = tunable(1e-5, low=1e-7, high=1e-2, log=True)
        """On the selection weights, whose gradient is then divided by its mean size."""
        keep: Factor = tunable(0.4, low=0.05, high=1.0)
        """Share of the embeddings' entries that pruning leaves; first-order weights are not pruned."""

        @model_validator(mode="after")
        def _blocks_are_all_rows(self) -> Self:
            if abs(sum(self.blocks) - 1) > 1e-6:
                raise UsageError(f"blocks: expected shares whose sum is 1, found {list(self.blocks)}")
            return self

    def __init__(self, config: Config, data: CTRData | RatingData, backbone: Any) -> None:
        super().__init__(config, data.fields if isinstance(data, CTRData) else FieldSpace(), backbone)
        kind = FieldEmbedding if isinstance(data, CTRData) else nn.Embedding
        self.selected: dict[str, nn.Module] = {
            name: module
            for name, module in backbone.named_modules()
            if isinstance(module, kind) and table(module).shape[1] > 1
        }
        if not self.selected:
            raise UsageError(
                f"backbone: expected a model with embeddings of more than one dimension, found '{config.backbone}'"
            )
        self.selections: list[SoftSelection] = []
        for name, module in self.selected.items():
            dim = table(module).shape[1]
            counts = occurrences(data, name)
            if isinstance(module, FieldEmbedding):
                counts = counts[ids_of_rows(module, self.fields).to(counts.device)]
            blocks = by_frequency(counts, config.blocks)
            self.selections.append(SoftSelection(blocks, len(config.blocks), dim))
            register_parametrization(module, "weight", self.selections[-1])

    @classmethod
    def create(cls, config: Any, data: Any) -> Self:
        """Make the model and its backbone; how often features occur is counted in the training rows."""
        return cls(config, data, config.make_backbone(data))

    def predict(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the probabilities that a matrix factorisation gives pairs, shape (B,)."""
        backbone: Any = self.backbone
        probabilities: Tensor = backbone.predict(users, items)
        return probabilities

    def procedure(self, data: Any) -> Iterator[Stage]:
        """Warm-up, search, retraining of what pruning leaves."""
        config, alphas = self.config, self.alphas()
        train, held_out = hold_out(data, config.holdout)
        chosen = {id(alpha) for alpha in alphas}
        weights = [parameter for parameter in self.parameters() if id(parameter) not in chosen]

        stage, phase = self.own_stage(train)
        phase = replace(phase, loss=self.loss, parameters=weights)
        yield replace(stage, name="warm-up", steps=[replace(phase, name="warm-up")])

        size = self.backbone.config.batch_size
        selection = Phase(
            "selection",
            Repeated(self.backbone.batches(held_out), -(-phase.batches.n_samples // size), size),
            self.selection_loss,
            alphas,
            config.selection_learning_rate,
            optimizer="sgd",
            project=self.project,
        )
        tables = replace(phase, name="tables", parameters=[table(module) for module in embeddings(self.backbone)])
        yield Stage("search", [tables, selection], config.search_epochs, alternate=True)

        self.prune()
        stage, phase = self.own_stage(data)
        yield replace(stage, name="retrain", steps=[replace(phase, name="retrain", loss=self.loss, parameters=weights)])

    def alphas(self) -> list[nn.Parameter]:
        """Return the selection weights of each table, (L, K) each."""
        return [selection.alpha for selection in self.selections]

    def selection_loss(self, batch: Any) -> Tensor:
        """Return the backbone's loss plus the penalty on the selection weights."""
        sizes = torch.stack([alpha.abs().sum() for alpha in self.alphas()]).sum()
        return self.loss(batch) + self.config.l1 * sizes

    def project(self) -> None:
        """Bring the selection weights back to [0, 1]."""
        for alpha in self.alphas():
            alpha.clamp_(0, 1)

    def prune(self) -> None:
        """Set all entries of the selected embeddings to zero but the share that is kept."""
        masks = largest([gated(module) for module in self.selected.values()], self.config.keep)
        for selection, mask in zip(self.selections, masks, strict=True):
            selection.mask.copy_(mask)

    def explain(self, data: Any) -> Explanation:
        """Tell the mean selection weight and the dimensions kept of each block, and the size of the tables."""
        before, after = embedding_parameters(self.backbone)
        figures = {
            "embedding parameters before": before,
            "embedding parameters after": after,
            "share of embedding parameters kept": after / before,
        }
        parts = [
            Table(f"Blocks of {name}, the most frequent first", selection.summary())
            for name, selection in zip(self.selected, self.selections, strict=True)
        ]
        return Explanation(figures, parts)


def occurrences(data: CTRData | RatingData, name: str) -> Tensor:
    """Return how often each row of the table with that name is looked up in training, shape (n,).

    The tables of a rating model are known by their names: ``users`` and ``items``.
    """
    if isinstance(data, CTRData):
        batch = data.all_rows()
        dense = [torch.full((len(batch),), field.offset, device=batch.ids.device) for field in data.fields.dense]
        ids = torch.cat([batch.ids.flatten(), *(ragged.values for ragged in batch.multi.values()), *dense])
        return ids.bincount(minlength=data.fields.n_ids)
    match name.rpartition(".")[2]:
        case "users":
            return data.users.bincount(minlength=data.n_users)
        case "items":
            return data.items.bincount(minlength=data.n_items)
    raise UsageError(f"backbone: expected tables with the names users and items, found '{name}'")


def by_frequency(counts: Tensor, shares: tuple[float, ...]) -> Tensor:
    """Return the block of each of n rows, (n,): the most frequent share of rows is block 0, and so on."""
    edges = torch.tensor(shares).cumsum(0)[:-1].mul(len(counts)).round().to(counts)
    ranks = counts.argsort(descending=True, stable=True).argsort()
    return torch.bucketize(ranks, edges, right=True)


def hold_out(data: Any, share: float) -> tuple[Any, Any]:
    """Return the training rows without a random share of them, and that share; the same ones in every run."""
    n_rows = len(data)
    n_held_out = round(share * n_rows)
    if not 0 < n_held_out < n_rows:
        raise UsageError(f"holdout: expected a share that is some but not all of {n_rows} training rows, found {share}")
    order = torch.randperm(n_rows, generator=torch.Generator().manual_seed(0)).to(data.device)
    return data.take(order[n_held_out:]), data.take(order[:n_held_out])
