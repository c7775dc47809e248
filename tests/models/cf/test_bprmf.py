"""BPR-MF's loss, written out, and its special cases."""

import math

import numpy as np
import pytest
import torch

from recbench.models.base import parameter_count
from recbench.models.cf.bprmf import BPRMF
from recbench.tasks.interactions import PairBatch, TopNData

N_USERS, N_ITEMS, DIM = 6, 9, 4


@pytest.fixture
def data() -> TopNData:
    return TopNData(N_USERS, N_ITEMS, torch.arange(N_USERS), torch.arange(N_USERS))


def make(data: TopNData, **config: object) -> BPRMF:
    torch.manual_seed(2)
    model = BPRMF(BPRMF.Config(embedding_dim=DIM, **config), data)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(50)  # far from the flat part of the sigmoid
    return model


@pytest.mark.parametrize("negatives", [1, 3])
def test_loss_is_the_paper_s(data: TopNData, negatives: int) -> None:
    model = make(data, l2=0.1)
    rng = np.random.default_rng(0)
    u, i, j = rng.integers(0, 6, 5), rng.integers(0, 9, 5), rng.integers(0, 9, (5, negatives))
    batch = PairBatch(*(torch.from_numpy(ids) for ids in (u, i, j)))
    p, q = model.user.weight.detach().double().numpy(), model.item.weight.detach().double().numpy()
    difference = (p[u] * q[i]).sum(1)[:, None] - np.einsum("bd,bnd->bn", p[u], q[j])
    norms = (p[u] ** 2).sum() + (q[i] ** 2).sum() + (q[j] ** 2).sum()
    expected = -np.log(1 / (1 + np.exp(-difference))).mean() + 0.1 * 0.5 * norms / 5
    assert float(model.loss(batch).detach()) == pytest.approx(expected, rel=1e-5)


def test_a_pair_of_the_same_item_costs_log_2(data: TopNData) -> None:
    model = make(data, l2=0.0)
    batch = PairBatch(torch.tensor([1, 2]), torch.tensor([3, 4]), torch.tensor([[3], [4]]))
    assert float(model.loss(batch).detach()) == pytest.approx(math.log(2), rel=1e-6)


def test_only_the_embeddings_of_a_batch_get_a_gradient(data: TopNData) -> None:
    model = make(data, l2=0.1)
    model.loss(PairBatch(torch.tensor([1]), torch.tensor([3]), torch.tensor([[4]]))).backward()
    assert model.user.weight.grad is not None
    assert model.item.weight.grad is not None
    assert model.user.weight.grad.any(1).nonzero().flatten().tolist() == [1]
    assert model.item.weight.grad.any(1).nonzero().flatten().tolist() == [3, 4]


def test_a_step_raises_the_seen_item_above_the_unseen_one(data: TopNData) -> None:
    model = make(data, l2=0.0)
    batch = PairBatch(torch.tensor([1]), torch.tensor([3]), torch.tensor([[4]]))
    model.prepare_scoring()
    before = model.score(data.user_batch(torch.tensor([1])))[0].detach()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.loss(batch).backward()
    optimizer.step()
    model.prepare_scoring()
    after = model.score(data.user_batch(torch.tensor([1])))[0].detach()
    assert after[3] - after[4] > before[3] - before[4]


def test_size_and_samples(data: TopNData) -> None:
    model = make(data, num_negatives=3, batch_size=4)
    assert parameter_count(model) == (N_USERS + N_ITEMS) * DIM
    batches = list(model.batches(data).epoch(torch.Generator().manual_seed(0)))
    assert [batch.negatives.shape for batch in batches] == [(4, 3), (2, 3)]
