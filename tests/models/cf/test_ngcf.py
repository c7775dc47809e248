"""NGCF against its equations in numpy."""

import numpy as np
import pytest
import torch

from recbench.models.base import parameter_count
from recbench.models.cf.ngcf import NGCF
from recbench.tasks.interactions import PairBatch, TopNData

N_USERS, N_ITEMS, DIM, HIDDEN = 20, 15, 4, (5, 3)


@pytest.fixture
def batch() -> PairBatch:
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(N_ITEMS, (2, 8), generator=generator)
    return PairBatch(ids[0], ids[1], torch.randint(N_ITEMS, (8, 2), generator=generator))


def make(data: TopNData, **config: object) -> NGCF:
    torch.manual_seed(1)
    model = NGCF(NGCF.Config(embedding_dim=DIM, hidden=HIDDEN, **config), data)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    return model


def outputs(model, data):
    """[E_0 | unit(E_1) | unit(E_2)] of users, then items."""
    w = {name: parameter.detach().double().numpy() for name, parameter in model.named_parameters()}
    block = data.matrix(np.float64).toarray()
    adjacency = np.block([[np.zeros((N_USERS, N_USERS)), block], [block.T, np.zeros((N_ITEMS, N_ITEMS))]])
    degrees = adjacency.sum(1)
    laplacian = adjacency / np.sqrt(np.outer(degrees, degrees))
    nodes = np.concatenate([w["user.weight"], w["item.weight"]])
    joined = [nodes]
    for k in range(len(HIDDEN)):
        messages = laplacian @ nodes
        both = [
            (nodes + messages) @ w[f"layers.{k}.sum.weight"].T + w[f"layers.{k}.sum.bias"],
            (nodes * messages) @ w[f"layers.{k}.product.weight"].T + w[f"layers.{k}.product.bias"],
        ]
        nodes = sum(np.where(part > 0, part, 0.2 * part) for part in both)
        joined.append(nodes / np.linalg.norm(nodes, axis=1, keepdims=True))
    joined = np.concatenate(joined, 1)
    return joined[:N_USERS], joined[N_USERS:]


def test_scores(data):
    model = make(data).eval()
    users, items = outputs(model, data)
    model.prepare_scoring()
    scores = model.score(data.user_batch(torch.arange(N_USERS))).detach()
    np.testing.assert_allclose(scores, users @ items.T, atol=1e-6)


def test_loss_penalises_the_outputs(data, batch):
    model = make(data, dropout=0.0, l2=0.1)
    users, items = outputs(model, data)
    u, i, j = (ids.numpy() for ids in (batch.users, batch.positives, batch.negatives))
    difference = (users[u] * items[i]).sum(1)[:, None] - np.einsum("bd,bnd->bn", users[u], items[j])
    norms = sum((rows**2).sum() for rows in (users[u], items[i], items[j]))
    expected = np.log1p(np.exp(-difference)).mean() + 0.1 * 0.5 * norms / len(u)
    assert float(model.loss(batch).detach()) == pytest.approx(expected, abs=1e-6)


def test_gradient_through_the_batch_s_rows_is_that_through_all_nodes(data, batch):
    model = make(data, dropout=0.0).double()
    at = model.looked_up(batch.users, batch.positives)
    users, items = model.outputs()
    everywhere = users[batch.users], items[batch.positives]
    gradients = []
    for vectors in (at, everywhere):
        torch.testing.assert_close(vectors, everywhere)
        scores = (vectors[0] * vectors[1]).sum(1).tanh().sum()
        gradients.append(torch.autograd.grad(scores, list(model.parameters())))
    torch.testing.assert_close(*gradients)


def test_dropout_is_in_training_alone(data, batch):
    model = make(data, dropout=0.5)
    assert float(model.loss(batch).detach()) != float(model.loss(batch).detach())
    model.eval()
    assert torch.equal(*(model.outputs()[0] for _ in range(2)))


def test_dropout_comes_before_the_normalisation(data):
    """The rows of a layer are of length 1 however many of their numbers were dropped."""
    users, _ = make(data, dropout=0.5).outputs()
    layer = users[:, DIM : DIM + HIDDEN[0]].detach()
    dropped = (layer == 0).any(1) & (layer != 0).any(1)
    assert dropped.any()
    torch.testing.assert_close(layer[dropped].norm(dim=1), torch.ones(int(dropped.sum())))


def test_size_and_state(data):
    model = make(data)
    widths = [(4, 5), (5, 3)]
    assert parameter_count(model) == (N_USERS + N_ITEMS) * DIM + sum(2 * (a * b + b) for a, b in widths)
    assert not [name for name, _ in model.named_buffers()]
