import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from recbench.reporting.statistics.hierarchical import Sample, detectable_difference, hierarchical

GRID = Path(__file__).parents[2] / "scripts" / "statistics_grid.py"


@pytest.fixture(scope="module")
def grid():
    spec = importlib.util.spec_from_file_location("statistics_grid", GRID)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def per_user(values: np.ndarray, deterministic: bool = False, label: str = "m") -> Sample:
    return Sample(label, np.nanmean(values, axis=1), values, deterministic)


def per_seed(*values: float, deterministic: bool = False) -> Sample:
    return Sample("s", np.array(values), None, deterministic)


def simulated(seeds: int, users: int = 200, seed: int = 0) -> Sample:
    chance = np.random.default_rng(seed)
    values = chance.normal(0.3, 0.1, users) + chance.normal(0, 0.1, (seeds, users)) + chance.normal(0, 0.01, (seeds, 1))
    return per_user(values, deterministic=seeds == 1)


def test_standard_error_is_that_of_crossed_variance_components():
    # In terms of mean squares, with the interaction counted once.
    a, b = simulated(5, seed=1).users, simulated(3, seed=2).users
    difference = a.mean(axis=0) - b.mean(axis=0)
    users, seeds = difference.var(ddof=1) / 200, []
    for values in (a, b):
        residuals = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
        users -= (residuals**2).sum() / ((len(values) - 1) * 199) / values.size
        seeds.append(values.mean(axis=1).var(ddof=1) / len(values))
    found = hierarchical([per_user(a), per_user(b)], draws=40_000)
    assert found.se[0, 1] == pytest.approx((users + sum(seeds)) ** 0.5, rel=0.01)
    df = (users + sum(seeds)) ** 2 / (users**2 / 199 + seeds[0] ** 2 / 4 + seeds[1] ** 2 / 2)
    assert found.df[0, 1] == pytest.approx(df, rel=0.03)
    assert found.estimate[0, 1] == pytest.approx(difference.mean())
    assert found.p[0, 1] == pytest.approx(2 * stats.t.sf(abs(found.estimate[0, 1]) / found.se[0, 1], found.df[0, 1]))
    assert found.method[0][1] == "bootstrap over users and seeds"
    assert found.n_users[0, 1] == 200


def test_deterministic_models_have_the_paired_t_test():
    a, b = simulated(1, seed=3), simulated(1, seed=4)
    repeated = per_user(np.repeat(b.users, 5, axis=0), deterministic=True)
    found = hierarchical([a, b, repeated], draws=40_000)
    theirs = stats.ttest_rel(a.users[0], b.users[0])
    for other in (1, 2):
        assert found.p[0, other] == pytest.approx(theirs.pvalue, rel=0.05)
        low, high = theirs.confidence_interval()
        assert (found.ci_low[0, other], found.ci_high[0, other]) == pytest.approx((low, high), rel=0.02)
        assert found.df[0, other] == pytest.approx(199)
        assert found.method[0][other] == "bootstrap over users"
    assert (found.p[1, 2], found.ci_low[1, 2], found.ci_high[1, 2]) == (1.0, 0.0, 0.0)  # the same for every user


def test_without_users_it_is_welchs_and_the_one_sample_t_test():
    a, b = [0.71, 0.72, 0.74, 0.73], [0.70, 0.705, 0.69]
    found = hierarchical([per_seed(*a), per_seed(*b), per_seed(0.7, deterministic=True)])
    welch = stats.ttest_ind(a, b, equal_var=False)
    assert found.p[0, 1] == pytest.approx(welch.pvalue)
    assert (found.ci_low[0, 1], found.ci_high[0, 1]) == pytest.approx(tuple(welch.confidence_interval()))
    assert found.p[0, 2] == pytest.approx(stats.ttest_1samp(a, 0.7).pvalue)
    assert found.method[0][2] == "Welch t over seeds"
    assert not found.n_users.any()


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        (per_seed(0.7), per_seed(0.6, 0.61), "no test: one seed of a stochastic model"),
        (per_seed(0.7, deterministic=True), per_seed(0.6, deterministic=True), "no test: no spread to judge by"),
        (per_seed(0.7, 0.7), per_seed(0.6, 0.6), "no test: no spread to judge by"),
    ],
)
def test_no_p_value_without_spread(a, b, reason):
    found = hierarchical([a, b])
    for values in (found.se, found.df, found.p, found.ci_low, found.ci_high):
        assert np.isnan(values).all()
    assert found.estimate[0, 1] == pytest.approx(0.1, abs=0.01)
    assert found.method[0][1] == found.method[1][0] == reason


def test_a_single_seed_is_judged_by_users_and_says_so():
    one = per_user(simulated(5, seed=5).users[:1])
    found = hierarchical([one, simulated(5, seed=6), simulated(1, seed=7)])
    assert found.method[0][1] == "bootstrap over users and seeds, luck of a single seed not counted"
    assert found.method[0][2] == "bootstrap over users, luck of a single seed not counted"
    assert np.isfinite(found.p[0, 1:]).all()


def test_a_table_where_some_have_users():
    found = hierarchical([simulated(5, seed=8), simulated(5, seed=9), per_seed(0.3, 0.31, 0.32)])
    assert found.n_users.tolist() == [[200, 200, 0], [200, 200, 0], [0, 0, 0]]
    assert found.method[0][2] == "Welch t over seeds"
    assert found.p[0, 2] == pytest.approx(
        stats.ttest_ind(simulated(5, seed=8).seeds, [0.3, 0.31, 0.32], equal_var=False).pvalue
    )


def test_users_are_those_all_models_have():
    a, b = simulated(5, seed=10).users, simulated(3, seed=11).users
    with_gaps = a.copy(), b.copy()
    with_gaps[0][2, 0] = with_gaps[1][0, 7] = np.nan
    kept = np.delete(np.arange(200), [0, 7])
    found = hierarchical([per_user(values) for values in with_gaps])
    expected = hierarchical([per_user(a[:, kept]), per_user(b[:, kept])])
    assert found.n_users[0, 1] == 198
    assert found.p[0, 1] == expected.p[0, 1]
    assert found.estimate[0, 1] == expected.estimate[0, 1]


def test_no_shared_users_leaves_the_seeds():
    a, b = simulated(5, seed=12).users.copy(), simulated(5, seed=13).users.copy()
    a[:, :100], b[:, 100:] = np.nan, np.nan
    found = hierarchical([per_user(a), per_user(b)])
    assert found.method[0][1] == "Welch t over seeds"


def test_matrices_are_seen_from_both_sides():
    found = hierarchical([simulated(5, seed=k) for k in range(4)])
    assert found.estimate == pytest.approx(-found.estimate.T)
    assert found.p == pytest.approx(found.p.T, nan_ok=True)
    assert found.ci_low == pytest.approx(-found.ci_high.T, nan_ok=True)
    assert np.isnan(np.diag(found.p)).all()


def test_the_same_call_gives_the_same_numbers():
    samples = [simulated(5, seed=k) for k in range(3)]
    assert np.array_equal(hierarchical(samples).p, hierarchical(samples).p, equal_nan=True)


@pytest.mark.parametrize(
    "setting",
    [
        {"users": 943, "seeds": (1, 1), "shape": "skewed", "ratio": 0.0, "interaction": 0.0},
        {"users": 100, "seeds": (5, 1), "shape": "normal", "ratio": 3.0, "interaction": 0.0},
        {"users": 100, "seeds": (3, 5), "shape": "heavy-tailed", "ratio": 1.0, "interaction": 0.5},
        {"users": 100, "seeds": (5, 5), "shape": "sparse", "ratio": 0.0, "interaction": 0.95},
    ],
)
def test_level_and_coverage(grid, setting):
    found = grid.cell(1, pairs=2000, **setting, unequal=1.0, shift=0.0)
    assert 0.035 <= found["told_apart"] <= 0.065  # 0.05 within three standard errors
    found = grid.cell(2, pairs=2000, **setting, unequal=1.0, shift=3.0)
    assert 0.93 <= found["coverage"] <= 0.97
    assert found["told_apart"] > 0.1


def test_the_grid_on_file_keeps_what_is_promised(grid):
    found = json.loads(GRID.with_suffix(".json").read_text())
    settings = grid.settings(["normal", "heavy-tailed", "sparse", "skewed"])
    numbers = {"pairs", "told_apart", "coverage"}
    on_file = [{k: v for k, v in cell.items() if k not in numbers} for cell in found["verdict"]]
    assert on_file == json.loads(json.dumps(settings))
    for cell in found["verdict"]:
        assert 0.035 <= cell["told_apart"] <= 0.065, cell
    for cell in found["verdict"] + found["true_difference"]:
        assert 0.93 <= cell["coverage"] <= 0.97, cell
    for family in found["families"]:
        assert family["family_wise_error"] <= 0.05 + 0.02
        assert family["rank_intervals_hold"] >= 0.95 - 0.02
    for case in found["power"]:
        assert case["power"] == pytest.approx(0.8, abs=0.03)


def test_detectable_difference():
    # Paired t: (z(0.975) + z(0.8)) sd / root of n, nearly, with many users.
    assert detectable_difference(0.2, 10_000, seeds=1) == pytest.approx(2.8016 * 0.2 / 100, rel=1e-3)
    assert detectable_difference(0.2, 943, 0.005) > detectable_difference(0.2, 943, 0.005, seeds=10)
    assert detectable_difference(0.2, 943, 0.005, pairs=91) > detectable_difference(0.2, 943, 0.005)
    # Seeds alone, two samples of five: the noncentral t with 8 degrees of freedom.
    shift = detectable_difference(0.0, 2, 0.01, 5) / (0.01 * (2 / 5) ** 0.5)
    assert stats.nct.sf(stats.t.ppf(0.975, 8), 8, shift) == pytest.approx(0.8, abs=2e-3)


def test_power_is_that_stated(grid):
    assert grid.power(3, 943, 0.2, 0.005, 5, 1)["power"] == pytest.approx(0.8, abs=0.03)
