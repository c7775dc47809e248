"""Task ``kg``: as ``topn``, with a knowledge graph over the items."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from recbench.data.store import Arrays
from recbench.errors import RecbenchError
from recbench.tasks.base import Development
from recbench.tasks.batches import blocks, to_device
from recbench.tasks.interactions import TopNData
from recbench.tasks.linting import Report, lint_graph
from recbench.tasks.ranking import RankingTask

# Each draw again hits a known fact with a probability of about the density of the graph.
MOST_DRAWS = 1000


@dataclass(frozen=True)
class Triples:
    """Facts of a graph: heads, relations, tails, each of shape (n,)."""

    heads: Tensor
    relations: Tensor
    tails: Tensor

    def __len__(self) -> int:
        return len(self.heads)

    def take(self, rows: Tensor) -> Triples:
        """Return the given facts."""
        return Triples(self.heads[rows], self.relations[rows], self.tails[rows])


@dataclass(frozen=True)
class TripleBatch:
    """Facts with corrupted tails: ``facts`` of B triples, ``negative_tails`` (B,)."""

    facts: Triples
    negative_tails: Tensor

    def __len__(self) -> int:
        return len(self.facts)


class KGData(TopNData):
    """Training interactions and the graph; the first ``n_items`` entities are the items."""

    def __init__(
        self,
        n_users: int,
        n_items: int,
        users: Tensor,
        items: Tensor,
        n_entities: int,
        n_relations: int,
        graph: Triples,
    ) -> None:
        super().__init__(n_users, n_items, users, items)
        self.n_entities = n_entities
        self.n_relations = n_relations
        self.graph = graph

    def triples(self, graph: Triples, n_nodes: int, batch_size: int) -> TripleBatches:
        """Supply every fact of ``graph`` once an epoch, in random order, with corrupted tails among ``n_nodes``.

        ``graph`` may be this graph or one made from it (with inverse relations, with users as nodes).
        """
        return TripleBatches(graph, n_nodes, batch_size)


class TripleBatches:
    """Source of ``TripleBatch``."""

    def __init__(self, graph: Triples, n_nodes: int, batch_size: int) -> None:
        self._graph = graph
        self._n_nodes = n_nodes
        self._batch_size = batch_size
        n_relations = int(graph.relations.max()) + 1 if len(graph) else 1
        self._n_relations = n_relations
        self._known = self._key(graph.heads, graph.relations, graph.tails).sort().values

    def _key(self, heads: Tensor, relations: Tensor, tails: Tensor) -> Tensor:
        return (heads * self._n_relations + relations) * self._n_nodes + tails

    @property
    def n_samples(self) -> int:
        """Number of facts."""
        return len(self._graph)

    def epoch(self, generator: torch.Generator) -> Iterator[TripleBatch]:
        """Yield the batches of one epoch."""
        graph = self._graph
        order = torch.randperm(len(graph), generator=generator, device=graph.heads.device)
        negatives = self._corrupt(graph.take(order), generator)
        for chosen, negative in zip(blocks(order, self._batch_size), blocks(negatives, self._batch_size), strict=True):
            yield TripleBatch(graph.take(chosen), negative)

    def _corrupt(self, facts: Triples, generator: torch.Generator) -> Tensor:
        """Draw, for all facts of an epoch at once, tails that make no known fact."""
        tails = torch.randint(self._n_nodes, (len(facts),), generator=generator, device=facts.heads.device)
        for _ in range(MOST_DRAWS):
            key = self._key(facts.heads, facts.relations, tails)
            place = torch.searchsorted(self._known, key).clamp_(max=len(self._known) - 1)
            wrong = torch.nonzero(self._known[place] == key).squeeze(1)
            if len(wrong) == 0:
                return tails
            again = torch.randint(self._n_nodes, (len(wrong),), generator=generator, device=tails.device)
            tails[wrong] = again
        raise RecbenchError(
            f"{len(wrong)} facts have a head and relation linked to nearly every one of {self._n_nodes} nodes; "
            "no corrupted tail was found for them"
        )


class KGTask(RankingTask[KGData]):
    """Top-N recommendation with a knowledge graph."""

    name: ClassVar[str] = "kg"

    def training_data(self, development: Development) -> KGData:
        """Put the training interactions and the graph on the device."""
        shared, train, meta = development.shared, development.train, development.meta
        heads, relations, tails = (to_device(shared[name], self.device) for name in ("heads", "relations", "tails"))
        return KGData(
            meta["n_users"],
            meta["n_items"],
            to_device(train["users"], self.device),
            to_device(train["items"], self.device),
            len(shared["entity_ids"]),
            len(shared["relation_ids"]),
            Triples(heads, relations, tails),
        )

    def lint(self, test: Arrays) -> Report:
        """As for every ranking task, and look for test pairs in the graph."""
        return super().lint(test) + lint_graph(test, self._shared)
