"""One model over its seeds; the grid of simulations."""

import numpy as np
import pytest

from recbench.reporting.statistics.summary import summarise


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
