import numpy as np
import pytest
from scipy import stats

from recbench.reporting.statistics.paired import (
    bootstrap_t,
    matched_effect,
    paired,
    resampled,
    sign_flip,
    signed_rank,
    student_t,
    superiority,
)
from recbench.reporting.statistics.summary import ALPHA

TESTS = [student_t, signed_rank, sign_flip, bootstrap_t]


def reciprocal_ranks(chance: np.random.Generator, *size: int) -> np.ndarray:
    """Per-user values with many exact ties between models."""
    return chance.choice([0.0, 0.2, 0.5, 1.0], p=[0.5, 0.2, 0.2, 0.1], size=size)


def test_student_t_is_scipys():
    d = np.random.default_rng(1).normal(0.1, 1, (3, 2, 80))
    assert student_t(d) == pytest.approx(stats.ttest_1samp(d, 0, axis=-1).pvalue)


@pytest.mark.parametrize("rounded", [False, True])
def test_signed_rank_is_scipys(rounded):
    d = np.random.default_rng(2).normal(0.1, 1, 200)
    if rounded:  # ties and zeros, as in ranking metrics
        d = np.round(d)
    theirs = stats.wilcoxon(d, zero_method="pratt", correction=False, method="asymptotic").pvalue
    assert signed_rank(d) == pytest.approx(theirs, rel=1e-6)


def test_sign_flip_is_the_exact_test_where_all_swaps_can_be_listed():
    d = np.array([0.3, -0.1, 0.2, 0.4, 0.05, 0.0, 0.2, -0.2, 0.1, 0.3])
    exact = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flip(d, draws=20_000) == pytest.approx(exact, abs=0.01)


def test_bootstrap_t_agrees_with_t_for_normal_differences():
    d = np.random.default_rng(3).normal(0.1, 1, (20, 300))
    assert bootstrap_t(d) == pytest.approx(student_t(d), abs=0.03)


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("users", [30, 300])
def test_level(test, users):
    chance = np.random.default_rng(4)
    parts = [test(reciprocal_ranks(chance, 200, users) - reciprocal_ranks(chance, 200, users)) for _ in range(10)]
    assert 0.035 <= np.mean(np.concatenate(parts) < ALPHA) <= 0.065  # 0.05 within three standard errors


@pytest.mark.parametrize("test", TESTS)
def test_power(test):
    d = np.random.default_rng(5).normal(0.02, 0.1, (500, 300))  # d_z = 0.2: a paired t-test has power 0.93
    assert 0.88 < np.mean(test(d) < ALPHA) < 0.97


@pytest.mark.parametrize("test", TESTS)
def test_either_side_and_any_order_of_users(test):
    d = np.random.default_rng(6).normal(0.2, 1, (4, 100))
    assert test(-d) == pytest.approx(test(d))
    noise = 0.0 if test in (student_t, signed_rank) else 0.03
    assert test(d[:, ::-1]) == pytest.approx(test(d), abs=noise + 1e-12)


@pytest.mark.parametrize("test", TESTS)
def test_equal_models_do_not_differ(test):
    assert test(np.zeros((2, 50))) == pytest.approx([1.0, 1.0])


def test_p_of_drawn_tests_is_never_zero():
    d = np.random.default_rng(7).normal(9, 1, 50)
    assert sign_flip(d, draws=99) == bootstrap_t(d, draws=99) == 0.01


def test_draws_do_not_depend_on_chunks(monkeypatch):
    d = np.random.default_rng(8).normal(0.1, 1, (3, 40))
    whole = sign_flip(d, 500), bootstrap_t(d, 500)
    monkeypatch.setattr("recbench.reporting.statistics.paired.CELLS", 40 * 7)
    parts = list(resampled(40, 20, np.random.default_rng(0)))
    assert [part.shape for part in parts] == [(7, 40), (7, 40), (6, 40)]
    assert all((part.sum(axis=1) == 40).all() for part in parts)
    assert np.array_equal((sign_flip(d, 500), bootstrap_t(d, 500)), whole)


def test_effect_sizes_by_hand():
    d = np.array([0.2, 0.0, 0.4, -0.2])
    assert matched_effect(d) == pytest.approx(0.1 / np.sqrt((0.01 + 0.01 + 0.09 + 0.09) / 3))
    assert superiority(d) == (2 + 0.5) / 4
    assert superiority(-d) == 1 - superiority(d)
    assert np.isnan(matched_effect(np.zeros(4)))
    assert superiority(np.zeros(4)) == 0.5


def test_ranks_and_mean_can_point_apart():
    few_gain_much = np.array([1.0] * 10 + [-0.05] * 90)
    assert signed_rank(few_gain_much) < 0.001
    assert few_gain_much.mean() > 0 > superiority(few_gain_much) - 0.5


def test_all_at_once_keeps_the_shape():
    d = np.random.default_rng(9).normal(0.1, 1, (3, 2, 60))
    found = paired(d, draws=200)
    for values in vars(found).values():
        assert values.shape == (3, 2)
    assert found.bootstrap[2, 1] == pytest.approx(bootstrap_t(d[2, 1], 200))
