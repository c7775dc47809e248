"""Mult-DAE against the paper's equations written out in numpy (float64); its blocks are tested with Mult-VAE."""

import numpy as np
import pytest
import torch

from recbench.models.base import parameter_count
from recbench.models.cf.multdae import MultDAE
from recbench.models.layers.autoencoder import BIAS_STD
from recbench.tasks.interactions import TopNData, UserBatch

N_USERS, N_ITEMS, WIDTH = 20, 15, 7
CLICKED, OTHER = 5.0, 0.5
LIKELIHOODS: dict[str, dict[str, object]] = {
    "multinomial": {},
    "gaussian": {"clicked_confidence": CLICKED, "other_confidence": OTHER},
    "logistic": {},
}


@pytest.fixture
def batch(data: TopNData) -> UserBatch:
    return data.user_batch(torch.tensor([4, 0, 11, 7]))


def dae(data: TopNData, **config: object) -> MultDAE:
    torch.manual_seed(1)
    return MultDAE(MultDAE.Config(hidden=(WIDTH,), **config), data).double()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_scores_and_loss(data: TopNData, batch: UserBatch, likelihood: str) -> None:
    model = dae(data, dropout=0.0, l2=0.01, likelihood=likelihood, **LIKELIHOODS[likelihood])
    w = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    x = batch.dense().double().numpy()
    hidden = np.tanh(x / np.linalg.norm(x, axis=1, keepdims=True) @ w["layers.weight"] + w["layers.bias"])
    logits = hidden @ w["layers.rest.1.weight"].T + w["layers.rest.1.bias"]
    np.testing.assert_allclose(model.score(batch).detach(), logits, atol=1e-6)
    shares = 1 / (1 + np.exp(-logits))
    of_items = {
        "multinomial": x * (logits - np.log(np.exp(logits).sum(1, keepdims=True))),
        "gaussian": -np.where(x == 1, CLICKED, OTHER) / 2 * (x - logits) ** 2,
        "logistic": x * np.log(shares) + (1 - x) * np.log(1 - shares),
    }
    penalty = 0.01 * sum((value**2).sum() for value in w.values() if value.ndim == 2)
    expected = -of_items[likelihood].sum(1).mean() + penalty
    assert float(model.loss(batch).detach()) == pytest.approx(expected, abs=1e-6)


def test_the_published_configuration_is_the_default() -> None:
    config = MultDAE.Config()
    assert (config.hidden, config.dropout, config.l2, config.learning_rate) == ((200,), 0.5, 0.01 / 500, 1e-3)


def test_scoring_is_deterministic_and_training_is_not(data: TopNData, batch: UserBatch) -> None:
    model = dae(data)
    assert float(model.loss(batch).detach()) != float(model.loss(batch).detach())
    model.eval()
    assert torch.equal(model.score(batch), model.score(batch))


def test_initial_weights_and_sizes(data: TopNData) -> None:
    model = dae(data)
    assert parameter_count(model) == 2 * N_ITEMS * WIDTH + WIDTH + N_ITEMS
    for parameter in model.parameters():
        limit = 2 * BIAS_STD if parameter.dim() == 1 else (6 / sum(parameter.shape)) ** 0.5
        assert 0.3 * limit < float(parameter.detach().abs().max()) <= limit
