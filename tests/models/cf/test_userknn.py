"""User-kNN against similarities computed densely in numpy."""

import itertools

import numpy as np
import pytest
import torch

from recbench.models.cf.itemknn import ItemKNN
from recbench.models.cf.userknn import UserKNN
from recbench.tasks.batches import Ragged
from recbench.tasks.interactions import TopNData, UserBatch

N_USERS, N_ITEMS, N_TRAINED = 30, 25, 26


@pytest.fixture
def interactions() -> np.ndarray:
    world = np.random.default_rng(4).random((N_USERS, N_ITEMS)) < 0.3
    world[N_TRAINED:] = False  # users known by number alone, as where they are not in training
    return world


@pytest.fixture
def data(interactions: np.ndarray) -> TopNData:
    users, items = np.nonzero(interactions)
    return TopNData(N_USERS, N_ITEMS, torch.from_numpy(users), torch.from_numpy(items))


def fitted(data: TopNData, **config: object) -> UserKNN:
    model = UserKNN(UserKNN.Config(**config), data)
    model.fit(data)
    return model


def weighted(rows: np.ndarray, trained: np.ndarray, weighting: str) -> np.ndarray:
    idf = np.log(N_TRAINED / (1 + trained.sum(0))) if weighting != "none" else np.ones(N_ITEMS)
    lengths = rows.sum(1, keepdims=True)
    bm25 = 2.2 / (1.2 * (0.25 + 0.75 * lengths / (trained.sum() / N_TRAINED)) + 1)
    return rows * idf * (bm25 if weighting == "bm25" else 1)


def expected(
    rows: np.ndarray, own: np.ndarray, trained: np.ndarray, weighting: str, kind: str, shrink: float, k: int
) -> np.ndarray:
    left, right = weighted(rows, trained, weighting), weighted(trained, trained, weighting)
    products, squares = left @ right.T, np.add.outer((left**2).sum(1), (right**2).sum(1))
    if kind == "cosine":
        denominators = np.sqrt(np.outer((left**2).sum(1), (right**2).sum(1)))
    else:
        denominators = squares - products
    denominators += shrink
    s = np.divide(products, denominators, out=np.zeros_like(products), where=denominators > 0)
    for row, user in zip(s, own, strict=True):
        if user < len(trained):
            row[user] = 0
        row[np.argsort(row.astype(np.float32), kind="stable")[:-k]] = 0
    return s @ trained


@pytest.mark.parametrize(
    ("weighting", "kind", "shrink"),
    list(itertools.product(["none", "tfidf", "bm25"], ["cosine", "jaccard"], [0.0, 3.0])),
)
def test_recomputed_from_the_equations(
    data: TopNData, interactions: np.ndarray, weighting: str, kind: str, shrink: float
) -> None:
    x = interactions.astype(float)
    # Without weights many similarities are equal but for rounding, which would decide what is kept.
    k = N_USERS if weighting == "none" else 5
    model = fitted(data, neighbours=k, shrink=shrink, weighting=weighting, similarity=kind)
    found = model.score(data.user_batch(torch.arange(N_TRAINED)))
    np.testing.assert_allclose(
        found, expected(x[:N_TRAINED], np.arange(N_TRAINED), x, weighting, kind, shrink, k), atol=1e-6
    )


@pytest.mark.parametrize("weighting", ["tfidf", "bm25"])
@pytest.mark.parametrize("number", [N_TRAINED, 10**6])
def test_scores_users_who_are_not_in_training(
    data: TopNData, interactions: np.ndarray, weighting: str, number: int
) -> None:
    x, row = interactions.astype(float), np.zeros((1, N_ITEMS))
    row[0, [0, 3, 11]] = 1
    stranger = UserBatch(torch.tensor([number]), Ragged(torch.tensor([0, 3, 11]), torch.tensor([0, 3])), N_ITEMS)
    found = fitted(data, neighbours=4, weighting=weighting, shrink=1.0).score(stranger)
    np.testing.assert_allclose(found, expected(row, np.array([number]), x, weighting, "cosine", 1.0, 4), atol=1e-6)


def test_scores_do_not_depend_on_who_is_scored_with_whom(data: TopNData) -> None:
    model = fitted(data, neighbours=3, weighting="none")  # with many ties among the neighbours
    together = model.score(data.user_batch(torch.arange(N_USERS)))
    alone = [model.score(data.user_batch(torch.tensor([user]))) for user in range(N_USERS)]
    assert torch.equal(together, torch.cat(alone))


def test_users_without_history_have_no_neighbours(data: TopNData) -> None:
    assert not fitted(data).score(data.user_batch(torch.tensor([N_TRAINED]))).any()


@pytest.mark.parametrize("similarity", ["cosine", "jaccard"])
def test_similarities_are_item_knns_with_the_roles_exchanged(
    data: TopNData, interactions: np.ndarray, similarity: str
) -> None:
    """Item-kNN of the transposed world gives the similarities; the neighbours' rows, summed with them, the scores."""
    items, users = np.nonzero(interactions[:N_TRAINED].T)
    exchanged = TopNData(N_ITEMS, N_TRAINED, torch.from_numpy(items), torch.from_numpy(users))
    other = ItemKNN(ItemKNN.Config(neighbours=6, weighting="tfidf", similarity=similarity, shrink=1.0), exchanged)
    other.fit(exchanged)
    similarities = other.weights.matrix().T.toarray()
    model = fitted(data, neighbours=6, weighting="tfidf", similarity=similarity, shrink=1.0)
    found = model.score(data.user_batch(torch.arange(N_TRAINED)))
    np.testing.assert_allclose(found, similarities @ interactions[:N_TRAINED], atol=1e-6)
