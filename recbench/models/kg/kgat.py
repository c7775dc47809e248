"""KGAT: knowledge graph attention network.

Source: Wang, He, Cao, Liu, Chua, "KGAT: Knowledge Graph Attention Network for Recommendation", KDD 2019,
arXiv 1905.07854; where paper and released code differ, as the code.

Graph       nodes are users, then entities; edges are interactions, facts and the inverses of both, R relations in all
Attention   pi(h, r, t) = (e_t W_r) . tanh(e_h W_r + r); A = softmax of pi over all edges that leave h
Layer       N = A E;  E' = dropout(LeakyReLU((E + N) W1 + b1) + LeakyReLU((E * N) W2 + b2))
Score       inner product of [E0 | unit(E1) | ... | unit(EL)] of user and item
Losses      CF: BPR on the scores + l2 of the batch's outputs;  KG: TransR against a corrupted tail + l2
Training    every epoch all CF batches, then all KG batches, then A anew; A is constant in the CF steps and, in the
            first epoch, the sum of the adjacencies of all relations, each with rows that sum to 1. User and item
            vectors start from BPR-MF.

Departures  every fact is taken once an epoch (code: heads drawn uniformly, then one of their facts); each W_r is drawn
            with the Xavier bound of one matrix (code: of all matrices together); biases start at zero.
"""

# Shapes: N nodes, S scored nodes (users and items, the first ones), E edges, R relations, D dims.

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbench.models.base import (
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Recommender,
    Reference,
    Share,
    TrainedConfig,
    tunable,
)
from recbench.models.layers.bi_interaction import BiInteraction
from recbench.models.layers.losses import bpr_loss
from recbench.models.layers.pairwise import batch_penalty
from recbench.models.layers.sparse import SparseMatrix
from recbench.models.layers.transr import ByRelation, RelationBatch, TransR, facts_per_batch
from recbench.models.layers.wide import wide_linear
from recbench.models.procedure import Phase, Stage, Sweep
from recbench.tasks.interactions import PairBatch, UserBatch
from recbench.tasks.kg import KGData, Triples

# Edges whose attention is computed at once.
EDGES_AT_ONCE = 4096


class KGAT(Recommender):
    """Knowledge graph attention network: propagation over interactions and facts, weighted by learnt attention."""

    tasks = ("kg",)
    heads: Tensor
    scored: Tensor
    relation_heads: Tensor
    head_slots: Tensor
    relation_tails: Tensor
    tail_slots: Tensor
    reference = Reference("KGAT repository, training log", "kg/amazon-book-kgat", "recall@20", 0.15026, 0.008)

    class Config(TrainedConfig):
        """Hyper-parameters."""

        learning_rate: PositiveFloat = tunable(1e-4, low=3e-5, high=1e-2, log=True)
        """Published: 1e-4."""
        embedding_dim: Positive = 64
        """Of nodes and of relations."""
        hidden: tuple[Positive, ...] = (64, 32, 16)
        """Output width of each propagation layer."""
        dropout: Share = tunable(0.1, low=0.0, high=0.5)
        """Share of a layer's output that is dropped."""
        l2: NonNegativeFloat = tunable(3e-3, low=1e-6, high=1e-1, log=True)
        """Penalty on the squared norms of the vectors a batch uses, in all losses. Published: 1e-5."""
        batch_size: Positive = 4096
        """Interactions in a batch. Published: 1024 on Amazon-book (652,514 of them), 10240 on Last-FM."""
        pretrain: bool = True
        """Whether user and item vectors are first trained as BPR-MF."""
        pretrain_learning_rate: PositiveFloat = tunable(2e-3, low=1e-4, high=1e-2, log=True)
        """Of that training."""
        pretrain_batch_size: Positive = 2048
        """Of that training."""
        patience: Positive = 10

    def __init__(self, config: Config, data: KGData) -> None:
        super().__init__(config, data)
        dim = config.embedding_dim
        self.nodes = nn.Parameter(torch.empty(data.n_users + data.n_entities, dim))
        for part in self.nodes.data.split([data.n_users, data.n_entities]):
            nn.init.xavier_uniform_(part)
        self.transr = TransR(2 * (data.n_relations + 1), dim, dim)
        self.layers = nn.ModuleList(
            BiInteraction(*widths, config.dropout) for widths in pairwise([dim, *config.hidden])
        )
        self.depth = len(self.layers)
        self._connect(collaborative_graph(data))

    def _connect(self, graph: Triples) -> None:
        """Lay out the graph for attention and propagation."""
        n_nodes, n_relations = len(self.nodes), len(self.transr.vectors)
        n_scored = self.n_users + self.n_items
        scored = torch.nonzero(graph.heads < n_scored).squeeze(1)
        self.adjacency = SparseMatrix(graph.heads, graph.tails, (n_nodes, n_nodes))
        # The last layer is wanted at users and items only.
        self.last_adjacency = SparseMatrix(graph.heads[scored], graph.tails[scored], (n_scored, n_nodes))
        # A node is projected once for each relation it has, not once for each edge.
        heads, head_slots = (graph.relations * n_nodes + graph.heads).unique(return_inverse=True)
        tails, tail_slots = (graph.relations * n_nodes + graph.tails).unique(return_inverse=True)
        layout = {
            "heads": graph.heads,
            "scored": scored,
            "relation_heads": heads,
            "head_slots": head_slots,
            "relation_tails": tails,
            "tail_slots": tail_slots,
        }
        for name, tensor in layout.items():
            self.register_buffer(name, tensor, persistent=False)
        self.head_sizes = torch.bincount(heads // n_nodes, minlength=n_relations).tolist()
        self.tail_sizes = torch.bincount(tails // n_nodes, minlength=n_relations).tolist()
        # Until there is attention, an edge weighs 1 / (number of edges of its relation that leave its head).
        self._set_weights(1.0 / torch.bincount(head_slots)[head_slots])

    def _set_weights(self, weights: Tensor) -> None:
        self.adjacency.set_values(weights)
        self.last_adjacency.set_values(weights[self.scored])

    def attention(self) -> Tensor:
        """Return the weight of every edge among all edges that leave its head, shape (E,)."""
        from torch_geometric.utils import softmax  # takes seconds

        n_nodes = len(self.nodes)
        heads = self.transr.project(self.nodes[self.relation_heads % n_nodes], self.head_sizes)
        heads = (heads + self.transr.vectors[self.relation_heads // n_nodes]).tanh()
        tails = self.transr.project(self.nodes[self.relation_tails % n_nodes], self.tail_sizes)
        edges = zip(self.head_slots.split(EDGES_AT_ONCE), self.tail_slots.split(EDGES_AT_ONCE), strict=True)
        scores = torch.cat([(heads[head] * tails[tail]).sum(1) for head, tail in edges])
        weights: Tensor = softmax(scores, self.heads, num_nodes=n_nodes)
        return weights

    def refresh(self) -> None:
        """Replace the weights of the graph by the present attention."""
        with torch.no_grad():
            self._set_weights(self.attention())

    def outputs(self) -> Tensor:
        """Return the final vectors of users and items, shape (S, sum of widths)."""
        n_scored = self.n_users + self.n_items
        vectors: Tensor = self.nodes
        scored = vectors[:n_scored]
        blocks = [scored]
        for layer in self.layers[: self.depth]:
            if layer is self.layers[-1]:
                vectors = layer(scored, self.last_adjacency(vectors))
            else:
                vectors = layer(vectors, self.adjacency(vectors))
            scored = vectors[:n_scored]
            blocks.append(functional.normalize(scored))
        return torch.cat(blocks, dim=1)

    def procedure(self, data: KGData) -> Iterator[Stage]:
        """BPR-MF, which is this model without layers; then epochs of CF, KG and attention."""
        config = self.config
        if config.pretrain:
            self.depth = 0
            seen = data.pairs(config.pretrain_batch_size)
            phase = Phase("pairs", seen, self.loss, [self.nodes], config.pretrain_learning_rate, config.weight_decay)
            yield Stage("pretrain", [phase], config.epochs, config.patience)
            self.depth = len(self.layers)
        pairs = data.pairs(config.batch_size)
        graph = collaborative_graph(data)
        facts = data.triples(graph, len(self.nodes), facts_per_batch(len(graph), pairs.n_samples, config.batch_size))
        of_pairs = [self.nodes, *self.layers.parameters()]
        of_facts = [self.nodes, *self.transr.parameters()]
        by_relation = ByRelation(facts, len(self.transr.vectors))
        rates = config.learning_rate, config.weight_decay
        steps: list[Phase | Sweep] = [
            Phase("pairs", pairs, self.loss, of_pairs, *rates),
            Phase("facts", by_relation, self.graph_loss, of_facts, *rates),
            Sweep("attention", self.refresh),
        ]
        yield Stage("train", steps, config.epochs, config.patience)

    def loss(self, batch: PairBatch) -> Tensor:
        """BPR and the penalty on the batch's outputs."""
        users, items = self.outputs().split([self.n_users, self.n_items])
        user, seen, unseen = users[batch.users], items[batch.positives], items[batch.negatives.squeeze(1)]
        loss = bpr_loss((user * seen).sum(1), (user * unseen).sum(1))
        penalised: Tensor = loss + self.config.l2 * batch_penalty(user, seen, unseen)
        return penalised

    def graph_loss(self, batch: RelationBatch) -> Tensor:
        """TransR's loss and the penalty on the batch's projected vectors."""
        loss, penalty = self.transr.loss(self.nodes, batch)
        penalised: Tensor = loss + self.config.l2 * penalty
        return penalised

    def prepare_scoring(self) -> None:
        """Propagate once."""
        self._users, self._items = self.outputs().detach().split([self.n_users, self.n_items])

    def score(self, batch: UserBatch) -> Tensor:
        """Return inner products, shape (B, I)."""
        return wide_linear(self._users[batch.users], self._items)


def collaborative_graph(data: KGData) -> Triples:
    """Return interactions and facts with their inverses, over users followed by entities.

    Of R relations, 0 is "interacts", 1 to R/2 - 1 are the data's, and R/2 more is the inverse of each.
    """
    heads = torch.cat([data.users, data.graph.heads + data.n_users])
    tails = torch.cat([data.items, data.graph.tails]) + data.n_users
    relations = torch.cat([torch.zeros_like(data.users), data.graph.relations + 1])
    inverse = relations + data.n_relations + 1
    return Triples(torch.cat([heads, tails]), torch.cat([relations, inverse]), torch.cat([tails, heads]))
