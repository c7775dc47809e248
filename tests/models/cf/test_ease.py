"""EASE equals column-wise ridge regression without the own item."""

import numpy as np
import pytest
import torch

from recbench.models.cf.ease import EASE
from recbench.tasks.batches import Ragged
from recbench.tasks.interactions import TopNData, UserBatch

L2 = 3.0


@pytest.fixture
def interactions() -> np.ndarray:
    return np.random.default_rng(5).random((30, 12)) < 0.3


@pytest.fixture
def data(interactions: np.ndarray) -> TopNData:
    users, items = np.nonzero(interactions)
    return TopNData(*interactions.shape, torch.from_numpy(users), torch.from_numpy(items))


@pytest.fixture
def model(data: TopNData) -> EASE:
    model = EASE(EASE.Config(l2=L2), data)
    model.fit(data)
    return model


def ridge_by_column(x: np.ndarray) -> np.ndarray:
    n_items = x.shape[1]
    weight = np.zeros((n_items, n_items))
    for j in range(n_items):
        others = np.delete(np.arange(n_items), j)
        a = x[:, others]
        weight[others, j] = np.linalg.solve(a.T @ a + L2 * np.eye(n_items - 1), a.T @ x[:, j])
    return weight


def test_weights_are_those_of_ridge_regression(interactions: np.ndarray, data: TopNData) -> None:
    model = EASE(EASE.Config(l2=L2), data).double()
    model.fit(data)
    np.testing.assert_allclose(model.weight.numpy(), ridge_by_column(interactions.astype(float)), atol=1e-8)


def test_no_item_predicts_itself(model: EASE) -> None:
    assert not model.weight.diagonal().any()
    assert model.weight.dtype == torch.float32


def test_scores_rows_of_users_never_seen(model: EASE, interactions: np.ndarray) -> None:
    stranger = UserBatch(torch.tensor([10**6, 10**6 + 1]), Ragged(torch.tensor([2, 5]), torch.tensor([0, 0, 2])), 12)
    weight = ridge_by_column(interactions.astype(float))
    np.testing.assert_allclose(model.score(stranger).numpy(), [np.zeros(12), weight[2] + weight[5]], atol=1e-6)


def test_all_seeds_give_the_same_model(data: TopNData, model: EASE) -> None:
    torch.manual_seed(99)
    other = EASE(EASE.Config(l2=L2), data)
    other.fit(data)
    assert EASE.deterministic
    assert torch.equal(other.weight, model.weight)
