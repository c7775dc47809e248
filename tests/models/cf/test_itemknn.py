"""Item-kNN against similarities computed densely in numpy."""

import itertools

import numpy as np
import pytest
import torch

from recbench.models.cf.itemknn import ItemKNN
from recbench.models.layers import neighbours
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


def scores(model: ItemKNN, data: TopNData) -> torch.Tensor:
    return model.score(data.user_batch(torch.arange(N_USERS)))


def weighted(x: np.ndarray, weighting: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted interactions and the factors of the items, both float64."""
    idf = np.log(N_ITEMS / (1 + x.sum(1))) if weighting != "none" else np.ones(len(x))
    lengths = x.sum(0)
    bm25 = 2.2 / (1.2 * (0.25 + 0.75 * lengths / lengths.mean()) + 1)
    factors = bm25 if weighting == "bm25" else np.ones(x.shape[1])
    return x * idf[:, None] * factors, factors


def similarities(x: np.ndarray, shrink: float, k: int, kind: str = "cosine") -> np.ndarray:
    products, squares = x.T @ x, (x**2).sum(0)
    if kind == "cosine":
        denominators = np.sqrt(np.outer(squares, squares)) + shrink
    else:
        denominators = squares[:, None] + squares - products + shrink
    s = np.divide(products, denominators, out=np.zeros_like(denominators), where=denominators > 0)
    np.fill_diagonal(s, 0)
    for row in s:
        row[np.argsort(row.astype(np.float32), kind="stable")[:-k]] = 0
    return s


@pytest.mark.parametrize("at_once", [2**22, 100])
@pytest.mark.parametrize("shrink", [0.0, 5.0])
def test_all_neighbours(
    data: TopNData, interactions: np.ndarray, shrink: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "ENTRIES_AT_ONCE", at_once)
    x = interactions.astype(float)
    model = fitted(data, neighbours=10_000, shrink=shrink, weighting="none")
    np.testing.assert_allclose(scores(model, data), x @ similarities(x, shrink, N_ITEMS), atol=1e-6)


@pytest.mark.parametrize(
    ("weighting", "kind", "normalise"),
    list(itertools.product(["none", "tfidf", "bm25"], ["cosine", "jaccard"], [False, True])),
)
def test_recomputed_from_the_equations(
    data: TopNData, interactions: np.ndarray, weighting: str, kind: str, normalise: bool
) -> None:
    x = interactions.astype(float)
    rows, factors = weighted(x, weighting)
    # Without weights many similarities are equal but for rounding, which would decide what is kept.
    k = N_ITEMS if weighting == "none" else 6
    s = similarities(rows, 2.0, k, kind)
    if normalise:
        s /= np.maximum(s.sum(1, keepdims=True), 1e-12)
    model = fitted(data, neighbours=k, shrink=2.0, weighting=weighting, similarity=kind, normalise=normalise)
    np.testing.assert_allclose(scores(model, data), (x * factors) @ s.T, atol=1e-6)


def test_deviations_from_the_means(data: TopNData, interactions: np.ndarray) -> None:
    # The form of BARS, over the whole matrix: S (X' - m) + m with rows of S that sum to one.
    x = interactions.astype(float)
    s = similarities(x, 0.0, N_ITEMS)
    s /= np.maximum(s.sum(1, keepdims=True), 1e-12)
    means = x.mean(0)
    model = fitted(data, neighbours=N_ITEMS, weighting="none", normalise=True, deviations=True)
    np.testing.assert_allclose(scores(model, data), (s @ (x - means).T + means[:, None]).T, atol=1e-6)


def test_bm25_is_tfidf_up_to_a_factor_an_item_which_shrinkage_does_not_cancel(data: TopNData) -> None:
    plain = fitted(data, neighbours=4, weighting="tfidf").weights.matrix().toarray()
    ratio = fitted(data, neighbours=4, weighting="bm25").weights.matrix().toarray()
    there = plain > 0
    assert np.array_equal(there, ratio > 0)
    # Of every item that is had, one factor on all its weights.
    for row in np.flatnonzero(there.any(1)):
        factors = ratio[row][there[row]] / plain[row][there[row]]
        np.testing.assert_allclose(factors, factors[0], rtol=1e-5)
    shrunk = [fitted(data, neighbours=4, weighting=name, shrink=20.0).weights.matrix() for name in ("tfidf", "bm25")]
    assert not np.array_equal(shrunk[0].toarray() > 0, shrunk[1].toarray() > 0)


def test_an_item_nobody_has_is_nobodys_neighbour(data: TopNData) -> None:
    matrix = fitted(data, neighbours=5, shrink=0.0, weighting="none").weights.matrix().toarray()
    assert not matrix[7].any()
    assert not matrix[:, 7].any()


def test_users_with_nearly_everything_say_nothing() -> None:
    # Both users have three of four items, so that their idf is log(4 / 4) = 0 and there is nothing to divide.
    data = TopNData(2, 4, torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 2, 1, 2, 3]))
    model = fitted(data, weighting="tfidf")
    assert not model.score(data.user_batch(torch.arange(2))).any()


def test_scores_rows_of_users_never_seen(data: TopNData, interactions: np.ndarray) -> None:
    model = fitted(data, neighbours=N_ITEMS, shrink=1.0, weighting="none")
    stranger = UserBatch(torch.tensor([10**6]), Ragged(torch.tensor([0, 3]), torch.tensor([0, 2])), N_ITEMS)
    s = similarities(interactions.astype(float), 1.0, N_ITEMS)
    np.testing.assert_allclose(model.score(stranger)[0], s[0] + s[3], atol=1e-6)
