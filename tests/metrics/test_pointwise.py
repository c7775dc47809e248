import itertools
import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from recbench.errors import RecbenchError, UsageError
from recbench.metrics.names import POINTWISE
from recbench.metrics.pointwise import auc, brier, ece, log_loss, mse, pointwise_metrics, rmse


@pytest.fixture
def rows():
    """5,000 calibrated probabilities rounded to hundredths, so that most are tied, and their labels."""
    generator = torch.Generator().manual_seed(3)
    probabilities = torch.rand(5_000, generator=generator, dtype=torch.float64).square().mul(100).round().div(100)
    labels = torch.rand(5_000, generator=generator) < probabilities
    return probabilities, labels.float()


def test_all_equal_sklearn(rows):
    p, y = rows
    values = pointwise_metrics(p, y, list(POINTWISE))
    p, y = p.numpy(), y.numpy()
    assert values["auc"] == pytest.approx(sklearn_metrics.roc_auc_score(y, p), abs=1e-12)
    assert values["logloss"] == pytest.approx(sklearn_metrics.log_loss(y, p), abs=1e-12)
    assert values["brier"] == pytest.approx(sklearn_metrics.brier_score_loss(y, p), abs=1e-12)
    assert values["mse"] == values["brier"]
    assert values["rmse"] == pytest.approx(sklearn_metrics.root_mean_squared_error(y, p), abs=1e-12)
    assert values["mae"] == pytest.approx(sklearn_metrics.mean_absolute_error(y, p), abs=1e-12)
    assert values["pcoc"] == pytest.approx(p.sum() / y.sum(), abs=1e-12)


def test_values_do_not_depend_on_the_order_of_rows(rows):
    p, y = rows
    order = torch.randperm(len(p), generator=torch.Generator().manual_seed(1))
    assert pointwise_metrics(p[order], y[order], list(POINTWISE)) == pytest.approx(
        pointwise_metrics(p, y, list(POINTWISE)), abs=1e-12
    )


def test_auc_by_hand():
    labels = torch.tensor([1, 0, 1, 0])
    assert auc(torch.tensor([0.9, 0.1, 0.8, 0.2]), labels) == 1
    assert auc(torch.tensor([0.1, 0.9, 0.2, 0.8]), labels) == 0
    assert auc(torch.zeros(4), labels) == 0.5
    # Of four pairs: 0.9 beats both, 0.5 ties with one and beats the other.
    assert auc(torch.tensor([0.9, 0.5, 0.5, 0.2]), labels) == 3.5 / 4


def test_logloss_by_hand():
    assert log_loss(torch.tensor([0.0, 0.0]), torch.tensor([0, 1])) == pytest.approx(math.log(2))
    # The logit keeps what the probability has lost.
    assert log_loss(torch.tensor([100.0]), torch.tensor([0.0])) == 100
    certain_and_wrong = pointwise_metrics(torch.ones(1), torch.zeros(1), ["logloss"])["logloss"]
    assert certain_and_wrong == pytest.approx(-math.log(np.finfo(np.float64).eps))


def test_logloss_of_logits_and_of_probabilities_agree(rows):
    _, y = rows
    logits = torch.randn(len(y), generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4
    from_probabilities = pointwise_metrics(logits.sigmoid(), y, ["logloss"])["logloss"]
    assert from_probabilities == pytest.approx(log_loss(logits, y), abs=1e-12)


def test_ece_by_hand():
    p = torch.tensor([0.1, 0.2, 0.7, 0.8], dtype=torch.float64)
    y = torch.tensor([0.0, 1.0, 1.0, 1.0])
    assert ece(p, y, bins=2) == pytest.approx((abs(0.15 - 0.5) + abs(0.75 - 1)) / 2)
    assert ece(p, y, bins=1) == pytest.approx(0.75 - 0.45)
    assert ece(p, y, bins=4) == pytest.approx((0.1 + 0.8 + 0.3 + 0.2) / 4)
    assert ece(p, y, bins=50) == pytest.approx(ece(p, y, bins=4))


def test_ece_equals_direct_binning():
    generator = torch.Generator().manual_seed(5)
    p = torch.rand(1_003, generator=generator, dtype=torch.float64)
    y = (torch.rand(1_003, generator=generator) < p.square()).double()
    order = np.argsort(p.numpy())
    edges = [i * 1_003 // 20 for i in range(21)]
    bins = [order[a:b] for a, b in itertools.pairwise(edges)]
    expected = sum(len(b) * abs(p.numpy()[b].mean() - y.numpy()[b].mean()) for b in bins) / 1_003
    assert ece(p, y) == pytest.approx(expected, abs=1e-12)


def test_ece_of_a_constant_prediction():
    y = torch.tensor([1.0] * 30 + [0.0] * 70)
    assert ece(torch.full((100,), 0.3, dtype=torch.float64), y) == pytest.approx(0, abs=1e-12)
    assert ece(torch.full((100,), 0.5, dtype=torch.float64), y) == pytest.approx(0.2)


def test_errors_of_ratings_take_any_range():
    predictions, ratings = torch.tensor([3.0, 5.0]), torch.tensor([4.0, 2.0])
    assert mse(predictions, ratings) == 5
    assert rmse(predictions, ratings) == math.sqrt(5)
    assert pointwise_metrics(predictions, ratings, ["mae"]) == {"mae": 2}


@pytest.mark.parametrize(
    ("name", "predictions", "labels", "message"),
    [
        ("auc", [0.1, 0.2], [1, 1], "both classes, found 2 positive and 0 negative"),
        ("auc", [0.1, 0.2], [1, 3], "labels 0 or 1, found 3"),
        ("auc", [0.1, math.nan], [1, 0], "1 of 2 predictions are NaN"),
        ("mse", [], [], "N > 0"),
        ("mse", [1.0], [1.0, 2.0], r"\(1,\) and \(2,\)"),
        ("logloss", [-2.0, 0.5], [1, 0], "found values from -2 to 0.5"),
        ("brier", [0.1, 1.5], [1, 0], "found values from 0.1 to 1.5"),
        ("pcoc", [0.1, 0.2], [0, 0], "labels sum to 0"),
    ],
)
def test_undefined_values_are_errors(name, predictions, labels, message):
    with pytest.raises(RecbenchError, match=message):
        pointwise_metrics(torch.tensor(predictions), torch.tensor(labels), [name])


def test_unknown_name():
    with pytest.raises(UsageError, match="did you mean logloss"):
        pointwise_metrics(torch.zeros(1), torch.zeros(1), ["log_loss"])


def test_brier_needs_classes():
    with pytest.raises(RecbenchError, match="labels 0 or 1"):
        brier(torch.tensor([0.5]), torch.tensor([0.5]))
