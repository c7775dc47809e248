"""PureSVD against numpy's decomposition."""

import numpy as np
import pytest
import torch

from recbench.errors import UsageError
from recbench.models.cf.puresvd import PureSVD
from recbench.tasks.batches import Ragged
from recbench.tasks.interactions import TopNData, UserBatch

DIM = 5


@pytest.fixture(params=[(40, 25), (25, 40)])
def interactions(request: pytest.FixtureRequest) -> np.ndarray:
    return np.random.default_rng(8).random(request.param) < 0.3


@pytest.fixture
def data(interactions: np.ndarray) -> TopNData:
    users, items = np.nonzero(interactions)
    return TopNData(*interactions.shape, torch.from_numpy(users), torch.from_numpy(items))


def fitted(data: TopNData, **config: object) -> PureSVD:
    model = PureSVD(PureSVD.Config(**config), data)
    model.fit(data)
    return model


def test_scores_are_the_best_approximation_of_that_rank(data: TopNData, interactions: np.ndarray) -> None:
    left, values, right = np.linalg.svd(interactions.astype(float), full_matrices=False)
    expected = (left[:, :DIM] * values[:DIM]) @ right[:DIM]
    found = fitted(data, embedding_dim=DIM).score(data.user_batch(torch.arange(data.n_users)))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_scores_rows_of_users_never_seen(data: TopNData, interactions: np.ndarray) -> None:
    right = np.linalg.svd(interactions.astype(float))[2][:DIM]
    stranger = UserBatch(torch.tensor([10**6]), Ragged(torch.tensor([0, 4]), torch.tensor([0, 2])), data.n_items)
    projection = right.T @ right
    found = fitted(data, embedding_dim=DIM).score(stranger)[0]
    np.testing.assert_allclose(found, projection[0] + projection[4], atol=1e-6)


def test_all_seeds_give_the_same_model(data: TopNData) -> None:
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        models.append(fitted(data, embedding_dim=DIM))
    assert torch.equal(models[0].item_vectors, models[1].item_vectors)


@pytest.mark.parametrize("dim", [25, 50])
def test_a_rank_that_the_data_do_not_have(data: TopNData, dim: int) -> None:
    with pytest.raises(UsageError, match=f"embedding_dim: expected less than the smaller of .* items, found {dim}"):
        PureSVD(PureSVD.Config(embedding_dim=dim), data)
