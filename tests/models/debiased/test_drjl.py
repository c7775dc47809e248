"""DR-JL: its two losses by their equations, who is trained by which, and what makes it doubly robust."""

import numpy as np
import pytest
import torch

from recbench.models.base import parameter_count
from recbench.models.debiased.drjl import DRJL
from recbench.models.debiased.naivemf import NaiveMF
from recbench.tasks.rating import RatingBatch, RatingData

N_USERS, N_ITEMS = 12, 15


@pytest.fixture
def data() -> RatingData:
    rng = np.random.default_rng(6)
    users, items = (torch.from_numpy(ids) for ids in np.nonzero(rng.random((N_USERS, N_ITEMS)) < 0.4))
    labels = torch.from_numpy(rng.integers(0, 2, len(users))).float()
    propensities = torch.from_numpy(rng.uniform(0.1, 0.8, (N_USERS, N_ITEMS))).float()
    return RatingData(N_USERS, N_ITEMS, users, items, labels, propensities, 0.4)


@pytest.fixture
def model(data: RatingData) -> DRJL:
    torch.manual_seed(7)
    made = DRJL(DRJL.Config(embedding_dim=3, propensity="known", batch_size=16, clip=0.0), data)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, logits) - labels * logits


def matrices(model: DRJL) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the prediction and pseudo-labels of the imputation model for all pairs, shape (U, I)."""
    users, items = torch.arange(N_USERS * N_ITEMS) // N_ITEMS, torch.arange(N_USERS * N_ITEMS) % N_ITEMS
    with torch.no_grad():
        logits, pseudo = model.prediction(users, items), model.imputation(users, items).sigmoid()
    return logits.double().numpy().reshape(N_USERS, -1), pseudo.double().numpy().reshape(N_USERS, -1)


def test_prediction_loss_by_numpy(model: DRJL, data: RatingData) -> None:
    """(1 / (G B)) [sum over B of O of (e - ehat) / p + sum over G B of D of ehat], G = |D| / |O|."""
    batch: RatingBatch = next(data.ratings(16, 4).epoch(torch.Generator().manual_seed(0)))
    logits, pseudo = matrices(model)
    observed, space = (batch.users, batch.items), (batch.space_users, batch.space_items)
    assert data.propensities is not None
    p = data.propensities.double().numpy()[observed]
    errors = cross_entropy(logits[observed], batch.labels.numpy())
    imputed = cross_entropy(logits, pseudo)
    ratio = data.n_pairs / len(data.users)
    expected = ((errors - imputed[observed]) / p).sum() / (ratio * 16) + imputed[space].mean()
    assert float(model.prediction_loss(batch).detach()) == pytest.approx(expected, rel=1e-5)


def test_imputation_loss_by_numpy(model: DRJL, data: RatingData) -> None:
    batch: RatingBatch = next(data.ratings(16).epoch(torch.Generator().manual_seed(0)))
    logits, pseudo = matrices(model)
    observed = (batch.users, batch.items)
    assert data.propensities is not None
    p = data.propensities.double().numpy()[observed]
    missed = cross_entropy(logits[observed], batch.labels.numpy()) - cross_entropy(logits, pseudo)[observed]
    expected = (missed**2 / p).sum() / 16 / (data.n_pairs / len(data.users))
    assert float(model.imputation_loss(batch).detach()) == pytest.approx(expected, rel=1e-5)


def test_perfect_imputation_has_no_error_whatever_is_observed(model: DRJL, data: RatingData) -> None:
    """Pseudo-labels that are the true labels give the mean error over all pairs, with wrong propensities as well."""
    rng = np.random.default_rng(0)
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], N_USERS)), torch.from_numpy(rng.choice([-1.0, 1.0], N_ITEMS))
    truth = (torch.outer(*signs) > 0).float()
    with torch.no_grad():
        for parameter in model.imputation.parameters():
            parameter.zero_()
        model.imputation.users.weight[:, 0] = 20 * signs[0]
        model.imputation.items.weight[:, 0] = 20 * signs[1]
    ideal = cross_entropy(matrices(model)[0], truth.numpy()).mean()
    everything = torch.arange(data.n_pairs)
    for _ in range(5):
        users, items = (torch.from_numpy(ids) for ids in np.nonzero(rng.random((N_USERS, N_ITEMS)) < rng.random()))
        batch = RatingBatch(users, items, truth[users, items], everything // N_ITEMS, everything % N_ITEMS)
        assert float(model.prediction_loss(batch).detach()) == pytest.approx(ideal, rel=1e-5)
        assert float(model.imputation_loss(batch).detach()) == pytest.approx(0, abs=1e-9)


def test_each_phase_trains_its_own_model(model: DRJL, data: RatingData) -> None:
    (stage,) = model.procedure(data)
    assert stage.alternate
    assert [phase.name for phase in stage.steps] == ["prediction", "imputation"]
    for phase, other in zip(stage.steps, ("imputation", "prediction"), strict=True):
        model.zero_grad()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        optimizer = torch.optim.Adam(phase.parameters, phase.learning_rate, weight_decay=phase.weight_decay)
        phase.loss(next(phase.batches.epoch(torch.Generator()))).backward()
        optimizer.step()
        for name, value in model.named_parameters():
            assert (value.grad is None) == name.startswith(other), name
            assert torch.equal(value, before[name]) == name.startswith(other), name


def test_batches_of_the_phases(model: DRJL, data: RatingData) -> None:
    """As many steps each; only the prediction step needs pairs of the whole space."""
    (stage,) = model.procedure(data)
    prediction, imputation = (list(phase.batches.epoch(torch.Generator())) for phase in stage.steps)
    assert len(prediction) == len(imputation) == -(-len(data.users) // 16)
    assert all(len(batch.space_users) == 4 * len(batch) for batch in prediction)
    assert all(len(batch.space_users) == 0 for batch in imputation)


def test_is_two_factorisations(model: DRJL, data: RatingData) -> None:
    single = NaiveMF(NaiveMF.Config(embedding_dim=3), data)
    assert parameter_count(model) == 2 * parameter_count(single)
    users = torch.arange(N_USERS)
    single.prediction.load_state_dict(model.prediction.state_dict())
    assert torch.equal(model.predict(users, users), single.predict(users, users))
