"""EASE equals column-wise ridge regression without the own item."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from recbench.errors import RecbenchError
from recbench.models.cf import ease
from recbench.models.cf.ease import EASE
from recbench.tasks.batches import Ragged
from recbench.tasks.interactions import TopNData, UserBatch
from recbench.tasks.topn import TopNTask

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


@pytest.mark.parametrize("block", [1024, 5])
def test_large_catalogues_are_solved_in_place(
    data: TopNData, model: EASE, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ease, "DOUBLE_NUMBERS", 0)
    monkeypatch.setattr(ease, "BLOCK", block)
    other = EASE(EASE.Config(l2=L2), data)
    place = other.weight.data_ptr()
    other.fit(data)
    assert other.weight.data_ptr() == place
    torch.testing.assert_close(other.weight, model.weight, atol=1e-6, rtol=1e-5)


def test_float32_is_enough_for_real_data(task_of: Callable[[str], TopNTask], monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of("topn/ml-100k")
    metrics = []
    for numbers in (2**29, 0):
        monkeypatch.setattr(ease, "DOUBLE_NUMBERS", numbers)
        model = EASE(EASE.Config(l2=10.0), task.data)
        model.fit(task.data)
        metrics.append(task.watch(model))
    assert metrics[1] == pytest.approx(metrics[0], abs=5e-5)


def test_a_penalty_lost_in_rounding_is_an_error() -> None:
    twins = TopNData(20, 2, torch.arange(20).repeat_interleave(2), torch.tensor([0, 1]).repeat(20))
    with pytest.raises(RecbenchError, match="l2: 1e-30 is too small to solve for the weights of ease; raise it"):
        EASE(EASE.Config(l2=1e-30), twins).fit(twins)
