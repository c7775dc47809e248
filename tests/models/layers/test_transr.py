"""TransR against plain formulas, and batches sorted by relation."""

import numpy as np
import pytest
import torch

from recbench.models.layers.transr import ByRelation, RelationBatch, TransR, facts_per_batch
from recbench.tasks.kg import TripleBatches, Triples

N_NODES, N_RELATIONS, DIM = 12, 4, 3


@pytest.fixture
def graph():
    generator = torch.Generator().manual_seed(0)
    relations = torch.tensor([0, 2, 3])[torch.randint(3, (20,), generator=generator)]  # relation 1 has no fact
    return Triples(torch.arange(20) % N_NODES, relations, torch.randint(N_NODES, (20,), generator=generator))


@pytest.fixture
def batch(graph):
    (batch,) = ByRelation(TripleBatches(graph, N_NODES, 64), N_RELATIONS).epoch(torch.Generator().manual_seed(1))
    return batch


@pytest.fixture
def transr():
    torch.manual_seed(0)
    return TransR(N_RELATIONS, DIM, DIM)


def softplus(x):
    return np.log1p(np.exp(x))


def reference(transr, nodes, batch, unit):
    """Loss and penalty, fact by fact."""

    def made(vector):
        return vector / np.linalg.norm(vector) if unit else vector

    losses, norms = [], []
    W, r, e = (values.detach().double().numpy() for values in (transr.projections, transr.vectors, nodes))
    for (head, tail, corrupted), relation in zip(batch.nodes.tolist(), batch.relations.tolist(), strict=True):
        h, t, c = (made(e[node] @ W[relation]) for node in (head, tail, corrupted))
        moved = h + made(r[relation])
        losses.append(softplus(((moved - t) ** 2).sum() - ((moved - c) ** 2).sum()))
        norms.append(0.5 * sum((vector**2).sum() for vector in (h, t, c, made(r[relation]))))
    return np.mean(losses), np.mean(norms)


@pytest.mark.parametrize("unit", [False, True])
def test_loss(transr, batch, unit):
    nodes = torch.randn(N_NODES, DIM)
    found = [value.item() for value in transr.loss(nodes, batch, unit=unit)]
    assert found == pytest.approx(reference(transr, nodes, batch, unit), rel=1e-5)


def test_identity_projection_is_transe(transr, batch):
    nodes = torch.randn(N_NODES, DIM)
    with torch.no_grad():
        transr.projections.copy_(torch.eye(DIM).expand_as(transr.projections))
    head, tail, corrupted = nodes[batch.nodes].unbind(1)
    moved = head + transr.vectors[batch.relations]
    true, false = (torch.linalg.vector_norm(moved - end, dim=1) ** 2 for end in (tail, corrupted))
    expected = torch.log1p(torch.exp(true - false)).mean()
    torch.testing.assert_close(transr.loss(nodes, batch)[0], expected)


def test_relation_without_facts_gets_no_gradient(transr, batch):
    nodes = torch.randn(N_NODES, DIM)
    transr.loss(nodes, batch)[0].backward()
    used = transr.projections.grad.flatten(1).any(1)
    assert used.tolist() == [True, False, True, True]


def test_batches_hold_every_fact_once_sorted_by_relation(graph):
    source = ByRelation(TripleBatches(graph, N_NODES, 8), N_RELATIONS)
    batches = list(source.epoch(torch.Generator().manual_seed(1)))
    assert [len(batch) for batch in batches] == [8, 8, 4]
    assert source.n_samples == 20
    seen = []
    for batch in batches:
        assert isinstance(batch, RelationBatch)
        assert batch.relations.tolist() == sorted(batch.relations.tolist())
        assert batch.sizes == torch.bincount(batch.relations, minlength=N_RELATIONS).tolist()
        seen += zip(batch.nodes[:, 0].tolist(), batch.relations.tolist(), batch.nodes[:, 1].tolist(), strict=True)
    facts = zip(graph.heads.tolist(), graph.relations.tolist(), graph.tails.tolist(), strict=True)
    assert sorted(seen) == sorted(facts)


@pytest.mark.parametrize(
    ("n_facts", "n_pairs", "size"), [(344878, 80808, 2048), (91631, 80808, 2048), (7, 5, 4), (1, 9, 2)]
)
def test_there_are_as_many_batches_of_facts_as_of_interactions(n_facts, n_pairs, size):
    pairs = -(-n_pairs // size)
    facts = -(-n_facts // facts_per_batch(n_facts, n_pairs, size))
    assert min(pairs, n_facts) <= facts <= pairs + 1
