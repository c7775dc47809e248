"""KGAT: attention, propagation and phases against SciPy and plain formulas."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recbench.models.base import parameter_count
from recbench.models.kg.kgat import KGAT, collaborative_graph
from recbench.models.layers.losses import bpr_loss
from recbench.models.procedure import Phase

U, V, N = 8, 6, 28  # users, items, nodes
R = 2 * (3 + 1)


@pytest.fixture
def model(data):
    torch.manual_seed(0)
    return KGAT(KGAT.Config(batch_size=6, l2=0.1), data)


@pytest.fixture
def graph(data):
    return collaborative_graph(data)


@pytest.fixture
def pairs(model, data):
    return next(data.pairs(6).epoch(torch.Generator().manual_seed(0)))


def dense(model, weights, graph):
    """The adjacency as SciPy adds up parallel edges."""
    matrix = sp.coo_matrix((weights.numpy(), (graph.heads.numpy(), graph.tails.numpy())), shape=(N, N))
    return matrix.toarray().astype(np.float64)


def test_graph_has_the_inverse_of_every_edge(graph, data):
    edges = set(zip(graph.heads.tolist(), graph.relations.tolist(), graph.tails.tolist(), strict=True))
    assert len(edges) == 2 * (len(data.users) + len(data.graph))
    assert {((tail, (relation + R // 2) % R, head)) for head, relation, tail in edges} == edges
    interactions = {(head, tail) for head, relation, tail in edges if relation == 0}
    assert interactions == set(zip(data.users.tolist(), (data.items + U).tolist(), strict=True))


def test_attention_is_the_softmax_over_all_edges_of_a_head(model, graph):
    weights = model.attention().detach()
    W, r, e = (values.detach().double() for values in (model.transr.projections, model.transr.vectors, model.nodes))
    scores = torch.stack(
        [
            (e[tail] @ W[relation]) @ torch.tanh(e[head] @ W[relation] + r[relation])
            for head, relation, tail in zip(graph.heads, graph.relations, graph.tails, strict=True)
        ]
    )
    for head in graph.heads.unique():
        edges = graph.heads == head
        torch.testing.assert_close(weights[edges].double(), scores[edges].softmax(0), rtol=1e-4, atol=1e-6)
        assert float(weights[edges].sum()) == pytest.approx(1.0, abs=1e-5)
        if edges.sum() == 1:
            assert float(weights[edges]) == 1.0
    assert (torch.bincount(graph.heads) == 1).any()


def test_first_epoch_weighs_the_edges_of_a_relation_alike(model, graph):
    found = model.adjacency(torch.eye(N)).double().numpy()
    expected = np.zeros((N, N))
    for relation in range(R):
        chosen = graph.take(graph.relations == relation)
        counts = np.bincount(chosen.heads, minlength=N)
        np.add.at(expected, (chosen.heads.numpy(), chosen.tails.numpy()), 1 / counts[chosen.heads])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_propagation(model, graph):
    """Row-sliced propagation is the full one at users and items."""
    model.eval()
    model.refresh()
    A = dense(model, model.attention().detach(), graph)
    E = model.nodes.detach().double().numpy()
    blocks = [E]
    for layer in model.layers:
        S, b, P, c = (values.detach().double().numpy() for values in layer.parameters())
        messages = A @ E
        first, second = (E + messages) @ S.T + b, (E * messages) @ P.T + c
        E = np.where(first > 0, first, 0.2 * first) + np.where(second > 0, second, 0.2 * second)
        blocks.append(E / np.linalg.norm(E, axis=1, keepdims=True))
    outputs = model.outputs().detach()
    assert outputs.shape == (U + V, 176)
    np.testing.assert_allclose(outputs.numpy(), np.concatenate(blocks, 1)[: U + V], atol=1e-5)
    for block in outputs.split([64, 64, 32, 16], dim=1)[1:]:
        torch.testing.assert_close(block.norm(dim=1), torch.ones(U + V))


def test_scores_are_inner_products_of_outputs(model, data):
    model.eval()
    model.prepare_scoring()
    users, items = model.outputs().detach().split([U, V])
    torch.testing.assert_close(model.score(data.user_batch(torch.tensor([4, 1]))), users[[4, 1]] @ items.T)


def test_penalty_is_on_the_outputs(model, data, pairs):
    model.eval()
    users, items = model.outputs().split([U, V])
    u, i, j = users[pairs.users], items[pairs.positives], items[pairs.negatives[:, 0]]
    expected = bpr_loss((u * i).sum(1), (u * j).sum(1)) + 0.1 * 0.5 * sum(v.square().sum() for v in (u, i, j)) / 6
    torch.testing.assert_close(model.loss(pairs), expected)


def test_attention_gets_no_gradient_from_interactions(model, pairs):
    model.refresh()
    model.loss(pairs).backward()
    assert all(parameter.grad is None for parameter in model.transr.parameters())
    assert all(parameter.grad.any() for parameter in model.layers.parameters())
    # Every node within three steps of a user is reached, also entities; item 5 has no edge but may be a negative.
    assert model.nodes.grad[U + V :].any()


def test_users_take_part_in_the_graph_through_interactions(model, data):
    *_, stage = model.procedure(data)
    _, facts, _ = stage.steps
    assert isinstance(facts, Phase)
    for batch in facts.batches.epoch(torch.Generator().manual_seed(0)):
        facts.loss(batch).backward()
    assert model.nodes.grad[:U].any(1)[data.users.unique()].all()
    assert model.transr.vectors.grad[0].any()
    assert model.transr.projections.grad[R // 2].any()
    assert all(parameter.grad is None for parameter in model.layers.parameters())


def test_procedure(model, data):
    """BPR-MF first, by the same loss without layers; then interactions, facts, attention."""
    stages = model.procedure(data)
    pretrain = next(stages)
    assert (pretrain.name, [step.name for step in pretrain.steps]) == ("pretrain", ["pairs"])
    assert torch.equal(model.outputs(), model.nodes[: U + V])
    train = next(stages)
    assert [step.name for step in train.steps] == ["pairs", "facts", "attention"]
    assert not train.alternate
    assert model.outputs().shape[1] == 176
    pairs, facts, attention = train.steps
    assert (
        abs(len(list(pairs.batches.epoch(torch.Generator()))) - len(list(facts.batches.epoch(torch.Generator())))) <= 1
    )
    before = model.adjacency.values.clone()
    attention.run()
    assert not torch.equal(model.adjacency.values, before)
    assert next(stages, None) is None


def test_weights_of_the_graph_survive_a_checkpoint(model, data):
    model.refresh()
    torch.manual_seed(5)
    again = KGAT(model.config, data)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval().outputs(), model.eval().outputs())


def test_parameter_count(model):
    layers = 2 * ((64 * 64 + 64) + (64 * 32 + 32) + (32 * 16 + 16))
    assert parameter_count(model) == N * 64 + R * (64 + 64 * 64) + layers
