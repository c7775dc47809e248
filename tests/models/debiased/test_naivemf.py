"""Naive MF against its equation, and what the factorisation beneath all models of the family is."""

import numpy as np
import pytest
import torch

from recbench.models.base import parameter_count
from recbench.models.debiased.naivemf import NaiveMF
from recbench.tasks.rating import RatingBatch, RatingData

N_USERS, N_ITEMS, DIM = 7, 9, 4


@pytest.fixture
def data() -> RatingData:
    rng = np.random.default_rng(1)
    users, items = (torch.from_numpy(ids) for ids in np.nonzero(rng.random((N_USERS, N_ITEMS)) < 0.5))
    labels = torch.from_numpy(rng.integers(0, 2, len(users))).float()
    return RatingData(N_USERS, N_ITEMS, users, items, labels, None, 0.4)


def make(data: RatingData, **config: object) -> NaiveMF:
    torch.manual_seed(3)
    model = NaiveMF(NaiveMF.Config(embedding_dim=DIM, **config), data)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


@pytest.mark.parametrize("biases", [True, False])
def test_predictions_and_loss_by_numpy(data: RatingData, biases: bool) -> None:
    model = make(data, biases=biases)
    state = {name: value.double().numpy() for name, value in model.state_dict().items()}
    logits = state["prediction.users.weight"] @ state["prediction.items.weight"].T
    if biases:
        logits += state["prediction.biases.offset"]
        logits += state["prediction.biases.users"][:, None] + state["prediction.biases.items"]
    chances = 1 / (1 + np.exp(-logits))[data.users, data.items]
    batch = next(data.ratings(len(data.users)).epoch(torch.Generator()))
    labels = data.labels.numpy()
    assert torch.allclose(model.predict(data.users, data.items).double(), torch.from_numpy(chances), atol=1e-6)
    expected = -(labels * np.log(chances) + (1 - labels) * np.log(1 - chances)).mean()
    assert float(model.loss(batch).detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("biases", [True, False])
def test_number_of_parameters(data: RatingData, biases: bool) -> None:
    expected = (N_USERS + N_ITEMS) * (DIM + biases) + biases
    assert parameter_count(make(data, biases=biases)) == expected


def test_starts_undecided(data: RatingData) -> None:
    torch.manual_seed(0)
    start = NaiveMF(NaiveMF.Config(), data).predict(data.users, data.items)
    assert torch.allclose(start, torch.tensor(0.5), atol=0.05)
    assert float(start.std().detach()) > 0


def test_batches_are_every_observed_pair_once(data: RatingData) -> None:
    batches: list[RatingBatch] = list(make(data, batch_size=5).batches(data).epoch(torch.Generator()))
    found = torch.cat([batch.users * N_ITEMS + batch.items for batch in batches])
    assert torch.equal(found.sort().values, (data.users * N_ITEMS + data.items).sort().values)
    assert all(len(batch.space_users) == 0 for batch in batches)
