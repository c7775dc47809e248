"""LightGCN against the paper's equations in numpy, and its special case BPR-MF."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from recbench.models.base import parameter_count
from recbench.models.cf.bprmf import BPRMF
from recbench.models.cf.lightgcn import INITIAL_STD, LightGCN
from recbench.tasks.interactions import PairBatch, TopNData

N_USERS, N_ITEMS, DIM = 20, 15, 4


@pytest.fixture
def data() -> TopNData:
    """User 2 and item 6 have no interaction."""
    there = torch.rand(N_USERS, N_ITEMS, generator=torch.Generator().manual_seed(3)) < 0.3
    there[2], there[:, 6] = False, False
    return TopNData(N_USERS, N_ITEMS, *there.nonzero().T.contiguous())


@pytest.fixture
def batch() -> PairBatch:
    generator = torch.Generator().manual_seed(4)
    users, positives = torch.randint(N_USERS, (7,), generator=generator), torch.randint(N_ITEMS, (7,))
    return PairBatch(users, positives, torch.randint(N_ITEMS, (7, 3), generator=generator))


def make(data: TopNData, **config: object) -> LightGCN:
    torch.manual_seed(1)
    return LightGCN(LightGCN.Config(embedding_dim=DIM, **config), data)


def tables(model):
    return [embedding.weight.detach().double().numpy() for embedding in (model.user, model.item)]


def means(model, data, n_layers):
    """E by the definition, with SciPy's matrix of interactions."""
    matrix = data.matrix(np.float64).toarray()
    degrees = np.sqrt(np.outer(matrix.sum(1), matrix.sum(0)))
    normalised = np.divide(matrix, degrees, out=np.zeros_like(matrix), where=degrees > 0)
    users, items = tables(model)
    layers = [(users, items)]
    for _ in range(n_layers):
        users, items = normalised @ items, normalised.T @ users
        layers.append((users, items))
    return [sum(of_kind) / (n_layers + 1) for of_kind in zip(*layers, strict=True)]


@pytest.mark.parametrize("n_layers", [1, 3])
def test_scores(data, n_layers):
    model = make(data, n_layers=n_layers)
    model.prepare_scoring()
    users, items = means(model, data, n_layers)
    scores = model.score(data.user_batch(torch.arange(N_USERS))).detach()
    np.testing.assert_allclose(scores, users @ items.T, atol=1e-6)


@pytest.mark.parametrize("n_layers", [0, 2])
def test_loss_penalises_layer_0(data, batch, n_layers):
    model = make(data, n_layers=n_layers, l2=0.1)
    users, items = means(model, data, n_layers)
    u, i, j = (ids.numpy() for ids in (batch.users, batch.positives, batch.negatives))
    difference = (users[u] * items[i]).sum(1)[:, None] - np.einsum("bd,bnd->bn", users[u], items[j])
    first_users, first_items = tables(model)
    norms = sum((rows**2).sum() for rows in (first_users[u], first_items[i], first_items[j]))
    expected = np.log1p(np.exp(-difference)).mean() + 0.1 * 0.5 * norms / len(u)
    assert float(model.loss(batch).detach()) == pytest.approx(expected, abs=1e-6)


def test_without_layers_it_is_bpr_mf(data, batch):
    model = make(data, n_layers=0, l2=0.1)
    mf = BPRMF(BPRMF.Config(embedding_dim=DIM, l2=0.1), data)
    mf.load_state_dict(model.state_dict())
    torch.testing.assert_close(model.loss(batch), mf.loss(batch))
    gradients = [torch.autograd.grad(one.loss(batch), list(one.parameters())) for one in (model, mf)]
    torch.testing.assert_close(*gradients)
    everyone = data.user_batch(torch.arange(N_USERS))
    for one in (model, mf):
        one.prepare_scoring()
    assert torch.equal(model.score(everyone), mf.score(everyone))


@pytest.mark.parametrize(
    "chosen",
    [
        {"loss": "bpr", "sampler": "hard", "num_negatives": 4},
        {"loss": "softmax", "sampler": "shared", "num_negatives": 4},
        {"loss": "bce", "sampler": "popularity", "num_negatives": 4},
        {"loss": "softmax", "sampler": "in-batch"},
    ],
)
def test_takes_every_loss_and_sampler(data, chosen):
    """With no layer the loss is BPR-MF's, whatever it is made of."""
    settings = {"l2": 0.1, "batch_size": 16, **chosen}
    model = make(data, n_layers=0, **settings)
    mf = BPRMF(BPRMF.Config(embedding_dim=DIM, **settings), data)
    mf.load_state_dict(model.state_dict())
    for batch in model.batches(data).epoch(torch.Generator().manual_seed(0)):
        torch.testing.assert_close(model.loss(batch), mf.loss(batch))


def test_a_step_changes_neighbours_of_the_batch_alone(data):
    """With one layer the gradient reaches the batch's own nodes and their neighbours."""
    model = make(data, n_layers=1, l2=0.0)
    user, positive, negative = 0, int(data.items[0]), 1
    model.loss(PairBatch(torch.tensor([user]), torch.tensor([positive]), torch.tensor([[negative]]))).backward()
    assert model.user.weight.grad is not None
    assert model.item.weight.grad is not None
    matrix = data.matrix().toarray()
    reached = {user, *np.flatnonzero(matrix[:, [positive, negative]].any(1)).tolist()}
    assert set(model.user.weight.grad.any(1).nonzero().flatten().tolist()) == reached
    reached = {positive, negative, *np.flatnonzero(matrix[user]).tolist()}
    assert set(model.item.weight.grad.any(1).nonzero().flatten().tolist()) == reached


def test_size_state_and_initial_weights(data):
    model = make(data)
    assert parameter_count(model) == (N_USERS + N_ITEMS) * DIM
    assert sorted(model.state_dict()) == ["item.weight", "user.weight"]
    large = LightGCN(LightGCN.Config(embedding_dim=512), data)
    assert float(large.user.weight.detach().std()) == pytest.approx(INITIAL_STD, rel=0.05)


def test_bad_number_of_layers():
    with pytest.raises(ValidationError, match="n_layers"):
        LightGCN.Config(n_layers=-1)
