"""The estimators in a world where every error and every propensity is known."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from recbench.metrics.debiased import dr, ips, naive, snips

N_PAIRS = 60 * 50
DRAWS = 2_000


@dataclass
class World:
    """60 users x 50 items: pairs with small errors are seen more often; ``seen`` holds DRAWS draws of what is."""

    errors: Tensor
    propensities: Tensor
    seen: Tensor

    @property
    def ideal(self) -> Tensor:
        return self.errors.mean()


@pytest.fixture(scope="module")
def world():
    generator = torch.Generator().manual_seed(11)
    errors = torch.rand(N_PAIRS, generator=generator, dtype=torch.float64)
    propensities = 0.05 + 0.4 * (1 - errors).square()
    seen = torch.rand(DRAWS, N_PAIRS, generator=generator) < propensities
    return World(errors, propensities, seen)


def bias_in_standard_errors(world, estimate):
    """(Mean over the draws - ideal) / standard error, for ``estimate(rows of observed pairs)``."""
    values = torch.stack([estimate(draw.nonzero().squeeze(1)) for draw in world.seen])
    return float((values.mean() - world.ideal) / (values.std() / math.sqrt(DRAWS)))


def test_naive_is_biased(world):
    assert bias_in_standard_errors(world, lambda o: naive(world.errors[o])) < -100


def test_ips_is_unbiased(world):
    e, p = world.errors, world.propensities
    assert abs(bias_in_standard_errors(world, lambda o: ips(e[o], p[o], N_PAIRS))) < 3


def test_ips_with_wrong_propensities_is_biased(world):
    wrong = world.propensities.mean().expand(N_PAIRS)
    assert abs(bias_in_standard_errors(world, lambda o: ips(world.errors[o], wrong[o], N_PAIRS))) > 100


def test_snips_is_nearly_unbiased_and_bounded_by_the_errors(world):
    e, p = world.errors, world.propensities
    values = torch.stack([snips(e[d], p[d]) for d in world.seen])
    assert abs(values.mean() - world.ideal) < 0.003 * world.ideal
    assert values.max() <= e.max()
    # Errors shifted by a constant shift the estimate by it; IPS would not.
    observed = world.seen[0]
    assert torch.isclose(snips(e[observed] + 1, p[observed]), values[0] + 1)


def test_dr_is_unbiased_with_right_propensities(world):
    e, p = world.errors, world.propensities
    wrong = 1 - e.square()
    assert abs(bias_in_standard_errors(world, lambda o: dr(e[o], wrong[o], p[o], wrong, N_PAIRS))) < 3


def test_dr_is_exact_in_every_draw_with_the_right_imputation(world):
    e, wrong = world.errors, world.propensities.flip(0)
    values = torch.stack([dr(e[d], e[d], wrong[d], e, N_PAIRS) for d in world.seen])
    assert torch.allclose(values, world.ideal, atol=1e-12)


def test_dr_is_biased_when_both_are_wrong(world):
    e, p, imputed = world.errors, world.propensities.flip(0), torch.full((N_PAIRS,), 0.9, dtype=torch.float64)
    assert abs(bias_in_standard_errors(world, lambda o: dr(e[o], imputed[o], p[o], imputed, N_PAIRS))) > 10


def test_variance_of_dr(world):
    """Wang et al. 2019: the variance is sum (1 - p) / p (e - ehat)^2 / |D|^2."""
    e, p = world.errors, world.propensities
    imputed = torch.full_like(e, 0.5)
    for ehat in (imputed, torch.zeros_like(e)):
        values = torch.stack([dr(e[d], ehat[d], p[d], ehat, N_PAIRS) for d in world.seen])
        expected = ((1 - p) / p * (e - ehat).square()).sum() / N_PAIRS**2
        # The sample variance of DRAWS values has a relative standard error of sqrt(2 / DRAWS) = 3.2 %.
        assert float(values.var() / expected) == pytest.approx(1, abs=0.13)


def test_mini_batches_average_to_the_full_estimate(world):
    """Batches of B observed pairs stand for B |D| / |O| pairs each; those drawn from all pairs only give a mean."""
    e, p = world.errors, world.propensities
    imputed = e.flip(0)
    observed = world.seen[0].nonzero().squeeze(1)
    observed = observed[: len(observed) // 10 * 10]
    everything = torch.arange(N_PAIRS)
    full_dr = dr(e[observed], imputed[observed], p[observed], imputed, N_PAIRS)
    full_ips = ips(e[observed], p[observed], N_PAIRS)
    batches = list(zip(observed.chunk(10), everything.chunk(10), strict=True))
    share = N_PAIRS / len(observed)
    mean_dr = sum(dr(e[o], imputed[o], p[o], imputed[d], len(o) * share) for o, d in batches) / 10
    mean_ips = sum(ips(e[o], p[o], len(o) * share) for o, _ in batches) / 10
    assert torch.isclose(mean_dr, full_dr)
    assert torch.isclose(mean_ips, full_ips)


def test_gradients(world):
    """The gradient of IPS at each pair is 1 / (p |D|); DR's reaches the errors and both imputed parts."""
    observed = world.seen[0]
    p = world.propensities[observed]
    e = world.errors[observed].clone().requires_grad_()
    ips(e, p, N_PAIRS).backward()
    assert torch.allclose(e.grad, 1 / (p * N_PAIRS))

    e, imputed = e.detach().requires_grad_(), torch.zeros(N_PAIRS, dtype=torch.float64, requires_grad=True)
    dr(e, imputed[observed], p, imputed, N_PAIRS).backward()
    assert torch.allclose(e.grad, 1 / (p * N_PAIRS))
    assert torch.allclose(imputed.grad, (1 - observed / world.propensities) / N_PAIRS)
