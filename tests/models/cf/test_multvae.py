"""Mult-VAE, and the blocks it shares with Mult-DAE, against the paper's equations written out in numpy (float64)."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbench.errors import UsageError
from recbench.models.base import Model, parameter_count
from recbench.models.cf.multdae import MultDAE
from recbench.models.cf.multvae import MultVAE, kl_divergence
from recbench.models.layers import autoencoder
from recbench.models.layers.autoencoder import (
    BIAS_STD,
    RowLinear,
    gaussian_loss,
    logistic_loss,
    multinomial_loss,
)
from recbench.tasks.batches import Ragged
from recbench.tasks.interactions import TopNData, UserBatch
from recbench.tasks.topn import TopNTask

N_USERS, N_ITEMS, WIDTH, DIM = 20, 15, 7, 4
CLICKED, OTHER = 5.0, 0.5
LIKELIHOODS: dict[str, dict[str, object]] = {
    "multinomial": {},
    "gaussian": {"clicked_confidence": CLICKED, "other_confidence": OTHER},
    "logistic": {},
}
Array = NDArray[np.float64]


@pytest.fixture
def batch(data: TopNData) -> UserBatch:
    return data.user_batch(torch.tensor([4, 0, 11, 7]))


def vae(data: TopNData, **config: object) -> MultVAE:
    torch.manual_seed(1)
    return MultVAE(MultVAE.Config(hidden=(WIDTH,), embedding_dim=DIM, **config), data).double()


def numbers(model: Model) -> dict[str, Array]:
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}


def unit_rows(batch: UserBatch, scale: float = 1.0) -> Array:
    x = scale * batch.dense().double().numpy()
    rows: Array = x / np.linalg.norm(x, axis=1, keepdims=True)
    return rows


def negative_log_likelihood(logits: Array, batch: UserBatch, likelihood: str = "multinomial") -> float:
    x = batch.dense().double().numpy()
    shares = 1 / (1 + np.exp(-logits))
    of_items = {
        "multinomial": x * (logits - np.log(np.exp(logits).sum(1, keepdims=True))),
        "gaussian": -np.where(x == 1, CLICKED, OTHER) / 2 * (x - logits) ** 2,
        "logistic": x * np.log(shares) + (1 - x) * np.log(1 - shares),
    }
    return float(-of_items[likelihood].sum(1).mean())


def code(w: dict[str, Array], batch: UserBatch, scale: float = 1.0) -> tuple[Array, Array]:
    hidden = np.tanh(unit_rows(batch, scale) @ w["encoder.weight"] + w["encoder.bias"])
    both = hidden @ w["encoder.rest.1.weight"].T + w["encoder.rest.1.bias"]
    return both[:, :DIM], both[:, DIM:]


def decoded(w: dict[str, Array], z: Array) -> Array:
    hidden = np.tanh(z @ w["decoder.0.weight"].T + w["decoder.0.bias"])
    logits: Array = hidden @ w["decoder.2.weight"].T + w["decoder.2.bias"]
    return logits


def matrices(w: dict[str, Array]) -> float:
    return sum(float((value**2).sum()) for value in w.values() if value.ndim == 2)


@pytest.mark.parametrize("scale", [1.0, 3.0, 0.1])
def test_vae_scores_are_the_decoded_mean_whatever_the_scale_of_rows(
    data: TopNData, batch: UserBatch, scale: float
) -> None:
    model = vae(data).eval()
    w = numbers(model)
    expected = decoded(w, code(w, batch, scale)[0])
    np.testing.assert_allclose(model.score(batch).detach(), expected, atol=1e-6)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_vae_loss(data: TopNData, batch: UserBatch, likelihood: str) -> None:
    settings = {"likelihood": likelihood, **LIKELIHOODS[likelihood]}
    model = vae(data, dropout=0.0, l2=0.01, anneal_cap=0.3, anneal_updates=0, **settings)
    w = numbers(model)
    torch.manual_seed(8)
    noise = torch.randn(len(batch), DIM, dtype=torch.float64).numpy()
    mean, log_variance = code(w, batch)
    nll = negative_log_likelihood(decoded(w, mean + noise * np.exp(log_variance / 2)), batch, likelihood)
    kl = 0.5 * (-log_variance + np.exp(log_variance) + mean**2 - 1).sum(1).mean()
    torch.manual_seed(8)
    loss = model.loss(batch).detach()
    assert float(loss) == pytest.approx(nll + 0.3 * kl + 0.01 * matrices(w), abs=1e-6)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_gradient_of_the_likelihood(batch: UserBatch, likelihood: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against that of the equation over all items, also with the rows of the batch in several blocks."""
    monkeypatch.setattr(autoencoder, "NUMBERS_AT_ONCE", 2 * N_ITEMS)
    x = batch.dense().double()
    confidence = torch.where(x == 1, CLICKED, OTHER)
    logits = (3 * torch.randn(len(batch), N_ITEMS, dtype=torch.float64)).requires_grad_()
    losses = {
        "multinomial": (multinomial_loss(logits.clone(), batch), -x * logits.log_softmax(1)),
        "gaussian": (gaussian_loss(logits, batch, CLICKED, OTHER), confidence / 2 * (x - logits).square()),
        "logistic": (logistic_loss(logits, batch), -(x * logits).sigmoid().log() - (-(1 - x) * logits).sigmoid().log()),
    }
    loss, of_items = losses[likelihood]
    expected = torch.autograd.grad(1.7 * of_items.sum(1).mean(), logits, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(1.7 * loss, logits), expected)


def test_the_compiled_likelihood_has_the_same_gradient(batch: UserBatch) -> None:
    logits = torch.randn(len(batch), N_ITEMS, requires_grad=True)

    def loss(values: Tensor) -> Tensor:
        return multinomial_loss(values + 0.0, batch)

    (expected,) = torch.autograd.grad(loss(logits), logits)
    (compiled,) = torch.autograd.grad(torch.compile(loss, backend="aot_eager")(logits), logits)
    torch.testing.assert_close(compiled, expected)


def test_likelihood_of_large_logits_is_finite(batch: UserBatch) -> None:
    logits = torch.zeros(len(batch), N_ITEMS)
    logits[:, 0] = 1e4
    assert bool(multinomial_loss(logits.clone(), batch).isfinite())
    assert bool(logistic_loss(logits, batch).isfinite())


def test_gradient_of_the_first_layer(data: TopNData, batch: UserBatch) -> None:
    layer = RowLinear(N_ITEMS, WIDTH, dropout=0.0).double()
    rows = torch.from_numpy(unit_rows(batch))
    target = torch.randn(len(batch), WIDTH, dtype=torch.float64)
    sparse = torch.autograd.grad((layer(batch) * target).sum(), list(layer.parameters()))
    dense = torch.autograd.grad(((rows @ layer.weight + layer.bias) * target).sum(), list(layer.parameters()))
    torch.testing.assert_close(sparse, dense)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"clicked_confidence": 2.0}, "clicked_confidence: expected only with .*gaussian, found .* = multinomial"),
        ({"likelihood": "logistic", "other_confidence": 0.5}, "other_confidence: expected only with .* = gaussian"),
        ({"likelihood": "gaussian", "other_confidence": 20.0}, "other_confidence: expected less .* = 10, found 20"),
        ({"likelihood": "poisson"}, "likelihood"),
    ],
)
@pytest.mark.parametrize("model", [MultVAE, MultDAE])
def test_wrong_likelihoods_are_refused(model: type[Model], values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}.*in the command line.$"):
        model.Config.parse(values, "the command line")


def test_without_divergence_and_variance_it_is_a_denoising_autoencoder(data: TopNData, batch: UserBatch) -> None:
    model = vae(data, dropout=0.0, anneal_cap=0.0)
    with torch.no_grad():
        model.encoder.rest[1].weight[DIM:] = 0.0
        model.encoder.rest[1].bias[DIM:] = -100.0
    expected = multinomial_loss(model.eval().score(batch).clone(), batch)
    torch.testing.assert_close(model.train().loss(batch), expected)


def test_a_large_weight_of_the_divergence_empties_the_code(task_of: Callable[[str], TopNTask]) -> None:
    """The reason for a cap below one, on real data: far less of a user is left in the code."""
    data = task_of("topn/ml-100k").data
    kept = {}
    for cap in (0.2, 1.0):
        torch.manual_seed(1)
        model = MultVAE(MultVAE.Config(hidden=(100,), embedding_dim=32, anneal_cap=cap, anneal_updates=0), data)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, fused=True)
        for _ in range(8):
            for batch in model.batches(data).epoch(torch.Generator().manual_seed(1)):
                optimizer.zero_grad()
                model.loss(batch).backward()
                optimizer.step()
        _, mean, log_variance = model.eval()(data.user_batch(torch.arange(data.n_users)))
        kept[cap] = float(kl_divergence(mean, log_variance).detach())
    assert kept[1.0] < 0.6 * kept[0.2]


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


def test_scoring_is_deterministic_and_training_is_not(data: TopNData, batch: UserBatch) -> None:
    model = vae(data)
    assert float(model.loss(batch).detach()) != float(model.loss(batch).detach())
    model.eval()
    assert torch.equal(model.score(batch), model.score(batch))


def test_scores_rows_of_users_never_seen_also_empty_ones(data: TopNData, batch: UserBatch) -> None:
    model = vae(data).eval()
    history = Ragged(batch.history.values, torch.cat([torch.zeros(1, dtype=torch.int64), batch.history.offsets]))
    strangers = UserBatch(torch.arange(5) + 10**6, history, N_ITEMS)
    scores: Tensor = model.score(strangers)
    torch.testing.assert_close(scores[1:], model.score(batch))
    assert bool(scores[0].isfinite().all())


def test_dropout_comes_after_the_normalisation(data: TopNData, batch: UserBatch) -> None:
    """The kept entries are those of the full row's unit vector, over the share kept."""
    layer = RowLinear(N_ITEMS, WIDTH, dropout=0.5).double()
    with torch.no_grad():
        layer.weight.copy_(torch.eye(N_ITEMS, WIDTH))
        layer.bias.zero_()
    inputs = layer(batch).detach().numpy()
    full = unit_rows(batch)[:, :WIDTH]
    kept = inputs != 0
    np.testing.assert_allclose(inputs[kept], 2 * full[kept])
    assert 0 < kept.sum() < (full != 0).sum()


def test_initial_weights(data: TopNData) -> None:
    for parameter in vae(data).parameters():
        limit = 2 * BIAS_STD if parameter.dim() == 1 else math.sqrt(6 / sum(parameter.shape))
        assert 0.3 * limit < float(parameter.detach().abs().max()) <= limit


def test_sizes(data: TopNData) -> None:
    encoder = N_ITEMS * WIDTH + WIDTH + WIDTH * 2 * DIM + 2 * DIM
    decoder = DIM * WIDTH + WIDTH + WIDTH * N_ITEMS + N_ITEMS
    assert parameter_count(vae(data)) == encoder + decoder
