"""RecVAE against the paper's equations written out in numpy (float64), and what its training may touch."""

from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recbench.models.base import parameter_count
from recbench.models.cf.multvae import kl_divergence
from recbench.models.cf.recvae import LAYERS, PREVIOUS, STANDARD, WIDE, RecVAE, log_mixture, log_normal, log_prior
from recbench.models.procedure import Phase, Sweep
from recbench.tasks.interactions import TopNData, UserBatch

N_USERS, N_ITEMS, WIDTH, DIM = 20, 15, 7, 4
Array = NDArray[np.float64]


@pytest.fixture
def batch(data: TopNData) -> UserBatch:
    return data.user_batch(torch.tensor([4, 0, 11, 7]))


def recvae(data: TopNData, **config: object) -> RecVAE:
    torch.manual_seed(1)
    return RecVAE(RecVAE.Config(hidden=WIDTH, embedding_dim=DIM, batch_size=8, **config), data).double()


def moved(module: nn.Module) -> None:
    """Change all weights."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)


def steps(model: RecVAE, data: TopNData) -> tuple[Phase, Sweep, Phase]:
    (stage,) = model.procedure(data)
    encoder, prior, decoder = stage.steps
    return cast("Phase", encoder), cast("Sweep", prior), cast("Phase", decoder)


def encoded(module: nn.Module, batch: UserBatch) -> tuple[Array, Array]:
    w = {name: value.numpy() for name, value in module.state_dict().items()}
    x = batch.dense().double().numpy()
    output = x / np.linalg.norm(x, axis=1, keepdims=True) @ w["input.weight"] + w["input.bias"]
    before: list[Array] = []
    for layer in range(LAYERS):
        if layer:
            output = before[-1] @ w[f"layers.{layer - 1}.weight"].T + w[f"layers.{layer - 1}.bias"] + sum(before)
        swish = output / (1 + np.exp(-output))
        centred = swish - swish.mean(1, keepdims=True)
        normalised = centred / np.sqrt(centred.var(1, keepdims=True) + 1e-5)
        before.append(normalised * w[f"norms.{layer}.weight"] + w[f"norms.{layer}.bias"])
    mean = before[-1] @ w["mean.weight"].T + w["mean.bias"]
    return mean, before[-1] @ w["log_variance.weight"].T + w["log_variance.bias"]


def density(x: Array, mean: Array | float, log_variance: Array | float) -> Array:
    variance = np.exp(log_variance)
    values: Array = np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    return values


def likelihood(model: RecVAE, z: Array, batch: UserBatch) -> Array:
    logits = z @ model.decoder.weight.detach().numpy().T + model.decoder.bias.detach().numpy()
    log_shares = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    values: Array = (batch.dense().double().numpy() * log_shares).sum(1)
    return values


def noise_of(batch: UserBatch) -> Array:
    torch.manual_seed(8)
    noise: Array = torch.randn(len(batch), DIM, dtype=torch.float64).numpy()
    torch.manual_seed(8)
    return noise


def test_scores_are_the_decoded_mean(data: TopNData, batch: UserBatch) -> None:
    model = recvae(data).eval()
    moved(model)
    mean, _ = encoded(model.encoder, batch)
    expected = mean @ model.decoder.weight.detach().numpy().T + model.decoder.bias.detach().numpy()
    np.testing.assert_allclose(model.score(batch).detach(), expected, atol=1e-6)
    assert torch.equal(model.score(batch), model.score(batch))


def test_loss_of_the_encoder(data: TopNData, batch: UserBatch) -> None:
    model = recvae(data, dropout=0.0, gamma=0.03)
    moved(model)
    noise = noise_of(batch)
    (mean, log_variance), (old_mean, old_log_variance) = (
        encoded(module, batch) for module in (model.encoder, model.previous)
    )
    z = mean + noise * np.exp(log_variance / 2)
    prior = 0.15 * density(z, 0, 0) + 0.75 * density(z, old_mean, old_log_variance) + 0.1 * density(z, 0, 10)
    divergence = np.log(density(z, mean, log_variance) / prior).sum(1)
    clicks = batch.dense().sum(1).numpy()
    expected = (-likelihood(model, z, batch) + 0.03 * clicks * divergence).mean()
    assert float(model.loss(batch).detach()) == pytest.approx(expected, abs=1e-6)


def test_loss_of_the_decoder_has_no_dropout_and_no_prior(data: TopNData, batch: UserBatch) -> None:
    model = recvae(data, dropout=0.7)
    moved(model)
    model.remember()
    noise = noise_of(batch)
    mean, log_variance = encoded(model.encoder, batch)
    expected = -likelihood(model, mean + noise * np.exp(log_variance / 2), batch).mean()
    assert float(model.decoder_loss(batch).detach()) == pytest.approx(expected, abs=1e-6)
    noise_of(batch)
    again = float(model.loss(batch).detach())
    model.encoder.input.dropout.p = 0.0
    noise_of(batch)
    assert float(model.loss(batch).detach()) != pytest.approx(again)


def test_the_density_of_the_prior_integrates_to_one_in_every_dimension() -> None:
    mean, log_variance = torch.tensor([[-2.0, 0.5, 3.0]]).double(), torch.tensor([[-3.0, 0.0, 1.5]]).double()
    grid = torch.linspace(-1500, 1500, 600_001, dtype=torch.float64)[:, None]
    total = torch.trapezoid(log_prior(grid.expand(-1, 3), mean, log_variance).exp(), grid, dim=0)
    torch.testing.assert_close(total, torch.ones(3, dtype=torch.float64), atol=1e-6, rtol=0)
    assert pytest.approx(1.0) == STANDARD + PREVIOUS + WIDE


def test_with_one_standard_component_the_divergence_is_on_average_the_closed_form() -> None:
    torch.manual_seed(0)
    mean, log_variance = torch.randn(3, DIM).double(), torch.randn(3, DIM).double()
    noise = torch.randn(200_000, 3, DIM, dtype=torch.float64)
    zero = torch.zeros((), dtype=torch.float64)
    draws = mean + noise * (log_variance / 2).exp()
    estimates = log_normal(draws, mean, log_variance) - log_mixture(draws, [1.0], [(zero, zero)])
    totals = estimates.sum(2).mean(1)
    error = 4 * float(totals.std()) / len(totals) ** 0.5
    assert float(totals.mean()) == pytest.approx(float(kl_divergence(mean, log_variance)), abs=error)


def test_phases_touch_their_own_parameters_alone(data: TopNData) -> None:
    model = recvae(data)
    encoder, prior, decoder = steps(model, data)

    def changed(step: Phase | Sweep) -> set[str]:
        before = {name: value.clone() for name, value in model.state_dict().items()}
        model.zero_grad()
        if isinstance(step, Sweep):
            step.run()
        else:
            optimizer = torch.optim.Adam(step.parameters)
            for batch in step.batches.epoch(torch.Generator().manual_seed(0)):
                step.loss(batch).backward()
                optimizer.step()
            with_gradient = {parameter for parameter in model.parameters() if parameter.grad is not None}
            assert with_gradient == set(step.parameters)
        return {
            name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])
        }

    assert changed(encoder) == {"encoder"}
    assert changed(prior) == {"previous"}
    assert changed(decoder) == {"decoder"}
    assert changed(prior) == set()
    assert all(
        torch.equal(value, model.encoder.state_dict()[name]) for name, value in model.previous.state_dict().items()
    )


def test_the_encoder_sees_every_user_three_times_an_epoch_and_the_decoder_once(data: TopNData) -> None:
    for step, times in zip(steps(recvae(data), data)[::2], (3, 1), strict=True):
        assert isinstance(step, Phase)
        seen = torch.cat([batch.users for batch in step.batches.epoch(torch.Generator().manual_seed(0))])
        assert torch.equal(seen.bincount(minlength=N_USERS), times * (data.history.lengths > 0))
        assert step.batches.n_samples == len(seen)


def test_the_copy_is_kept_in_a_checkpoint_and_is_not_trained(data: TopNData, batch: UserBatch) -> None:
    model, other = recvae(data), recvae(data)
    moved(model)
    model.remember()
    moved(model)
    other.load_state_dict(model.state_dict())

    def loss(of: RecVAE) -> Tensor:
        torch.manual_seed(2)
        return of.loss(batch).detach()

    assert torch.equal(loss(other), loss(model))
    encoder = N_ITEMS * WIDTH + WIDTH + (LAYERS - 1) * (WIDTH + 1) * WIDTH + LAYERS * 2 * WIDTH + 2 * (WIDTH + 1) * DIM
    assert parameter_count(model) == encoder + (DIM + 1) * N_ITEMS
