"""RP3beta: P3alpha, divided by powers of popularity."""

import numpy as np
import pytest
import torch

from recbench.models.cf.p3alpha import P3Alpha
from recbench.models.cf.rp3beta import RP3Beta
from recbench.tasks.interactions import TopNData

N_USERS, N_ITEMS = 30, 20


@pytest.fixture
def interactions() -> np.ndarray:
    world = np.random.default_rng(7).random((N_USERS, N_ITEMS)) < np.linspace(0.1, 0.7, N_ITEMS)
    world[:, 7] = False
    return world


@pytest.fixture
def data(interactions: np.ndarray) -> TopNData:
    users, items = np.nonzero(interactions)
    return TopNData(N_USERS, N_ITEMS, torch.from_numpy(users), torch.from_numpy(items))


@pytest.mark.parametrize("normalise", [False, True])
def test_without_beta_it_is_p3alpha(data: TopNData, normalise: bool) -> None:
    everybody = data.user_batch(torch.arange(N_USERS))
    scores = []
    for model_class, extra in ((P3Alpha, {}), (RP3Beta, {"beta": 0.0})):
        config = model_class.Config(neighbours=6, alpha=0.8, normalise=normalise, **extra)
        model = model_class(config, data)
        model.fit(data)
        scores.append(model.score(everybody))
    assert torch.equal(*scores)


@pytest.mark.parametrize("beta", [0.3, 1.4])
@pytest.mark.parametrize("normalise", [False, True])
def test_recomputed_from_the_equations(data: TopNData, interactions: np.ndarray, beta: float, normalise: bool) -> None:
    x, alpha, k = interactions.astype(float), 0.7, 5
    popularity = np.maximum(x.sum(0), 1)
    from_user = x * np.maximum(x.sum(1, keepdims=True), 1) ** -alpha
    from_item = x.T * popularity[:, None] ** -alpha
    w = (from_item @ from_user) * popularity**-beta
    np.fill_diagonal(w, 0)
    w[w < np.sort(w, axis=1)[:, -k, None]] = 0
    if normalise:
        w /= np.maximum(w.sum(1, keepdims=True), 1e-12)
    w[w < np.sort(w, axis=0)[-k]] = 0
    model = RP3Beta(RP3Beta.Config(neighbours=k, alpha=alpha, beta=beta, normalise=normalise), data)
    model.fit(data)
    found = model.score(data.user_batch(torch.arange(N_USERS)))
    np.testing.assert_allclose(found, x @ w, rtol=1e-5, atol=1e-6)


def test_a_larger_beta_recommends_less_popular_items(data: TopNData, interactions: np.ndarray) -> None:
    popularity = torch.from_numpy(interactions.sum(0)).double()
    means = []
    for beta in (0.0, 0.6, 1.5):
        model = RP3Beta(RP3Beta.Config(neighbours=N_ITEMS, beta=beta), data)
        model.fit(data)
        scores = model.score(data.user_batch(torch.arange(N_USERS)))
        scores[torch.from_numpy(interactions)] = -torch.inf
        means.append(float(popularity[scores.topk(3).indices].mean()))
    assert means[0] > means[1] > means[2]
