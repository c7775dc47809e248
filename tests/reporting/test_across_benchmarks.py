import numpy as np
import pytest
from scipy import stats

from recbench.errors import RecbenchError
from recbench.reporting.statistics.benchmarks import average_ranks, borda, critical_difference, win_rates

# Demšar (2006), table 6: AUC of C4.5, C4.5+m, C4.5+cf, C4.5+m+cf on 14 data sets. On voting the last two differ beyond
# the three digits printed.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)
HIGHER = np.ones(14, dtype=bool)


@pytest.mark.parametrize(("models", "published"), [(2, 1.960), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_values_of_the_paper(models, published):
    quantile = critical_difference(models, 10) / (models * (models + 1) / 60) ** 0.5
    assert quantile == pytest.approx(published, abs=6e-4)


def test_worked_example_of_the_paper():
    found = average_ranks(DEMSAR, HIGHER)
    assert found.ranks == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert found.critical_difference == pytest.approx(1.25, abs=5e-3)
    assert found.groups == [[3, 1, 2, 0]]  # Nemenyi tells none apart: 3.143 - 1.964 < 1.25
    # F of Iman and Davenport from the statistic corrected for ties; the paper, without that, has 3.69.
    chi2 = stats.friedmanchisquare(*DEMSAR.T).statistic
    f = 13 * chi2 / (14 * 3 - chi2)
    assert found.p == pytest.approx(stats.f.sf(f, 3, 39), abs=0.004)
    assert found.p < 0.05


def test_lower_is_better_turns_the_ranks():
    mixed = np.where(np.arange(14)[:, None] % 2, -DEMSAR, DEMSAR)
    assert average_ranks(mixed, np.arange(14) % 2 == 0).ranks == pytest.approx(average_ranks(DEMSAR, HIGHER).ranks)


def test_ranks_are_over_the_benchmarks_that_all_have():
    scores = DEMSAR.copy()
    scores[[0, 5], [1, 2]] = np.nan
    found = average_ranks(scores, HIGHER)
    whole = np.delete(np.arange(14), [0, 5])
    assert found.complete.nonzero()[0].tolist() == whole.tolist()
    assert found.ranks == pytest.approx(average_ranks(DEMSAR[whole], HIGHER[whole]).ranks)


def test_friedman_is_exact_with_two_benchmarks():
    scores = np.array([[3.0, 2.0, 1.0], [0.3, 0.2, 0.1]])
    assert average_ranks(scores, HIGHER[:2]).p == pytest.approx(1 / 6, abs=0.01)  # 6 of 36 orders agree wholly
    assert average_ranks(scores[:1], HIGHER[:1]).p == 1.0


def test_friedman_keeps_its_level():
    chance = np.random.default_rng(1)
    p = np.array([average_ranks(chance.random((6, 4)), HIGHER[:6]).p for _ in range(400)])
    assert 0.02 < (p < 0.05).mean() < 0.083


def test_groups_overlap_where_the_chain_does():
    chance = np.random.default_rng(2)
    scores = -np.array([0.0, 1.0, 2.0, 9.0]) + chance.normal(0, 0.05, (30, 4))  # ranks 1, 2, 3, 4 throughout
    assert average_ranks(scores, np.ones(30, dtype=bool)).critical_difference == pytest.approx(0.856, abs=1e-3)
    assert average_ranks(scores, np.ones(30, dtype=bool)).groups == []
    assert average_ranks(scores[:14], HIGHER).groups == [[0, 1], [1, 2], [2, 3]]  # within 1.25
    assert average_ranks(scores[:5], HIGHER[:5]).groups == [[0, 1, 2], [1, 2, 3]]  # within 2.10


@pytest.mark.parametrize("scores", [np.array([[0.1], [0.2]]), np.array([[0.1, np.nan], [np.nan, 0.2]])])
def test_no_ranks_without_a_common_benchmark(scores):
    with pytest.raises(RecbenchError, match="two models or more and a benchmark that all of them have"):
        average_ranks(scores, HIGHER[:2])


def test_borda_leaves_out_what_was_not_run():
    scores = np.array([[0.3, 0.2, 0.2, 0.9], [0.1, 0.2, 0.3, np.nan]])
    assert borda(scores, np.array([True, True])) == [2.0, 1.5, 2.5, None]
    assert borda(scores, np.array([True, False])) == [4.0, 1.5, 0.5, None]
    assert borda(np.full((2, 2), np.nan), np.array([True, True])) == [None, None]


def test_win_rates_by_hand():
    scores = np.array([[0.3, 0.2, 0.2], [0.1, 0.2, np.nan]])
    overall, pairs = win_rates(scores, np.array([True, True]))
    assert overall == pytest.approx([2 / 3, 1.5 / 3, 0.5 / 2])
    assert pairs[0, 1] == 0.5
    assert (pairs[0, 2], pairs[1, 2], pairs[2, 1]) == (1.0, 0.5, 0.5)
    assert np.isnan(np.diag(pairs)).all()
    alone, _ = win_rates(np.array([[0.3, np.nan], [np.nan, 0.1]]), np.array([True, True]))
    assert np.isnan(alone).all()
