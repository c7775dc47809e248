"""P3alpha: with alpha 1 and all neighbours, the probabilities of a random walk."""

import numpy as np
import pytest
import torch

from recbench.models.cf.p3alpha import P3Alpha
from recbench.tasks.batches import Ragged
from recbench.tasks.interactions import TopNData, UserBatch

N_USERS, N_ITEMS = 30, 20


@pytest.fixture
def interactions() -> np.ndarray:
    world = np.random.default_rng(6).random((N_USERS, N_ITEMS)) < 0.3
    world[:, 7] = False
    world[3] = False
    return world


@pytest.fixture
def data(interactions: np.ndarray) -> TopNData:
    users, items = np.nonzero(interactions)
    return TopNData(N_USERS, N_ITEMS, torch.from_numpy(users), torch.from_numpy(items))


def fitted(data: TopNData, **config: object) -> P3Alpha:
    model = P3Alpha(P3Alpha.Config(**config), data)
    model.fit(data)
    return model


def walks(x: np.ndarray, alpha: float) -> np.ndarray:
    """Return the weights of walks of two steps between different items, (I, I)."""
    from_user = (x / np.maximum(x.sum(1, keepdims=True), 1)) ** alpha
    from_item = (x.T / np.maximum(x.T.sum(1, keepdims=True), 1)) ** alpha
    w = np.where(x.T > 0, from_item, 0) @ np.where(x > 0, from_user, 0)
    np.fill_diagonal(w, 0)
    return w


def test_is_the_probability_of_three_steps(data: TopNData, interactions: np.ndarray) -> None:
    x = interactions.astype(float)
    model = fitted(data, neighbours=N_ITEMS, alpha=1.0, normalise=False)
    first_step = x / np.maximum(x.sum(1, keepdims=True), 1)
    found = model.score(data.user_batch(torch.arange(N_USERS))).numpy() / np.maximum(x.sum(1, keepdims=True), 1)
    np.testing.assert_allclose(found, first_step @ walks(x, 1.0), atol=1e-6)
    # With the way back to where it came from, the walk ends somewhere for certain.
    whole = walks(x, 1.0) + np.diag((x / np.maximum(x.sum(1, keepdims=True), 1) / np.maximum(x.sum(0), 1)).sum(0))
    np.testing.assert_allclose((first_step @ whole).sum(1)[x.any(1)], 1)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.7])
@pytest.mark.parametrize("normalise", [False, True])
def test_recomputed_from_the_equations(data: TopNData, interactions: np.ndarray, alpha: float, normalise: bool) -> None:
    x = interactions.astype(float)
    w = walks(x, alpha)
    if normalise:
        w /= np.maximum(w.sum(1, keepdims=True), 1e-12)
    model = fitted(data, neighbours=N_ITEMS, alpha=alpha, normalise=normalise)
    np.testing.assert_allclose(model.weights.matrix().toarray(), w, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(model.score(data.user_batch(torch.arange(N_USERS))), x @ w, rtol=1e-5, atol=1e-6)


def test_keeps_the_largest_of_every_start_and_then_of_every_end(data: TopNData, interactions: np.ndarray) -> None:
    k, w = 4, walks(interactions.astype(float), 1.0)
    found = fitted(data, neighbours=k, normalise=False).weights.matrix().toarray()
    kept = found > 0
    np.testing.assert_allclose(found[kept], w[kept], rtol=1e-5)
    assert kept.sum(0).max() == k
    assert kept.sum(1).max() == k
    # Whatever was dropped is not above the k-th largest of its start or of its end, which equal values may share.
    of_start = np.sort(w, axis=1)[:, -k, None]
    of_end = np.sort(np.where(w >= of_start, w, 0), axis=0)[-k]
    assert (w <= np.maximum(of_start, of_end) + 1e-6)[~kept].all()


def test_scores_rows_of_users_never_seen(data: TopNData, interactions: np.ndarray) -> None:
    model = fitted(data, neighbours=N_ITEMS, normalise=False)
    stranger = UserBatch(torch.tensor([10**6]), Ragged(torch.tensor([0, 4]), torch.tensor([0, 2])), N_ITEMS)
    w = walks(interactions.astype(float), 1.0)
    np.testing.assert_allclose(model.score(stranger)[0], w[0] + w[4], atol=1e-6)
