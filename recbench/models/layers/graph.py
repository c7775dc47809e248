"""Interactions as a graph of users and items: its normalised adjacency, propagation, and contrasts of its views.

The adjacency A has two blocks, users by items and its transpose; with the degrees D it is normalised to
``D^-1/2 A D^-1/2``, as in Kipf, Welling, ICLR 2017, without self-loops. It is symmetric, so a backward pass multiplies
by the matrix of the forward pass. A batch needs the last layer at its own users and items alone, and on a CPU only
their rows are multiplied: a fifth of the matrix for 2048 interactions of Gowalla.
"""

# Shapes: U users, I items, E interactions, P and Q users and items looked up, D dims.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from recbench.models.layers.dropout import random_words
from recbench.models.layers.sparse import row_offsets, weighted_sums
from recbench.tasks.interactions import PairBatch

Pair = tuple[Tensor, Tensor]
"""Of users and of items, or of positive and negative items."""

UNLABELLED = -1

WORTHWHILE = 0.5
"""Share of the entries below which rows are copied out of the matrix rather than all of them multiplied."""


@dataclass(frozen=True)
class SparseRows:
    """A constant sparse matrix by rows: ``columns``, ``values`` (n,), row r from ``offsets[r]`` to ``offsets[r + 1]``.

    ``columns`` and ``offsets`` are int32. A product with it is a sum over bags of weighted rows, which on a CPU takes a
    quarter of the time of torch's product with a CSR matrix.
    """

    offsets: Tensor
    columns: Tensor
    values: Tensor
    n_columns: int

    def times(self, dense: Tensor) -> Tensor:
        """Return the product with ``dense`` (n_columns, D)."""
        return weighted_sums(dense, self.columns, self.offsets, self.values.to(dense.dtype))

    def transposed(self) -> SparseRows:
        """Return the transposed matrix."""
        lengths = self.offsets.diff()
        order = self.columns.argsort(stable=True)
        rows = torch.arange(len(lengths), dtype=torch.int32, device=order.device)
        rows = rows.repeat_interleave(lengths, output_size=len(order))
        offsets = row_offsets(self.columns, self.n_columns)
        return SparseRows(offsets, rows.index_select(0, order), self.values.index_select(0, order), len(lengths))

    def take(self, rows: Tensor) -> SparseRows:
        """Return the given rows (P,) in the given order."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0, dtype=torch.int32)])
        places = (starts - offsets[:-1]).repeat_interleave(lengths)
        places += torch.arange(len(places), dtype=torch.int32, device=places.device)
        columns, values = self.columns.index_select(0, places), self.values.index_select(0, places)
        return SparseRows(offsets, columns, values, self.n_columns)


class Symmetric(Protocol):
    """A part of a symmetric matrix: some of its rows, or all."""

    def send(self, users: Tensor, items: Tensor) -> Pair:
        """Return its product with the vectors of all users (U, D) and items (I, D)."""
        ...

    def back(self, users: Tensor, items: Tensor) -> Pair:
        """Return the product of its transpose with vectors of its rows, (U, D) and (I, D)."""
        ...


class InteractionGraph:
    """The normalised adjacency of interactions ``users``, ``items`` (E,), which are sorted by user.

    It is made once from the data, on their device, and is no part of a model's state.
    """

    def __init__(self, users: Tensor, items: Tensor, n_users: int, n_items: int) -> None:
        degrees = [torch.bincount(nodes, minlength=n) for nodes, n in ((users, n_users), (items, n_items))]
        weights = (degrees[0][users] * degrees[1][items]).float().rsqrt()
        self.of_users = SparseRows(row_offsets(users, n_users), items.int(), weights, n_items)
        self.of_items = self.of_users.transposed()

    def send(self, users: Tensor, items: Tensor) -> Pair:
        """Return what each node receives from its neighbours, (U, D) and (I, D), without a gradient."""
        return self.of_users.times(items), self.of_items.times(users)

    back = send

    def at(self, users: Tensor, items: Tensor) -> Symmetric:
        """Return the rows of ``users`` (P,) and ``items`` (Q,), which may repeat."""
        if users.device.type == "cpu":
            blocks = ((self.of_users, users), (self.of_items, items))
            n_entries = sum(int(block.offsets.diff()[rows].sum()) for block, rows in blocks)
            if n_entries < WORTHWHILE * 2 * len(self.of_users.columns):
                return _Copied(self.of_users.take(users), self.of_items.take(items))
        return _Selected(self, users, items)


@dataclass(frozen=True)
class _Copied:
    """Rows as matrices of their own."""

    of_users: SparseRows
    of_items: SparseRows

    def send(self, users: Tensor, items: Tensor) -> Pair:
        return self.of_users.times(items), self.of_items.times(users)

    def back(self, users: Tensor, items: Tensor) -> Pair:
        return self.of_items.transposed().times(items), self.of_users.transposed().times(users)


@dataclass(frozen=True)
class _Selected:
    """Rows taken from the product with the whole matrix: without a synchronisation."""

    graph: InteractionGraph
    users: Tensor
    items: Tensor

    def send(self, users: Tensor, items: Tensor) -> Pair:
        return _rows(self.graph.send(users, items), (self.users, self.items))

    def back(self, users: Tensor, items: Tensor) -> Pair:
        n_items, n_users = self.graph.of_users.n_columns, self.graph.of_items.n_columns
        return self.graph.send(_scattered(users, self.users, n_users), _scattered(items, self.items, n_items))


def propagate(part: Symmetric, users: Tensor, items: Tensor) -> Pair:
    """Return ``part.send(users, items)``, differentiable."""
    sent: Pair = _Propagate.apply(users, items, part)  # type: ignore[no-untyped-call]
    return sent


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, part: Symmetric) -> Pair:
        ctx.part = part
        return part.send(users, items)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor, None]:
        return *ctx.part.back(users, items), None


@dataclass(frozen=True)
class LayerMean:
    """The mean over layers of what the graph sends on: ``E_k = A E_(k-1)`` for k up to ``n_layers``.

    ``with_first`` says whether E_0 counts. ``noise`` is the length of a random vector added to every row of every
    E_k, k > 0: its magnitudes are uniform before it is scaled, its signs are the row's (Yu et al., SIGIR 2022).
    """

    graph: InteractionGraph
    n_layers: int
    with_first: bool = True
    noise: tuple[float, ...] = (0.0,)
    """One number for each view that is wanted."""

    def everywhere(self, users: Tensor, items: Tensor) -> Pair:
        """Return the mean without noise at all nodes, (U, D) and (I, D); differentiable."""
        start = torch.clone if self.with_first else torch.zeros_like
        sums = start(users), start(items)
        for _ in range(self.n_layers):
            users, items = propagate(self.graph, users, items)
            sums = sums[0].add_(users), sums[1].add_(items)
        return sums[0].div_(self.n_terms), sums[1].div_(self.n_terms)

    def at(self, tables: Pair, users: Tensor, items: Tensor) -> tuple[Tensor, ...]:
        """Return vectors of ``users`` (P,) and ``items`` (Q,), alternately (P, D) and (Q, D).

        First E_0's, then the mean's of every view. Differentiable in the tables, with one backward pass for all views.
        """
        looked_up: tuple[Tensor, ...] = _LayerMean.apply(*tables, users, items, self)  # type: ignore[no-untyped-call]
        return looked_up

    @property
    def n_terms(self) -> int:
        """Number of layers in the mean."""
        return self.n_layers + self.with_first


class _LayerMean(torch.autograd.Function):
    """Backward: the mean is the polynomial ``(I + A + ... + A^K) / (K + 1)`` of a symmetric A, by Horner's rule."""

    @staticmethod
    def forward(
        ctx: Any, users: Tensor, items: Tensor, at_users: Tensor, at_items: Tensor, mean: LayerMean
    ) -> tuple[Tensor, ...]:
        part = mean.graph.at(at_users, at_items)
        ctx.mean, ctx.part, ctx.at, ctx.sizes = mean, part, (at_users, at_items), (len(users), len(items))
        first = _rows((users, items), (at_users, at_items))
        looked_up = list(first)
        for noise in mean.noise:
            nodes: Pair = users, items
            sums = [rows.clone() if mean.with_first else torch.zeros_like(rows) for rows in first]
            for layer in range(1, mean.n_layers + 1):
                if layer < mean.n_layers:
                    nodes = _perturbed(mean.graph.send(*nodes), noise)
                    sent = _rows(nodes, (at_users, at_items))
                else:
                    sent = _perturbed(part.send(*nodes), noise)
                sums = [total.add_(rows) for total, rows in zip(sums, sent, strict=True)]
            looked_up += [total.div_(mean.n_terms) for total in sums]
        return tuple(looked_up)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        mean: LayerMean = ctx.mean
        first, views = gradients[:2], gradients[2:]
        arriving = [torch.stack(of_kind).sum(0).div_(mean.n_terms) for of_kind in (views[::2], views[1::2])]
        if mean.n_layers:
            nodes = ctx.part.back(*arriving)
        else:
            nodes = tuple(rows.new_zeros(size, rows.shape[1]) for rows, size in zip(arriving, ctx.sizes, strict=True))
        for _ in range(1, mean.n_layers):
            _add_rows(nodes, ctx.at, arriving)
            nodes = mean.graph.send(*nodes)
        if mean.with_first:
            _add_rows(nodes, ctx.at, arriving)
        _add_rows(nodes, ctx.at, first)
        return *nodes, None, None, None


def _perturbed(nodes: Pair, length: float) -> Pair:
    return nodes if length == 0 else (with_noise(nodes[0], length), with_noise(nodes[1], length))


def with_noise(rows: Tensor, length: float) -> Tensor:
    """Add to each row (n, D) a random vector of the given length in the row's own orthant; in place."""
    magnitudes = random_words(rows.numel(), rows.device).view(rows.shape).to(rows.dtype).add_(2**15 + 0.5)
    return rows.addcmul_(magnitudes * rows.sign(), length / magnitudes.norm(dim=1, keepdim=True))


def items_of(batch: PairBatch) -> Tensor:
    """Return a batch's items as one list (Q,): positives, then negatives."""
    return torch.cat([batch.positives, batch.negatives.flatten()])


def apart(rows: Tensor, batch: PairBatch) -> Pair:
    """Split the rows (Q, D) of ``items_of(batch)``: those of positives (B, D), and of negatives (B, N, D) or (N, D)."""
    positive, negative = rows.split([len(batch), len(rows) - len(batch)])
    return positive, negative.view(*batch.negatives.shape, -1)


def drop_edges(users: Tensor, items: Tensor, share: float) -> Pair:
    """Return the interactions (E,) without a random share of them, in the same order; floor((1 - share) E) stay."""
    kept = torch.randperm(len(users), device=users.device)[: int((1 - share) * len(users))].sort().values
    return users[kept], items[kept]


def info_nce(first: Tensor, second: Tensor, nodes: Tensor, temperature: float) -> Tensor:
    """Return the contrastive loss of two views (B, D) of ``nodes`` (B,), each node counted once, a mean over them.

    ``-log(exp(cos(a_i, b_i) / temperature) / sum_j exp(cos(a_i, b_j) / temperature))``, j over the nodes of the batch
    (van den Oord et al., arXiv:1807.03748).
    """
    ordered, order = nodes.sort(stable=True)
    new = functional.pad(ordered[1:] != ordered[:-1], (1, 0), value=True)
    labels = torch.arange(len(nodes), device=nodes.device)
    if nodes.device.type == "cpu":
        order = order[new]
        labels = labels[: len(order)]
    views = (functional.normalize(view.index_select(0, order)) for view in (first, second))
    logits = next(views) / temperature @ next(views).T
    if nodes.device.type != "cpu":  # the number of new ones is not known there without a synchronisation
        logits, labels = logits.masked_fill(~new, -torch.inf), labels.masked_fill(~new, UNLABELLED)
    return functional.cross_entropy(logits, labels, ignore_index=UNLABELLED)


def _rows(nodes: Pair, places: Pair) -> Pair:
    return nodes[0].index_select(0, places[0]), nodes[1].index_select(0, places[1])


def _scattered(rows: Tensor, places: Tensor, size: int) -> Tensor:
    return rows.new_zeros(size, rows.shape[1]).index_add_(0, places, rows)


def _add_rows(nodes: Pair, places: Pair, rows: Sequence[Tensor]) -> None:
    for of_kind, where, what in zip(nodes, places, rows, strict=True):
        of_kind.index_add_(0, where, what)
