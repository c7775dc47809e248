"""Item-kNN against similarities computed densely in numpy."""

import numpy as np
import pytest
import torch

from recbench.models.cf import itemknn
from recbench.models.cf.itemknn import ItemKNN
from recbench.tasks.batches import Ragged
from recbench.tasks.interactions import TopNData, UserBatch

N_USERS, N_ITEMS = 40, 25


@pytest.fixture
def interactions() -> np.ndarray:
    world = np.random.default_rng(3).random((N_USERS, N_ITEMS)) < 0.25
    world[:, 7] = False  # an item nobody has
    return world


@pytest.fixture
def data(interactions: np.ndarray) -> TopNData:
    users, items = np.nonzero(interactions)
    return TopNData(N_USERS, N_ITEMS, torch.from_numpy(users), torch.from_numpy(items))


def fitted(data: TopNData, **config: object) -> ItemKNN:
    model = ItemKNN(ItemKNN.Config(**config), data)
    model.fit(data)
    return model


def similarities(x: np.ndarray, shrink: float, k: int) -> np.ndarray:
    norms = np.sqrt((x**2).sum(0))
    denominators = np.outer(norms, norms) + shrink
    s = np.divide(x.T @ x, denominators, out=np.zeros_like(denominators), where=denominators > 0)
    np.fill_diagonal(s, 0)
    smallest_kept = np.sort(s, axis=1)[:, -k]
    return np.where(s >= smallest_kept[:, None], s, 0)


@pytest.mark.parametrize("block", [1024, 7])
@pytest.mark.parametrize("shrink", [0.0, 5.0])
def test_all_neighbours(
    data: TopNData, interactions: np.ndarray, shrink: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(itemknn, "BLOCK", block)
    x = interactions.astype(float)
    model = fitted(data, neighbours=10_000, shrink=shrink, weighting="none")
    expected = x @ similarities(x, shrink, N_ITEMS)
    np.testing.assert_allclose(model.score(data.user_batch(torch.arange(N_USERS))), expected, atol=1e-5)


def test_weights_by_tfidf_keep_the_k_most_similar(data: TopNData, interactions: np.ndarray) -> None:
    x = interactions.astype(float)
    weighted = x * np.log(N_ITEMS / (1 + x.sum(1, keepdims=True)))
    model = fitted(data, neighbours=4, shrink=2.0, weighting="tfidf")
    expected = x @ similarities(weighted, 2.0, 4).T
    np.testing.assert_allclose(model.score(data.user_batch(torch.arange(N_USERS))), expected, atol=1e-5)
    assert model.neighbours.shape == (N_ITEMS, 4)


def test_an_item_nobody_has_is_nobodys_neighbour(data: TopNData) -> None:
    model = fitted(data, neighbours=5, shrink=0.0, weighting="none")
    assert not model.similarities[7].any()
    assert not model.similarities[model.neighbours == 7].any()


def test_scores_rows_of_users_never_seen(data: TopNData, interactions: np.ndarray) -> None:
    model = fitted(data, neighbours=N_ITEMS, shrink=1.0, weighting="none")
    stranger = UserBatch(torch.tensor([10**6]), Ragged(torch.tensor([0, 3]), torch.tensor([0, 2])), N_ITEMS)
    s = similarities(interactions.astype(float), 1.0, N_ITEMS)
    np.testing.assert_allclose(model.score(stranger)[0], s[0] + s[3], atol=1e-6)
