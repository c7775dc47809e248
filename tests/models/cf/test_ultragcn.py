"""UltraGCN's weights, item-item graph and loss, written out in numpy (float64)."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from recbench.errors import UsageError
from recbench.models.base import parameter_count
from recbench.models.cf import ultragcn
from recbench.models.cf.ultragcn import UltraGCN, nearest_items
from recbench.tasks.interactions import PairBatch, TopNData

N_USERS, N_ITEMS, DIM, NEAREST = 14, 11, 5, 3
Array = NDArray[np.float64]


@pytest.fixture
def data() -> TopNData:
    interactions = torch.rand(N_USERS, N_ITEMS, generator=torch.Generator().manual_seed(5)) < 0.4
    interactions[3], interactions[:, 6] = False, False  # a user and an item without interactions
    users, items = interactions.nonzero().T.contiguous()
    return TopNData(N_USERS, N_ITEMS, users, items)


def make(data: TopNData, **config: object) -> UltraGCN:
    torch.manual_seed(2)
    values: dict[str, object] = {"embedding_dim": DIM, "initial_std": 1.0, "neighbours": NEAREST}
    if config.get("sampler") != "all":
        values["num_negatives"] = 4
    return UltraGCN(UltraGCN.Config(**values | config), data).double()


def log_sigmoid(x: Array) -> Array:
    return -np.log1p(np.exp(-x))


def betas(data: TopNData) -> Array:
    x = data.matrix(np.float64).toarray()
    of_users, of_items = x.sum(1), x.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        beta: Array = (np.sqrt(of_users + 1) / of_users)[:, None] / np.sqrt(of_items + 1)
    return beta


def omegas(data: TopNData) -> Array:
    x = data.matrix(np.float64).toarray()
    together = x.T @ x
    g = together.sum(1)
    omega = np.zeros_like(together)
    for i in range(N_ITEMS):
        for j in range(N_ITEMS):
            if g[i]:
                omega[i, j] = together[i, j] * np.sqrt(g[i] + 1) / (g[i] * np.sqrt(g[j] + 1))
    return omega


@pytest.mark.parametrize("common", [True, False])
def test_loss_is_the_code_s(data: TopNData, common: bool) -> None:
    weights = {"w1": 0.02, "w2": 0.7, "w3": 0.03, "w4": 1.3, "negative_weight": 30.0, "neighbour_weight": 2.5}
    model = make(data, **weights)
    rng = np.random.default_rng(1)
    chosen = rng.integers(0, len(data.users), 6)
    u, i = data.users.numpy()[chosen], data.items.numpy()[chosen]
    j = rng.integers(0, N_ITEMS, 4 if common else (6, 4))
    e_u, e_i = model.user.weight.detach().numpy(), model.item.weight.detach().numpy()
    beta, omega = betas(data), omegas(data)
    expected = 0.0
    for row in range(6):
        scores = e_i @ e_u[u[row]]
        expected -= (0.02 + 0.7 * beta[u[row], i[row]]) * log_sigmoid(scores[i[row]])
        others = j if common else j[row]
        expected -= 30 * ((0.03 + 1.3 * beta[u[row], others]) * log_sigmoid(-scores[others])).mean()
        near = model.neighbours[i[row]].numpy()  # of equal omegas either may be taken
        expected -= 2.5 * (omega[i[row], near] * log_sigmoid(scores[near])).sum()
    batch = PairBatch(*(torch.from_numpy(ids) for ids in (u, i, j)))
    assert float(model.loss(batch).detach()) == pytest.approx(expected, rel=1e-6)


def test_nearest_items(data: TopNData, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = -np.sort(-omegas(data), axis=1)[:, :NEAREST]
    for block in (4, 512):
        monkeypatch.setattr(ultragcn, "BLOCK", block)
        items, omega = nearest_items(data, NEAREST)
        np.testing.assert_allclose(omega, expected, rtol=1e-6)
        np.testing.assert_allclose(omegas(data)[np.arange(N_ITEMS)[:, None], items], expected, rtol=1e-6)
    # An item is its own neighbour, one without interactions has none that weighs anything.
    assert all(i in items[i] for i in data.items.tolist())
    assert not omega[6].any()
    assert nearest_items(data, 1000)[0].shape == (N_ITEMS, N_ITEMS)


def test_all_negatives_are_the_expectation_of_shared_ones(data: TopNData) -> None:
    model = make(data, sampler="all")
    (batch, *_) = model.batches(data).epoch(torch.Generator().manual_seed(0))
    everything = float(model.loss(batch).detach())
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randint(N_ITEMS, (500,), generator=generator) for _ in range(400)]
    losses = [float(model.loss(PairBatch(batch.users, batch.positives, items)).detach()) for items in drawn]
    assert np.mean(losses) == pytest.approx(everything, abs=4 * np.std(losses) / np.sqrt(400))


def test_samplers(data: TopNData) -> None:
    shapes = {"shared": (4,), "uniform": (5, 4), "all": (N_ITEMS,)}
    for sampler, shape in shapes.items():
        (batch, *_) = make(data, sampler=sampler, batch_size=5).batches(data).epoch(torch.Generator().manual_seed(0))
        assert batch.negatives.shape == shape
    with pytest.raises(UsageError, match=r"^num_negatives: expected only with sampler = .*, found sampler = all"):
        UltraGCN.Config.parse({"sampler": "all", "num_negatives": 3}, "the test")
    with pytest.raises(UsageError, match="sampler"):
        UltraGCN.Config.parse({"sampler": "in-batch"}, "the test")


def test_with_equal_weights_and_without_neighbours_it_is_logistic_matrix_factorisation(data: TopNData) -> None:
    plain = {"w1": 1.0, "w2": 0.0, "w3": 1.0, "w4": 0.0, "negative_weight": 4.0, "neighbour_weight": 0.0}
    model = make(data, sampler="uniform", **plain)
    (batch, *_) = model.batches(data).epoch(torch.Generator().manual_seed(0))
    user, item = model.user.weight.detach(), model.item.weight.detach()
    scores = user @ item.T
    positive = scores[batch.users, batch.positives]
    negative = scores[batch.users[:, None], batch.negatives]
    logits = torch.cat([positive, negative.flatten()])
    labels = torch.cat([torch.ones_like(positive), torch.zeros(negative.numel(), dtype=torch.float64)])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    assert float(model.loss(batch).detach()) == pytest.approx(float(expected), rel=1e-6)


def test_scores_and_size(data: TopNData) -> None:
    model = make(data)
    users = torch.tensor([3, 0, 9])
    expected = model.user.weight[users] @ model.item.weight.T
    torch.testing.assert_close(model.score(data.user_batch(users)), expected)
    assert parameter_count(model) == (N_USERS + N_ITEMS) * DIM
    assert set(model.state_dict()) == {"user.weight", "item.weight"}
