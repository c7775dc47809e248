import itertools

import numpy as np
import pytest

from recbench.reporting.statistics.families import holm, holm_pairs, letters, rank_intervals
from recbench.reporting.statistics.paired import student_t
from recbench.reporting.statistics.summary import ALPHA


def test_holm_by_hand():
    adjusted = holm([0.01, np.nan, 0.04, 0.03, 0.005])
    assert adjusted[[0, 2, 3, 4]] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert np.isnan(adjusted[1])


def test_holm_counts_each_pair_once():
    p = np.full((3, 3), np.nan)
    for (i, j), value in {(0, 1): 0.01, (0, 2): 0.04, (1, 2): 0.03}.items():
        p[i, j] = p[j, i] = value
    adjusted = holm_pairs(p)
    assert adjusted[[0, 0, 1], [1, 2, 2]] == pytest.approx([0.03, 0.06, 0.06])
    assert adjusted[[1, 2, 2], [0, 0, 1]] == pytest.approx([0.03, 0.06, 0.06])
    assert np.isnan(np.diag(adjusted)).all()


def simulated(means: list[float], tables: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which model is better than which, in truth and as found after Holm: (models, models), (tables, ...)."""
    chance = np.random.default_rng(1)
    truth = np.subtract.outer(means, means) > 0
    found = []
    for _ in range(tables):
        values = chance.normal(0, 1, (len(means), 100)) + np.array(means)[:, None]
        differences = values[:, None] - values
        found.append((holm_pairs(student_t(differences)) < ALPHA) & (differences.mean(axis=-1) > 0))
    return truth, np.array(found)


@pytest.mark.parametrize("means", [[0.0] * 6, [0.0] * 3 + [0.6] * 3, [0.0, 0.0, 0.4, 0.4, 0.9, 0.9]])
def test_family_wise_error_and_rank_intervals(means):
    truth, found = simulated(means, 1000)
    wrong = (found & ~truth).any(axis=(1, 2))
    assert wrong.mean() < ALPHA + 0.02  # three standard errors
    intervals = [rank_intervals(better) for better in found]
    first, last = 1 + truth.sum(axis=0), len(means) - truth.sum(axis=1)  # ranks that ties allow
    held = [(low <= first).all() and (high >= last).all() for low, high in intervals]
    assert np.mean(held) >= 1 - ALPHA - 0.02
    assert (np.array(held) == ~wrong).all()


def test_pairs_uncorrected_would_not_hold_the_family():
    chance = np.random.default_rng(2)
    values = chance.normal(0, 1, (300, 6, 100))
    pairs = list(itertools.combinations(range(6), 2))
    p = np.stack([student_t(values[:, i] - values[:, j]) for i, j in pairs])
    assert (p.min(axis=0) < ALPHA).mean() > 0.2


def test_rank_intervals_by_hand():
    better = np.zeros((4, 4), dtype=bool)
    better[0, 1:] = True  # one winner, then a pair that cannot be told apart, of which one beats the last
    better[1, 3] = True
    low, high = rank_intervals(better)
    assert low.tolist() == [1, 2, 2, 3]
    assert high.tolist() == [1, 3, 4, 4]


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
