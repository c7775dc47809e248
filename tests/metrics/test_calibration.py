import itertools

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve

from recbench.errors import RecbenchError
from recbench.metrics.calibration import ece, reliability
from recbench.metrics.pointwise import by_group, pointwise_metrics

PARTS = ["brier", "brier_reliability", "brier_resolution", "brier_uncertainty"]


@pytest.fixture
def rows():
    """1,003 distinct probabilities that are not calibrated, and their labels."""
    generator = torch.Generator().manual_seed(5)
    p = torch.rand(1_003, generator=generator, dtype=torch.float64)
    return p, (torch.rand(1_003, generator=generator) < p.square()).double()


def test_ece_by_hand():
    p = torch.tensor([0.1, 0.2, 0.7, 0.8], dtype=torch.float64)
    y = torch.tensor([0.0, 1.0, 1.0, 1.0])
    assert ece(p, y, bins=2) == pytest.approx((abs(0.15 - 0.5) + abs(0.75 - 1)) / 2)
    assert ece(p, y, bins=1) == pytest.approx(0.75 - 0.45)
    assert ece(p, y, bins=4) == pytest.approx((0.1 + 0.8 + 0.3 + 0.2) / 4)
    assert ece(p, y, bins=50) == pytest.approx(ece(p, y, bins=4))


def test_ece_equals_direct_binning(rows):
    p, y = rows
    order = np.argsort(p.numpy())
    edges = [i * 1_003 // 20 for i in range(21)]
    bins = [order[a:b] for a, b in itertools.pairwise(edges)]
    expected = sum(len(b) * abs(p.numpy()[b].mean() - y.numpy()[b].mean()) for b in bins) / 1_003
    assert ece(p, y) == pytest.approx(expected, abs=1e-12)


def test_ece_of_a_constant_prediction():
    y = torch.tensor([1.0] * 30 + [0.0] * 70)
    assert ece(torch.full((100,), 0.3, dtype=torch.float64), y) == pytest.approx(0, abs=1e-12)
    assert ece(torch.full((100,), 0.5, dtype=torch.float64), y) == pytest.approx(0.2)


def test_the_diagram_by_hand():
    p = torch.tensor([0.8, 0.2, 0.2, 0.2], dtype=torch.float64)
    y = torch.tensor([1, 0, 1, 1])
    diagram = reliability(p, y, bins=2)
    assert diagram.rows.tolist() == [2, 2]
    # The cut falls among three tied rows: two thirds of their labels are positive on either side.
    assert diagram.prediction.tolist() == pytest.approx([0.2, 0.5])
    assert diagram.label.tolist() == pytest.approx([2 / 3, (2 / 3 + 1) / 2])


def test_the_diagram_equals_sklearn_and_scipy(rows):
    p, y = rows
    p, y = p[:1000], y[:1000]
    diagram = reliability(p, y)
    label, prediction = calibration_curve(y.numpy(), p.numpy(), n_bins=20, strategy="quantile")
    assert diagram.label.tolist() == pytest.approx(label.tolist(), abs=1e-9)
    assert diagram.prediction.tolist() == pytest.approx(prediction.tolist(), abs=1e-9)
    for n, mean, low, high in zip(diagram.rows, diagram.label, diagram.low, diagram.high, strict=True):
        wilson = binomtest(round(float(n * mean)), int(n)).proportion_ci(method="wilson")
        assert (float(low), float(high)) == pytest.approx((wilson.low, wilson.high), abs=1e-9)


@pytest.mark.parametrize("bins", [1, 7, 20, 2_000])
def test_ece_is_the_mean_gap_of_the_diagram(rows, bins):
    p, y = rows
    p = (p * 50).round() / 50
    diagram = reliability(p, y, bins)
    assert diagram.rows.sum() == len(p)
    gaps = diagram.rows * (diagram.prediction - diagram.label).abs()
    assert ece(p, y, bins) == pytest.approx(float(gaps.sum()) / len(p), abs=1e-12)


def test_the_parts_of_brier_by_hand():
    # Two predictions, each of more rows than a bin: no variance inside bins, so these are the parts of Murphy.
    p = torch.tensor([0.2] * 50 + [0.8] * 50, dtype=torch.float64)
    y = torch.tensor([1] * 20 + [0] * 30 + [1] * 40 + [0] * 10)
    values = pointwise_metrics(p, y, PARTS)
    assert values["brier_reliability"] == pytest.approx((0.2 - 0.4) ** 2 / 2)
    assert values["brier_resolution"] == pytest.approx(0.2**2)
    assert values["brier_uncertainty"] == pytest.approx(0.6 * 0.4)
    assert values["brier"] == pytest.approx(0.02 - 0.04 + 0.24)


def test_resolution_has_the_terms_inside_bins(rows):
    p, y = (values.numpy() for values in rows)
    order = np.argsort(p)
    bins = [order[i * 1_003 // 20 : (i + 1) * 1_003 // 20] for i in range(20)]
    between = sum(len(b) * (y[b].mean() - y.mean()) ** 2 for b in bins)
    variance = sum(len(b) * p[b].var() for b in bins)
    covariance = sum(len(b) * np.cov(p[b], y[b], ddof=0)[0, 1] for b in bins)
    expected = (between - variance + 2 * covariance) / 1_003
    assert pointwise_metrics(*rows, ["brier_resolution"])["brier_resolution"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_the_parts_add_up_to_brier(seed):
    generator = torch.Generator().manual_seed(seed)
    n = int(torch.randint(1, 500, (1,), generator=generator))
    p = torch.rand(n, generator=generator, dtype=torch.float64)
    if seed % 2:
        p = (p * 10).round() / 10
    y = torch.rand(n, generator=generator) < p.square()
    values = pointwise_metrics(p, y, PARTS)
    reliability_, resolution, uncertainty = (values[name] for name in PARTS[1:])
    assert reliability_ - resolution + uncertainty == pytest.approx(values["brier"], abs=1e-12)
    assert reliability_ >= 0
    assert 0 <= uncertainty <= 0.25
    assert resolution <= uncertainty + 1e-12
    groups = torch.randint(5, (n,), generator=generator)
    each = by_group(p, y, groups, PARTS)
    parts = each["brier_reliability"] - each["brier_resolution"] + each["brier_uncertainty"]
    assert parts.tolist() == pytest.approx(each["brier"].tolist(), abs=1e-12)


def test_known_parts():
    y = torch.tensor([1.0] * 30 + [0.0] * 70)
    constant = pointwise_metrics(torch.full((100,), 0.3, dtype=torch.float64), y, PARTS)
    assert list(constant.values()) == pytest.approx([0.21, 0, 0, 0.21], abs=1e-12)
    perfect = pointwise_metrics(y, y, PARTS)
    assert list(perfect.values()) == pytest.approx([0, 0, 0.21, 0.21], abs=1e-12)
    inverted = pointwise_metrics(1 - y, y, [*PARTS, "ece"])
    assert list(inverted.values()) == pytest.approx([1, 1, 0.21, 0.21, 1], abs=1e-12)


def test_tied_rows_may_come_in_any_order():
    p = torch.tensor([0.5] * 40 + [0.7] * 10)
    y = torch.tensor([1.0] * 20 + [0.0] * 25 + [1.0] * 5)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(2))
    names = [*PARTS, "ece"]
    assert pointwise_metrics(p[order], y[order], names) == pytest.approx(pointwise_metrics(p, y, names), abs=1e-12)
    assert reliability(p[order], y[order]).low.tolist() == pytest.approx(reliability(p, y).low.tolist(), abs=1e-12)


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        ([0.1, 1.5], [1.0, 0.0], "found values from 0.1 to 1.5"),
        ([0.1, 0.5], [1.0, 0.5], "labels 0 or 1, found 0.5"),
        ([0.1, float("nan")], [1.0, 0.0], "1 of 2 predictions are NaN"),
        ([], [], "N > 0"),
    ],
)
@pytest.mark.parametrize("function", [ece, reliability])
def test_what_is_no_probability_is_an_error(function, predictions, labels, message):
    with pytest.raises(RecbenchError, match=message):
        function(torch.tensor(predictions), torch.tensor(labels))
