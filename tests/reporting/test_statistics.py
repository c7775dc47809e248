import itertools

import numpy as np
import pytest
from scipy import stats

from recbench.reporting.statistics import (
    ALPHA,
    holm,
    joint_difference,
    letters,
    seed_difference,
    signed_rank,
    summarise,
    user_difference,
)


def rejections(p: np.ndarray) -> float:
    return float((p < ALPHA).mean())


def test_interval_over_seeds_by_hand():
    summary = summarise([1.0, 2.0, 3.0, 4.0, 5.0], deterministic=False)
    assert summary.mean == 3.0
    assert summary.sd == pytest.approx(2.5**0.5)
    # t(0.975, 4) = 2.7764; standard error = sqrt(2.5 / 5).
    assert summary.ci95 == pytest.approx((3 - 2.7764 * 0.5**0.5, 3 + 2.7764 * 0.5**0.5), abs=1e-3)


@pytest.mark.parametrize(("values", "deterministic"), [([0.3], False), ([0.3], True), ([0.3, 0.3], True)])
def test_no_interval_without_a_known_spread(values, deterministic):
    summary = summarise(values, deterministic)
    assert (summary.sd, summary.ci95, summary.mean) == (None, None, 0.3)


def test_interval_covers_the_truth_95_times_in_100():
    draws = np.random.default_rng(1).normal(0.3, 0.01, (2000, 5))
    covered = [low <= 0.3 <= high for low, high in (summarise(list(draw), False).ci95 for draw in draws)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("rounded", [False, True])
def test_signed_rank_agrees_with_scipy(rounded):
    difference = np.random.default_rng(2).normal(0.1, 1, 200)
    if rounded:  # ties and zeros, as in ranking metrics
        difference = np.round(difference)
    _, p = signed_rank(difference)
    theirs = stats.wilcoxon(difference, zero_method="pratt", correction=False, method="asymptotic").pvalue
    assert float(p) == pytest.approx(theirs, rel=1e-6)


def per_user_values(chance: np.random.Generator, draws: int, users: int) -> np.ndarray:
    """Binary-relevance reciprocal ranks with many exact ties between models: 0, 1/5, 1/2 or 1, by chance alike."""
    return chance.choice([0.0, 0.2, 0.5, 1.0], p=[0.5, 0.2, 0.2, 0.1], size=(draws, users))


@pytest.mark.parametrize("users", [20, 300])
def test_type_one_error_over_users(users):
    chance = np.random.default_rng(3)
    _, p = signed_rank(per_user_values(chance, 2000, users) - per_user_values(chance, 2000, users))
    assert 0.03 < rejections(p) < 0.065  # 0.05 within three standard errors of 2000 draws


def test_power_over_users():
    chance = np.random.default_rng(4)
    _, p = signed_rank(chance.normal(0.02, 0.1, (500, 300)))  # d_z = 0.2: a paired t-test has power 0.93
    assert rejections(p) > 0.85


@pytest.mark.parametrize("deterministic", [False, True])
def test_type_one_error_over_seeds(deterministic):
    chance = np.random.default_rng(5)
    a = chance.normal(0.78, 0.002, (2000, 5))
    b = np.full((2000, 1), 0.78) if deterministic else chance.normal(0.78, 0.0005, (2000, 5))
    p = np.array([seed_difference(list(x), list(y), False, deterministic).p for x, y in zip(a, b, strict=True)])
    assert 0.03 < rejections(p) < 0.065


def test_seed_difference_is_welch_and_one_sample_t():
    a, b = [0.71, 0.72, 0.74, 0.73], [0.70, 0.705, 0.69]
    welch = stats.ttest_ind(a, b, equal_var=False)
    ours = seed_difference(a, b)
    assert ours.p == pytest.approx(welch.pvalue)
    assert ours.ci95 == pytest.approx(tuple(welch.confidence_interval(0.95)))
    against_exact = seed_difference([0.7], a, a_deterministic=True)
    assert against_exact.p == pytest.approx(stats.ttest_1samp(a, 0.7).pvalue)
    assert against_exact.estimate < 0


@pytest.mark.parametrize(
    ("a", "b", "deterministic"),
    [([0.7], [0.6, 0.61], False), ([0.7], [0.6], True), ([0.7, 0.7], [0.6, 0.6], False)],
)
def test_no_p_value_without_spread(a, b, deterministic):
    difference = seed_difference(a, b, deterministic, deterministic)
    assert difference.p is None
    assert difference.ci95 is None
    assert difference.estimate == pytest.approx(0.1, abs=0.01)


def test_user_difference_states_size_and_certainty():
    b = np.random.default_rng(6).normal(0.3, 0.2, 500)
    d = np.random.default_rng(7).normal(0.03, 0.1, 500)
    found = user_difference(np.append(b + d, [np.nan, 1.0]), np.append(b, [1.0, np.nan]))
    assert found.n == 500
    assert found.estimate == pytest.approx(d.mean())
    assert found.effect == pytest.approx(d.mean() / d.std(ddof=1))
    assert found.ci95 == pytest.approx(tuple(stats.ttest_1samp(d, 0).confidence_interval(0.95)))
    assert found.p < 0.001
    assert found.negated().negated() == found
    assert found.negated().ci95 == pytest.approx(user_difference(b, b + d).ci95)


def test_equal_models_do_not_differ():
    same = np.linspace(0, 1, 50)
    assert (user_difference(same, same).p, user_difference(same, same).effect) == (1.0, None)


def test_ranks_against_the_mean_are_no_evidence_for_it():
    few_gain_much = np.array([1.0] * 10 + [-0.05] * 90)
    assert float(signed_rank(few_gain_much)[1]) < 0.001
    found = user_difference(few_gain_much, np.zeros(100))
    assert found.estimate > 0
    assert found.p == 1.0


def test_joint_difference_needs_both_users_and_seeds():
    chance = np.random.default_rng(8)
    users = user_difference(chance.normal(0.02, 0.05, 500), np.zeros(500))
    lucky = seed_difference([0.32, 0.29, 0.33], [0.30, 0.31, 0.28])
    steady = seed_difference([0.32, 0.321, 0.319], [0.30, 0.301, 0.299])
    assert users.p < 1e-6
    assert joint_difference(users, lucky).p == lucky.p > ALPHA
    assert joint_difference(users, steady).p == steady.p < ALPHA
    assert joint_difference(users, seed_difference([0.3], [0.3], True, True)) == users


def test_training_luck_that_all_users_share_is_no_evidence():
    # The case the test over users alone gets wrong: equal models, five seeds, a shared sd over seeds of 0.004.
    chance = np.random.default_rng(9)
    alone, joint = [], []
    for _ in range(600):
        luck = chance.normal(0, 0.004, (2, 5))
        difference = chance.normal(luck[0].mean() - luck[1].mean(), 0.05, 900)
        users = user_difference(difference, np.zeros(900))
        alone.append(users.p)
        joint.append(joint_difference(users, seed_difference(list(luck[0]), list(luck[1]))).p)
    assert rejections(np.array(alone)) > 0.15
    assert rejections(np.array(joint)) < ALPHA + 3 * (ALPHA * (1 - ALPHA) / 600) ** 0.5


def test_holm_by_hand():
    adjusted = holm([0.01, np.nan, 0.04, 0.03, 0.005])
    assert adjusted[[0, 2, 3, 4]] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert np.isnan(adjusted[1])


def test_holm_keeps_the_family_wise_error():
    chance = np.random.default_rng(8)
    scores = chance.normal(0, 1, (400, 6, 100))  # six equal models, 15 pairs
    pairs = list(itertools.combinations(range(6), 2))
    p = np.stack([signed_rank(scores[:, i] - scores[:, j])[1] for i, j in pairs], axis=1)
    raw = (p.min(axis=1) < ALPHA).mean()
    corrected = np.mean([np.nanmin(holm(row)) < ALPHA for row in p])
    assert raw > 0.2
    assert corrected < 0.075


def test_letters_share_exactly_where_models_cannot_be_told_apart():
    different = np.zeros((4, 4), dtype=bool)
    for i, j in [(0, 2), (0, 3), (1, 3)]:  # 0~1, 1~2, 2~3: a chain
        different[i, j] = different[j, i] = True
    assert letters(different) == ["a", "ab", "bc", "c"]
    chance = np.random.default_rng(9)
    for _ in range(50):
        random = np.triu(chance.random((7, 7)) < 0.4, 1)
        random |= random.T
        found = letters(random)
        for i, j in itertools.combinations(range(7), 2):
            assert bool(set(found[i]) & set(found[j])) != random[i, j]
