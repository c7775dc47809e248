"""TransR: facts of a graph as translations in a space of their relation.

Source: Lin et al., "Learning Entity and Relation Embeddings for Knowledge Graph Completion", AAAI 2015, section 4.
Distance of a fact (h, r, t): ``|| e_h W_r + r - e_t W_r ||^2``; the lower, the more plausible.
"""

# Shapes: B facts of a batch, R relations, D dims of nodes, K dims of relations.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbench.models.layers.losses import bpr_loss
from recbench.models.layers.pairwise import batch_penalty
from recbench.tasks.batches import BatchSource
from recbench.tasks.kg import TripleBatch


@dataclass(frozen=True)
class RelationBatch:
    """Facts sorted by relation: ``nodes`` (B, 3) are heads, tails and corrupted tails, ``relations`` (B,).

    ``sizes``: number of facts of each relation, R numbers.
    """

    nodes: Tensor
    relations: Tensor
    sizes: Sequence[int]

    def __len__(self) -> int:
        return len(self.relations)


class ByRelation:
    """Source of ``RelationBatch``: the batches of another source, each sorted by relation."""

    def __init__(self, source: BatchSource[TripleBatch], n_relations: int) -> None:
        self._source = source
        self._n_relations = n_relations

    @property
    def n_samples(self) -> int:
        """Number of facts."""
        return self._source.n_samples

    def epoch(self, generator: torch.Generator) -> Iterator[RelationBatch]:
        """Yield the batches of one epoch."""
        batches = list(self._source.epoch(generator))
        counts = [torch.bincount(batch.facts.relations, minlength=self._n_relations) for batch in batches]
        # The sizes of all batches come to the host at once, so that the steps need no synchronisation.
        for batch, sizes in zip(batches, torch.stack(counts).tolist(), strict=True):
            relations, order = batch.facts.relations.sort()
            nodes = torch.stack([batch.facts.heads, batch.facts.tails, batch.negative_tails], dim=1)
            yield RelationBatch(nodes[order], relations, sizes)


def facts_per_batch(n_facts: int, n_pairs: int, batch_size: int) -> int:
    """Return the batch size that makes as many batches of facts as there are of interactions, or one more."""
    return max(1, n_facts // -(-n_pairs // batch_size))


class TransR(nn.Module):
    """Relation vectors (R, K) and projections (R, D, K), both drawn by Xavier's rule."""

    def __init__(self, n_relations: int, node_dim: int, relation_dim: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_relations, relation_dim)))
        self.projections = nn.Parameter(torch.empty(n_relations, node_dim, relation_dim))
        for projection in self.projections.data:
            nn.init.xavier_uniform_(projection)

    def project(self, vectors: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return node vectors (n, D) in the space of their relation, (n, K).

        They are sorted by relation, ``sizes`` of each: one product a relation, instead of one matrix a vector.
        """
        parts = zip(vectors.split(list(sizes)), self.projections.unbind(), strict=True)
        return torch.cat([part @ projection for part, projection in parts])

    def loss(self, nodes: Tensor, batch: RelationBatch, *, unit: bool = False) -> tuple[Tensor, Tensor]:
        """Return the pairwise loss of true against corrupted facts, and half the mean squared norm of its vectors.

        ``nodes`` (n_nodes, D). ``unit``: projected and relation vectors are first made unit vectors.
        """
        wanted = nodes.index_select(0, batch.nodes.flatten())
        projected = self.project(wanted, [3 * size for size in batch.sizes])
        translation = self.vectors[batch.relations]
        if unit:
            projected, translation = functional.normalize(projected), functional.normalize(translation)
        head, tail, corrupted = projected.view(len(batch), 3, -1).unbind(1)
        moved = head + translation
        loss = bpr_loss(-(moved - tail).square().sum(1), -(moved - corrupted).square().sum(1))
        return loss, batch_penalty(translation, projected)
