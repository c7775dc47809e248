"""Estimates and their intervals in worlds where the mean, every propensity and every draw are known."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from recbench.errors import RecbenchError
from recbench.metrics.offpolicy import (
    dr_of_pairs,
    dr_of_policy,
    ips_of_pairs,
    ips_of_policy,
    snips_of_pairs,
    snips_of_policy,
)

N_PAIRS = 60 * 50
N_ROWS = 800
N_ACTIONS = 5
DRAWS = 1_500


@dataclass
class Pairs:
    """3,000 pairs with errors that make them be seen less often."""

    errors: Tensor
    propensities: Tensor
    guess: Tensor
    """A rough imputation."""
    seen: Tensor
    """(DRAWS, N_PAIRS)."""

    def draws(self, estimate):
        return [estimate(draw.nonzero().squeeze(1)) for draw in self.seen]


@pytest.fixture(scope="module")
def pairs():
    generator = torch.Generator().manual_seed(3)
    errors = torch.rand(N_PAIRS, generator=generator, dtype=torch.float64)
    propensities = 0.1 + 0.5 * (1 - errors).square()
    guess = errors.roll(1) * 0.3 + errors * 0.5
    return Pairs(errors, propensities, guess, torch.rand(DRAWS, N_PAIRS, generator=generator) < propensities)


@dataclass
class Bandit:
    """Contexts of 4 kinds, 5 actions, reward 1 with a known probability; two policies with known probabilities."""

    chances: Tensor
    logging: Tensor
    target: Tensor
    guess: Tensor

    @property
    def value(self):
        return float((self.target * self.chances).sum(1).mean())

    def draw(self, seed):
        generator = torch.Generator().manual_seed(seed)
        kinds = torch.randint(len(self.chances), (N_ROWS,), generator=generator)
        actions = torch.multinomial(self.logging[kinds], 1, generator=generator).squeeze(1)
        rewards = torch.rand(N_ROWS, generator=generator) < self.chances[kinds, actions]
        everywhere = (self.target * self.guess).sum(1)[kinds]
        taken = kinds, actions
        return rewards.double(), self.guess[taken], self.logging[taken], self.target[taken], everywhere


@pytest.fixture(scope="module")
def bandit():
    generator = torch.Generator().manual_seed(5)
    chances = torch.rand(4, N_ACTIONS, generator=generator, dtype=torch.float64) * 0.6 + 0.1
    logging = torch.softmax(torch.randn(4, N_ACTIONS, generator=generator, dtype=torch.float64) * 0.7, 1)
    target = torch.softmax(4 * chances, 1)
    return Bandit(chances, logging, target, chances + 0.1)


@pytest.fixture(scope="module")
def logs(bandit):
    return [bandit.draw(seed) for seed in range(DRAWS)]


def is_unbiased(estimates, truth):
    values = torch.tensor([estimate.value for estimate in estimates], dtype=torch.float64)
    return abs(float(values.mean()) - truth) < 3.5 * float(values.std()) / math.sqrt(len(values))


def coverage(estimates, truth):
    return sum(low <= truth <= high for low, high in (estimate.ci95 for estimate in estimates)) / len(estimates)


@pytest.mark.parametrize("kind", ["ips", "snips", "dr"])
def test_pairs_are_unbiased_and_the_interval_covers(pairs, kind):
    e, p, guess = pairs.errors, pairs.propensities, pairs.guess
    estimates = pairs.draws(
        {
            "ips": lambda o: ips_of_pairs(e[o], p[o], N_PAIRS),
            "snips": lambda o: snips_of_pairs(e[o], p[o]),
            "dr": lambda o: dr_of_pairs(e[o], guess[o], p[o], guess),
        }[kind]
    )
    truth = float(e.mean())
    assert is_unbiased(estimates, truth)
    assert 0.93 <= coverage(estimates, truth) <= 0.97
    values = torch.tensor([estimate.value for estimate in estimates])
    typical = sum(estimate.standard_error for estimate in estimates) / DRAWS
    assert typical == pytest.approx(float(values.std()), rel=0.06)


@pytest.mark.parametrize("kind", ["ips", "snips", "dr"])
def test_policies_are_unbiased_and_the_interval_covers(bandit, logs, kind):
    estimate = {
        "ips": lambda r, _, p, t, __: ips_of_policy(r, p, t),
        "snips": lambda r, _, p, t, __: snips_of_policy(r, p, t),
        "dr": dr_of_policy,
    }[kind]
    estimates = [estimate(*log) for log in logs]
    assert is_unbiased(estimates, bandit.value)
    assert 0.93 <= coverage(estimates, bandit.value) <= 0.97


def test_dr_is_right_if_either_part_is(bandit, logs, pairs):
    wrong = [(r, g, torch.full_like(p, 1 / N_ACTIONS), t, e) for r, g, p, t, e in logs]
    right_guess = [
        (r, g - 0.1, p, t, e - 0.1)  # the guess is 0.1 above the chances everywhere
        for r, g, p, t, e in wrong
    ]
    assert is_unbiased([dr_of_policy(*log) for log in right_guess], bandit.value)
    assert not is_unbiased([dr_of_policy(*log) for log in wrong], bandit.value)
    assert not is_unbiased([ips_of_policy(r, p, t) for r, _, p, t, _ in wrong], bandit.value)

    e, p = pairs.errors, pairs.propensities.flip(0)
    exact = pairs.draws(lambda o: dr_of_pairs(e[o], e[o], p[o], e))
    assert {estimate.standard_error for estimate in exact} == {0}
    assert [estimate.value for estimate in exact] == pytest.approx([float(e.mean())] * DRAWS)


def test_dr_is_sharper_than_ips_with_a_good_imputation(pairs):
    e, p, o = pairs.errors, pairs.propensities, pairs.seen[0].nonzero().squeeze(1)
    assert (
        dr_of_pairs(e[o], pairs.guess[o], p[o], pairs.guess).standard_error
        < 0.7 * ips_of_pairs(e[o], p[o], N_PAIRS).standard_error
    )


def test_snips_moves_with_a_constant(pairs, logs):
    e, p, o = pairs.errors, pairs.propensities, pairs.seen[0].nonzero().squeeze(1)
    rewards, _, logging, target, _ = logs[0]
    for before, after in (
        (snips_of_pairs(e[o], p[o]), snips_of_pairs(e[o] + 7, p[o])),
        (snips_of_policy(rewards, logging, target), snips_of_policy(rewards + 7, logging, target)),
    ):
        assert after.value == pytest.approx(before.value + 7, abs=1e-12)
        assert after.standard_error == pytest.approx(before.standard_error, abs=1e-12)
    assert ips_of_policy(rewards + 7, logging, target).value != pytest.approx(
        ips_of_policy(rewards, logging, target).value + 7, abs=1e-3
    )


def test_by_hand():
    """Four pairs, two observed: errors 1 and 3 with propensities 1/2 and 1/4, so weights 2 and 4."""
    errors, propensities = torch.tensor([1, 3]), torch.tensor([0.5, 0.25])
    ips = ips_of_pairs(errors, propensities, 4)
    assert ips.value == (2 + 12) / 4
    # sum (1 - p) (e / p)^2 = 1/2 * 4 + 3/4 * 144 = 110
    assert ips.standard_error == pytest.approx(math.sqrt(110) / 4)
    assert ips.ci95 == pytest.approx((3.5 - 1.96 * math.sqrt(110) / 4, 3.5 + 1.96 * math.sqrt(110) / 4), rel=1e-4)
    assert ips.effective_sample_size == pytest.approx(36 / 20)
    assert ips.largest_weight_share == pytest.approx(4 / 6)
    assert ips.n == 2
    snips = snips_of_pairs(errors, propensities)
    assert snips.value == pytest.approx(14 / 6)
    # residuals -4/3 and 2/3: 1/2 * (2 * 4/3)^2 + 3/4 * (4 * 2/3)^2
    assert snips.standard_error == pytest.approx(math.sqrt(1 / 2 * (8 / 3) ** 2 + 3 / 4 * (8 / 3) ** 2) / 6)
    dr = dr_of_pairs(errors, torch.tensor([1.0, 2.0]), propensities, torch.tensor([1.0, 2.0, 2.0, 3.0]))
    assert dr.value == 2 + (0 + 4) / 4
    assert dr.standard_error == pytest.approx(math.sqrt(3 / 4 * 16) / 4)

    # Two rows: rewards 1 and 0, weights 0.5 / 0.25 = 2 and 0.5 / 0.5 = 1; terms 2 and 0, of sd sqrt(2).
    policy = ips_of_policy(torch.tensor([1, 0]), torch.tensor([0.25, 0.5]), torch.tensor([0.5, 0.5]))
    assert (policy.value, policy.standard_error) == (1, pytest.approx(1))
    assert policy.effective_sample_size == pytest.approx(9 / 5)


def test_the_mean_when_all_is_observed(pairs):
    """Propensity 1 everywhere: every estimate is the mean of all pairs, without any uncertainty."""
    e, ones = pairs.errors, torch.ones(N_PAIRS)
    for estimate in (ips_of_pairs(e, ones, N_PAIRS), snips_of_pairs(e, ones), dr_of_pairs(e, e.flip(0), ones, e)):
        assert estimate.value == pytest.approx(float(e.mean()))
        assert estimate.standard_error == 0
        assert estimate.effective_sample_size == pytest.approx(N_PAIRS)


def test_rows_in_another_order_and_in_float32(logs):
    order = torch.randperm(N_ROWS, generator=torch.Generator().manual_seed(1))
    there, here = dr_of_policy(*logs[0]), dr_of_policy(*(column[order] for column in logs[0]))
    assert there.value == pytest.approx(here.value, abs=1e-13)
    assert there.standard_error == pytest.approx(here.standard_error, abs=1e-13)
    assert dr_of_policy(*(column.float() for column in logs[0])).value == pytest.approx(there.value, abs=1e-6)


def test_an_action_that_the_policy_never_takes_counts_only_in_the_number_of_rows():
    some = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.5, 0.5, 0.25]), torch.tensor([0.5, 1.0, 0.0])
    assert snips_of_policy(*some).value == pytest.approx(1 / 3)
    assert ips_of_policy(*some).value == pytest.approx(1 / 3)
    with pytest.raises(RecbenchError, match="takes none of the 3 logged actions"):
        ips_of_policy(some[0], some[1], torch.zeros(3))


@pytest.mark.parametrize(
    ("errors", "propensities", "sentence"),
    [
        ([1.0, 2.0], [0.5, 0.0], "1 of 2 are not, first 0 in row 1"),
        ([1.0, 2.0], [1.5, 0.5], "first 1.5 in row 0"),
        ([1.0, 2.0], [0.5, math.nan], "1 of 2 propensities are NaN or infinite"),
        ([math.inf, 2.0], [0.5, 0.5], "1 of 2 errors are NaN or infinite"),
        ([1.0, 2.0], [0.5], r"found errors \(2,\), propensities \(1,\)"),
        ([], [], "N > 0"),
    ],
)
def test_refuses_bad_input(errors, propensities, sentence):
    errors, propensities = torch.tensor(errors), torch.tensor(propensities)
    with pytest.raises(RecbenchError, match=sentence):
        snips_of_pairs(errors, propensities)
    with pytest.raises(RecbenchError, match=sentence):
        ips_of_pairs(errors, propensities, 10)


def test_refuses_what_does_not_fit():
    half = torch.tensor([0.5, 0.5])
    with pytest.raises(RecbenchError, match="expected at least 2, got 1"):
        ips_of_pairs(half, half, 1)
    with pytest.raises(RecbenchError, match="expected at least 2, got 1"):
        dr_of_pairs(half, half, half, half[:1])
    with pytest.raises(RecbenchError, match="targets are probabilities from 0 to 1; 1 of 2 are not"):
        snips_of_policy(half, half, torch.tensor([0.5, 1.5]))
    with pytest.raises(RecbenchError, match="at least 2 rows"):
        ips_of_policy(half[:1], half[:1], half[:1])


def test_semi_synthetic_ratings(parts_of):
    """Mean squared error of a constant over all pairs of MovieLens, from the pairs that were exposed."""
    name = "rating/ml-100k-semisynthetic"
    train, shared, truth = (parts_of(name, part) for part in ("train", "shared", "truth"))
    labels = torch.tensor(truth["labels"]).double().flatten()
    errors = (labels - 0.1).square()
    observed = torch.tensor(train["users"]).long() * truth["labels"].shape[1] + torch.tensor(train["items"])
    propensities = torch.tensor(shared["propensities"]).flatten()[observed]
    ideal = float(errors.mean())
    for estimate in (
        ips_of_pairs(errors[observed], propensities, len(errors)),
        snips_of_pairs(errors[observed], propensities),
        dr_of_pairs(
            errors[observed], torch.full_like(errors[observed], 0.3), propensities, torch.full_like(errors, 0.3)
        ),
    ):
        assert abs(estimate.value - ideal) < 3 * estimate.standard_error
        assert estimate.standard_error < 0.01 * ideal
        assert estimate.n == len(observed)
    assert float(errors[observed].mean()) > 1.2 * ideal  # relevant pairs are exposed more often


def test_open_bandit_from_the_other_policy(mirrored):
    """The click rate of the random policy, from what Thompson sampling logged, agrees with what random itself got."""
    from recbench.data.cards import load_card
    from recbench.data.source import Source

    source = Source(load_card("open-bandit"))
    thompson, random = source.table("bts_men"), source.table("random_men")
    n_items = random["item"].n_unique()
    propensities = torch.tensor(thompson["propensity"].to_numpy().astype(float))
    clicks = torch.tensor(thompson["reward"].to_numpy().astype(float))
    own = torch.tensor(random["reward"].to_numpy().astype(float))
    for judge in (ips_of_policy, snips_of_policy):
        estimate = judge(clicks, propensities, torch.full_like(clicks, 1 / n_items))
        error = math.hypot(estimate.standard_error, float(own.std()) / math.sqrt(len(own)))
        assert abs(estimate.value - float(own.mean())) < 3 * error
        assert estimate.effective_sample_size < estimate.n == len(clicks)
