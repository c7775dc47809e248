"""Mult-VAE and Mult-DAE against the sheet's equations written out in numpy (float64)."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbench.models.base import Model, parameter_count
from recbench.models.cf.multdae import MultDAE
from recbench.models.cf.multvae import MultVAE, kl_divergence
from recbench.models.layers.autoencoder import BIAS_STD, multinomial_loss
from recbench.tasks.batches import Ragged
from recbench.tasks.interactions import TopNData, UserBatch

N_USERS, N_ITEMS, WIDTH, DIM = 20, 15, 7, 4
Array = NDArray[np.float64]


@pytest.fixture
def data() -> TopNData:
    interactions = torch.rand(N_USERS, N_ITEMS, generator=torch.Generator().manual_seed(3)) < 0.3
    users, items = interactions.nonzero().T.contiguous()
    return TopNData(N_USERS, N_ITEMS, users, items)


@pytest.fixture
def batch(data: TopNData) -> UserBatch:
    return data.user_batch(torch.tensor([4, 0, 11, 7]))


def vae(data: TopNData, **config: object) -> MultVAE:
    torch.manual_seed(1)
    return MultVAE(MultVAE.Config(hidden=(WIDTH,), embedding_dim=DIM, **config), data).double()


def dae(data: TopNData, **config: object) -> MultDAE:
    torch.manual_seed(1)
    return MultDAE(MultDAE.Config(hidden=(WIDTH,), **config), data).double()


def numbers(model: Model) -> dict[str, Array]:
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}


def unit_rows(batch: UserBatch) -> Array:
    x = batch.dense().double().numpy()
    rows: Array = x / np.linalg.norm(x, axis=1, keepdims=True)
    return rows


def negative_log_likelihood(logits: Array, batch: UserBatch) -> float:
    log_shares = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return float(-(batch.dense().numpy() * log_shares).sum(1).mean())


def code(w: dict[str, Array], batch: UserBatch) -> tuple[Array, Array]:
    hidden = np.tanh(unit_rows(batch) @ w["encoder.weight"] + w["encoder.bias"])
    both = hidden @ w["encoder.rest.1.weight"].T + w["encoder.rest.1.bias"]
    return both[:, :DIM], both[:, DIM:]


def decoded(w: dict[str, Array], z: Array) -> Array:
    hidden = np.tanh(z @ w["decoder.0.weight"].T + w["decoder.0.bias"])
    logits: Array = hidden @ w["decoder.2.weight"].T + w["decoder.2.bias"]
    return logits


def matrices(w: dict[str, Array]) -> float:
    return sum(float((value**2).sum()) for value in w.values() if value.ndim == 2)


def test_vae_scores_are_the_decoded_mean(data: TopNData, batch: UserBatch) -> None:
    model = vae(data).eval()
    w = numbers(model)
    expected = decoded(w, code(w, batch)[0])
    np.testing.assert_allclose(model.score(batch).detach(), expected, atol=1e-6)


def test_vae_loss(data: TopNData, batch: UserBatch) -> None:
    model = vae(data, dropout=0.0, l2=0.01, anneal_cap=0.3, anneal_updates=0)
    w = numbers(model)
    torch.manual_seed(8)
    noise = torch.randn(len(batch), DIM, dtype=torch.float64).numpy()
    mean, log_variance = code(w, batch)
    nll = negative_log_likelihood(decoded(w, mean + noise * np.exp(log_variance / 2)), batch)
    kl = 0.5 * (-log_variance + np.exp(log_variance) + mean**2 - 1).sum(1).mean()
    torch.manual_seed(8)
    loss = model.loss(batch).detach()
    assert float(loss) == pytest.approx(nll + 0.3 * kl + 0.01 * matrices(w), abs=1e-6)


def test_dae_scores_and_loss(data: TopNData, batch: UserBatch) -> None:
    model = dae(data, dropout=0.0, l2=0.01)
    w = numbers(model)
    hidden = np.tanh(unit_rows(batch) @ w["layers.weight"] + w["layers.bias"])
    logits = hidden @ w["layers.rest.1.weight"].T + w["layers.rest.1.bias"]
    np.testing.assert_allclose(model.score(batch).detach(), logits, atol=1e-6)
    expected = negative_log_likelihood(logits, batch) + 0.01 * matrices(w)
    assert float(model.loss(batch).detach()) == pytest.approx(expected, abs=1e-6)


def test_kl_divergence_is_zero_at_the_prior_and_its_gradient_is_the_mean_over_the_batch() -> None:
    mean = torch.randn(5, DIM, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros_like(mean)
    assert float(kl_divergence(zero, zero)) == 0
    (gradient,) = torch.autograd.grad(kl_divergence(mean, zero), mean)
    torch.testing.assert_close(gradient, mean.detach() / 5)


def test_likelihood_of_uniform_scores(batch: UserBatch) -> None:
    loss = multinomial_loss(torch.full((len(batch), N_ITEMS), 2.5), batch)
    mean_length = float(batch.history.lengths.double().mean())
    assert float(loss) == pytest.approx(mean_length * math.log(N_ITEMS), rel=1e-6)


def test_annealing(data: TopNData) -> None:
    model = vae(data, anneal_cap=0.2, anneal_updates=200_000)
    betas = []
    for update in (0, 20_000, 40_000, 60_000):
        model.updates.fill_(update)
        betas.append(float(model.beta()))
    assert betas == pytest.approx([0, 0.1, 0.2, 0.2])
    assert float(vae(data, anneal_cap=0.4, anneal_updates=0).beta()) == pytest.approx(0.4)


def test_updates_are_counted_and_kept_in_a_checkpoint(data: TopNData, batch: UserBatch) -> None:
    model = vae(data)
    for _ in range(3):
        model.loss(batch)
    model.eval().score(batch)
    assert int(model.updates) == 3
    other = vae(data)
    other.load_state_dict(model.state_dict())
    assert int(other.updates) == 3


@pytest.mark.parametrize("make", [vae, dae])
def test_scoring_is_deterministic_and_training_is_not(data: TopNData, batch: UserBatch, make: type[Model]) -> None:
    model = make(data)
    assert float(model.loss(batch).detach()) != float(model.loss(batch).detach())
    model.eval()
    assert torch.equal(model.score(batch), model.score(batch))


@pytest.mark.parametrize("make", [vae, dae])
def test_scores_rows_of_users_never_seen_also_empty_ones(data: TopNData, batch: UserBatch, make: type[Model]) -> None:
    model = make(data).eval()
    history = Ragged(batch.history.values, torch.cat([torch.zeros(1, dtype=torch.int64), batch.history.offsets]))
    strangers = UserBatch(torch.arange(5) + 10**6, history, N_ITEMS)
    scores: Tensor = model.score(strangers)
    torch.testing.assert_close(scores[1:], model.score(batch))
    assert bool(scores[0].isfinite().all())


def test_dropout_comes_after_the_normalisation(data: TopNData, batch: UserBatch) -> None:
    """The kept entries are those of the full row's unit vector, over the share kept."""
    model = dae(data, dropout=0.5)
    with torch.no_grad():
        model.layers.weight.copy_(torch.eye(N_ITEMS, WIDTH))
        model.layers.bias.zero_()
    model.layers.rest = torch.nn.Sequential()
    inputs = model.layers(batch).detach().numpy()
    full = unit_rows(batch)[:, :WIDTH]
    kept = inputs != 0
    np.testing.assert_allclose(inputs[kept], 2 * full[kept])
    assert 0 < kept.sum() < (full != 0).sum()


@pytest.mark.parametrize("make", [vae, dae])
def test_initial_weights(data: TopNData, make: type[Model]) -> None:
    for parameter in make(data).parameters():
        limit = 2 * BIAS_STD if parameter.dim() == 1 else math.sqrt(6 / sum(parameter.shape))
        assert 0.3 * limit < float(parameter.detach().abs().max()) <= limit


def test_sizes(data: TopNData) -> None:
    encoder = N_ITEMS * WIDTH + WIDTH + WIDTH * 2 * DIM + 2 * DIM
    decoder = DIM * WIDTH + WIDTH + WIDTH * N_ITEMS + N_ITEMS
    assert parameter_count(vae(data)) == encoder + decoder
    assert parameter_count(dae(data)) == 2 * N_ITEMS * WIDTH + WIDTH + N_ITEMS
