import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from recbench.errors import RecbenchError, UsageError
from recbench.metrics.names import GROUPED, POINTWISE
from recbench.metrics.pointwise import (
    LINEARISED,
    auc,
    brier,
    by_group,
    linearised,
    log_loss,
    mse,
    pointwise_metrics,
    rmse,
)

NAMES = [name.replace("NN", "10") for name in POINTWISE]
OF_ORDER = ["auc", "pauc.05", "pauc.10", "pauc.80", "prauc"]


@pytest.fixture
def rows():
    """5,000 calibrated probabilities rounded to hundredths, so that most are tied, and their labels."""
    generator = torch.Generator().manual_seed(3)
    probabilities = torch.rand(5_000, generator=generator, dtype=torch.float64).square().mul(100).round().div(100)
    labels = torch.rand(5_000, generator=generator) < probabilities
    return probabilities, labels.float()


@pytest.fixture
def groups(rows):
    """Groups of the rows of very different size, some of one row, numbered with gaps."""
    generator = torch.Generator().manual_seed(4)
    groups = (torch.rand(len(rows[0]), generator=generator) ** 3 * 60).long() * 7 - 20
    groups[:10] = 1_000 - torch.arange(10)
    return groups


def sklearn_pauc(labels, scores, share):
    return sklearn_metrics.roc_auc_score(labels, scores, max_fpr=share)


def test_all_equal_sklearn(rows):
    p, y = rows
    values = pointwise_metrics(p, y, [*NAMES, "pauc.05", "pauc.80"])
    p, y = p.numpy(), y.numpy()
    expected = {
        "auc": sklearn_metrics.roc_auc_score(y, p),
        "pauc.05": sklearn_pauc(y, p, 0.05),
        "pauc.10": sklearn_pauc(y, p, 0.10),
        "pauc.80": sklearn_pauc(y, p, 0.80),
        "prauc": sklearn_metrics.average_precision_score(y, p),
        "logloss": sklearn_metrics.log_loss(y, p),
        "ne": sklearn_metrics.log_loss(y, p) / sklearn_metrics.log_loss(y, np.full(len(y), y.mean(dtype=float))),
        "brier": sklearn_metrics.brier_score_loss(y, p),
        "mse": sklearn_metrics.mean_squared_error(y, p),
        "rmse": sklearn_metrics.root_mean_squared_error(y, p),
        "mae": sklearn_metrics.mean_absolute_error(y, p),
        "pcoc": p.sum() / y.sum(),
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(30))
def test_metrics_of_the_order_equal_sklearn_on_small_tied_data(seed):
    generator = torch.Generator().manual_seed(seed)
    n = int(torch.randint(4, 40, (1,), generator=generator))
    scores = torch.randint(-3, 4, (n,), generator=generator).double()
    labels = torch.randint(2, (n,), generator=generator)
    labels[:2] = torch.tensor([0, 1])
    values = pointwise_metrics(scores, labels, OF_ORDER)
    y, s = labels.numpy(), scores.numpy()
    assert values["auc"] == pytest.approx(sklearn_metrics.roc_auc_score(y, s), abs=1e-12)
    assert values["prauc"] == pytest.approx(sklearn_metrics.average_precision_score(y, s), abs=1e-12)
    for name, share in (("pauc.05", 0.05), ("pauc.10", 0.10), ("pauc.80", 0.80)):
        assert values[name] == pytest.approx(sklearn_pauc(y, s, share), abs=1e-12)


def test_values_do_not_depend_on_the_order_of_rows(rows, groups):
    p, y = rows
    order = torch.randperm(len(p), generator=torch.Generator().manual_seed(1))
    names = [*NAMES, *GROUPED]
    values = pointwise_metrics(p, y, names, groups=groups)
    assert pointwise_metrics(p[order], y[order], names, groups=groups[order]) == pytest.approx(values, abs=1e-12)
    assert auc(p[order], y[order]) == values["auc"]
    for name in LINEARISED:
        name = name.replace("NN", "10")  # noqa: PLW2901
        expected = linearised(p, y, groups, name)[1]
        shuffled = linearised(p[order], y[order], groups[order], name)[1]
        assert shuffled.tolist() == pytest.approx(expected.tolist(), abs=1e-9, nan_ok=True)


def test_metrics_of_the_order_do_not_depend_on_the_scale(rows):
    p, y = rows
    expected = pointwise_metrics(p, y, OF_ORDER)
    assert pointwise_metrics(p.exp() * 1000 - 7, y, OF_ORDER) == expected
    assert auc(-p, y) == pytest.approx(1 - expected["auc"], abs=1e-15)


def test_float32_counts_as_the_same_values(rows):
    p, y = rows
    p = p.float()
    assert pointwise_metrics(p, y, NAMES) == pointwise_metrics(p.double(), y.bool(), NAMES)


def test_auc_by_hand():
    labels = torch.tensor([1, 0, 1, 0])
    assert auc(torch.tensor([0.9, 0.1, 0.8, 0.2]), labels) == 1
    assert auc(torch.tensor([0.1, 0.9, 0.2, 0.8]), labels) == 0
    assert auc(torch.zeros(4), labels) == 0.5
    # Of four pairs: 0.9 beats both, 0.5 ties with one and beats the other.
    assert auc(torch.tensor([0.9, 0.5, 0.5, 0.2]), labels) == 3.5 / 4


def test_partial_auc_by_hand():
    # From the top: + - + - -. Up to a false positive rate of .5 the curve is 1/2 for 1/3, then 1 for 1/6.
    scores, labels = torch.tensor([5, 4, 3, 2, 1]), torch.tensor([1, 0, 1, 0, 0])
    area = 1 / 2 / 3 + 1 / 6
    value = pointwise_metrics(scores, labels, ["pauc.50"])["pauc.50"]
    assert value == pytest.approx((1 + (area - 0.125) / (0.5 - 0.125)) / 2)


def test_average_precision_by_hand():
    # From the top: +, then a tie of + and -, then -.
    scores, labels = torch.tensor([3.0, 2.0, 2.0, 1.0]), torch.tensor([1, 1, 0, 0])
    assert pointwise_metrics(scores, labels, ["prauc"])["prauc"] == pytest.approx((1 + 2 / 3) / 2)


def test_perfect_worst_and_constant_scores():
    y = torch.tensor([1] * 20 + [0] * 80)
    perfect = pointwise_metrics(y, y, [*OF_ORDER, "brier", "mae", "ece"])
    assert list(perfect.values()) == [1, 1, 1, 1, 1, 0, 0, 0]
    worst = pointwise_metrics(1 - y, y, ["auc", "pauc.10", "prauc", "brier", "mae"])
    assert list(worst.values()) == pytest.approx([0, 0.9 / 1.9, 0.2, 1, 1])
    constant = pointwise_metrics(torch.full((100,), 0.2, dtype=torch.float64), y, [*OF_ORDER, "ne", "pcoc"])
    assert list(constant.values()) == pytest.approx([0.5, 0.5, 0.5, 0.5, 0.2, 1, 1])


def test_logloss_by_hand():
    assert log_loss(torch.tensor([0.0, 0.0]), torch.tensor([0, 1])) == pytest.approx(math.log(2))
    # The logit keeps what the probability has lost.
    assert log_loss(torch.tensor([100.0]), torch.tensor([0.0])) == 100
    certain = torch.tensor([1.0, 0.0])
    wrong, right = (pointwise_metrics(certain, labels, ["logloss"])["logloss"] for labels in (1 - certain, certain))
    assert wrong == pytest.approx(-math.log(np.finfo(np.float64).eps))
    assert right == pytest.approx(0, abs=1e-15)


def test_logloss_of_logits_and_of_probabilities_agree(rows):
    _, y = rows
    logits = torch.randn(len(y), generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4
    from_probabilities = pointwise_metrics(logits.sigmoid(), y, ["logloss"])["logloss"]
    assert from_probabilities == pytest.approx(log_loss(logits, y), abs=1e-12)


def test_errors_of_ratings_take_any_range():
    predictions, ratings = torch.tensor([3.0, 5.0]), torch.tensor([4.0, 2.0])
    assert mse(predictions, ratings) == 5
    assert rmse(predictions, ratings) == math.sqrt(5)
    assert pointwise_metrics(predictions, ratings, ["mae"]) == {"mae": 2}


@pytest.mark.parametrize(
    ("name", "predictions", "labels", "message"),
    [
        ("auc", [0.1, 0.2], [1, 1], "both classes, found 2 positive and 0 negative"),
        ("pauc.10", [0.1, 0.2], [0, 0], "both classes, found 0 positive and 2 negative"),
        ("ne", [0.1, 0.2], [0, 0], "both classes, found 0 positive and 2 negative"),
        ("prauc", [0.1, 0.2], [0, 0], "labels sum to 0"),
        ("pcoc", [0.1, 0.2], [0, 0], "labels sum to 0"),
        ("auc", [0.1, 0.2], [1, 3], "labels 0 or 1, found 3"),
        ("prauc", [0.1, 0.2], [1, 0.5], "labels 0 or 1, found 0.5"),
        ("auc", [0.1, math.nan], [1, 0], "1 of 2 predictions are NaN"),
        ("mse", [0.1, 0.2], [1, math.inf], "1 of 2 labels are NaN"),
        ("mse", [], [], "N > 0"),
        ("mse", [1.0], [1.0, 2.0], r"predictions \(1,\), labels \(2,\)"),
        ("logloss", [-2.0, 0.5], [1, 0], "found values from -2 to 0.5"),
        ("brier", [0.1, 1.5], [1, 0], "found values from 0.1 to 1.5"),
        ("ne", [0.1, 1.5], [1, 0], "found values from 0.1 to 1.5"),
    ],
)
def test_undefined_values_are_errors(name, predictions, labels, message):
    with pytest.raises(RecbenchError, match=message):
        pointwise_metrics(torch.tensor(predictions), torch.tensor(labels), [name])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("log_loss", "did you mean logloss"),
        ("pauc.00", "two digits from .01"),
        ("pauc", "unknown pointwise metric 'pauc'"),
        ("gap:gender:auc", "unknown pointwise metric"),
        ("ndcg@10", "unknown pointwise metric"),
    ],
)
def test_unknown_name(name, message):
    with pytest.raises(UsageError, match=message):
        pointwise_metrics(torch.zeros(1), torch.zeros(1), [name])


def test_brier_needs_classes():
    with pytest.raises(RecbenchError, match="labels 0 or 1"):
        brier(torch.tensor([0.5]), torch.tensor([0.5]))


def test_metrics_of_each_group_equal_those_of_its_rows_alone(rows, groups):
    p, y = rows
    values = by_group(p, y, groups, NAMES)
    assert values["group"].tolist() == sorted(set(groups.tolist()))
    undefined = 0
    for i, group in enumerate(values["group"]):
        own_p, own_y = p[groups == group], y[groups == group]
        assert values["rows"][i] == len(own_y)
        assert values["positives"][i] == own_y.sum()
        for name in NAMES:
            if values[name][i].isnan():
                undefined += 1
                with pytest.raises(RecbenchError, match="not defined"):
                    pointwise_metrics(own_p, own_y, [name])
            else:
                expected = pointwise_metrics(own_p, own_y, [name])[name]
                assert float(values[name][i]) == pytest.approx(expected, abs=1e-12)
    assert undefined > 0


def test_groups_of_one_and_the_same_score():
    labels, groups = torch.tensor([1, 0, 1, 0, 0]), torch.tensor([0, 0, 1, 1, 1])
    values = by_group(torch.zeros(5), labels, groups, ["auc", "pauc.10", "prauc"])
    assert values["auc"].tolist() == [0.5, 0.5]
    assert values["pauc.10"].tolist() == pytest.approx([0.5, 0.5])
    assert values["prauc"].tolist() == pytest.approx([1 / 2, 1 / 3])


def test_mean_auc_of_groups_by_hand():
    scores = torch.tensor([0.9, 0.1, 0.5, 0.3, 0.3, 0.8, 0.2])
    labels = torch.tensor([1, 0, 0, 1, 0, 1, 1])
    groups = torch.tensor([5, 5, 5, -1, -1, 9, 9])
    ids, rows, _, values = by_group(scores, labels, groups, ["auc"]).values()
    assert ids.tolist() == [-1, 5, 9]
    assert values.tolist() == pytest.approx([0.5, 1, math.nan], nan_ok=True)
    assert rows.tolist() == [2, 3, 2]
    means = pointwise_metrics(scores, labels, ["gauc", "uauc"], groups=groups)
    assert means == pytest.approx({"gauc": (2 * 0.5 + 3 * 1) / 5, "uauc": 0.75})


def test_what_groups_cannot_give():
    scores, labels = torch.tensor([0.1, 0.2]), torch.tensor([0, 1])
    with pytest.raises(UsageError, match="'gauc' is a mean over groups"):
        pointwise_metrics(scores, labels, ["gauc"])
    with pytest.raises(RecbenchError, match="none of the 2 groups"):
        pointwise_metrics(scores, labels, ["uauc"], groups=torch.tensor([0, 1]))
    with pytest.raises(RecbenchError, match=r"groups as integers of shape \(2,\)"):
        by_group(scores, labels, torch.tensor([0.0, 1.0]), ["auc"])
    with pytest.raises(RecbenchError, match=r"groups as integers of shape \(2,\)"):
        by_group(scores, labels, torch.tensor([0]), ["auc"])
    with pytest.raises(UsageError, match="unknown pointwise metric 'gauc'"):
        by_group(scores, labels, torch.tensor([0, 1]), ["gauc"])
    with pytest.raises(UsageError, match="no smooth function"):
        linearised(scores, labels, torch.tensor([0, 1]), "ece")


@pytest.mark.parametrize("form", LINEARISED)
def test_the_mean_of_the_values_of_groups_is_the_metric(rows, groups, form):
    p, y = rows
    name = form.replace("NN", "10")
    ids, values = linearised(p, y, groups, name)
    assert ids.tolist() == sorted(set(groups.tolist()))
    expected = pointwise_metrics(p, y, [name], groups=groups)[name]
    assert float(values.nanmean()) == pytest.approx(expected, abs=1e-12)
    assert int(values.isnan().sum()) == (
        int(by_group(p, y, groups, ["auc"])["auc"].isnan().sum()) if name in GROUPED else 0
    )


def test_values_of_a_mean_over_rows_are_shares_of_it():
    p, y = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([0.0, 0.0, 1.0])
    # mse is (1 + 4 + 16) / 3 = 7; 2 of the 3 rows are of the first of 2 groups.
    values = linearised(p, y, torch.tensor([0, 0, 1]), "mse")[1]
    assert values.tolist() == pytest.approx([7 + 2 * 2 / 3 * (2.5 - 7), 7 + 2 / 3 * (16 - 7)])
    assert linearised(y, y, torch.tensor([0, 0, 1]), "rmse")[1].tolist() == [0, 0]


def slopes(p, y, groups, name, copies=5_000):
    """The derivative of a metric by the weight of each group, from a small step of that weight."""
    every = torch.arange(len(p)).repeat(copies)
    values = []
    for group in groups.unique():
        rows = torch.cat([every, (groups == group).nonzero().squeeze(1)])
        values.append(pointwise_metrics(p[rows], y[rows], [name])[name])
    return (torch.tensor(values, dtype=torch.float64) - pointwise_metrics(p, y, [name])[name]) * copies


@pytest.mark.parametrize("form", [form for form in LINEARISED if form not in GROUPED])
def test_values_of_groups_are_derivatives_by_their_weight(form):
    generator = torch.Generator().manual_seed(8)
    p = torch.randint(1, 9, (17,), generator=generator).double() / 10
    y = (torch.rand(17, generator=generator) < p).long()
    groups, name = torch.arange(17) // 3, form.replace("NN", "30")
    values = linearised(p, y, groups, name)[1]
    assert (values - values.mean()).tolist() == pytest.approx((6 * slopes(p, y, groups, name)).tolist(), abs=2e-3)


def test_a_limit_of_the_partial_auc_between_two_scores():
    # Two of four negatives: the limit is where one run of rows ends and the next begins.
    scores, labels, groups = torch.arange(7), torch.tensor([0, 1, 0, 0, 1, 0, 1]), torch.arange(7)
    values = linearised(scores, labels, groups, "pauc.50")[1]
    expected = 7 * slopes(scores, labels, groups, "pauc.50")
    assert (values - values.mean()).tolist() == pytest.approx(expected.tolist(), abs=2e-3)


@torch.no_grad()
def test_values_of_groups_need_no_recording_of_gradients(rows, groups):
    values = linearised(*rows, groups, "auc")[1]
    assert not values.requires_grad
    assert not by_group(rows[0].clone().requires_grad_(), rows[1], groups, ["mse"])["mse"].requires_grad


def test_variance_of_auc_without_clusters_is_delongs(rows):
    p, y = (values[:400] for values in rows)
    positives, negatives = p[y == 1], p[y == 0]
    ordered = (positives[:, None] > negatives).double() + (positives[:, None] == negatives).double() / 2
    of_positives, of_negatives = ordered.mean(1), ordered.mean(0)
    delong = float(of_positives.var() / len(positives) + of_negatives.var() / len(negatives))
    values = linearised(p, y, torch.arange(400), "auc")[1]
    assert float(values.var()) / 400 == pytest.approx(delong, rel=0.01)
    # With all variances divided by n, in place of n - 1, it is the same number.
    uncorrected = float(
        of_positives.var(correction=0) / len(positives) + of_negatives.var(correction=0) / len(negatives)
    )
    assert float(values.var(correction=0)) / 400 == pytest.approx(uncorrected, rel=1e-12)


def repetitions(n_sets, n_groups=80):
    """Data sets of groups of 1 to 15 rows whose labels and predictions share effects of the group."""
    generator = torch.Generator().manual_seed(11)
    sizes = torch.randint(1, 16, (n_sets * n_groups,), generator=generator)
    group = torch.arange(n_sets * n_groups).repeat_interleave(sizes)
    effects = torch.randn(2, n_sets * n_groups, generator=generator, dtype=torch.float64)[:, group]
    noise = torch.randn(2, len(group), generator=generator, dtype=torch.float64)
    truth = effects[0] + 0.5 * noise[0] - 0.5
    labels = (torch.rand(len(group), generator=generator) < truth.sigmoid()).double()
    return (0.6 * truth + 0.8 * effects[1] + 0.3 * noise[1]).sigmoid(), labels, group, group // n_groups


def test_standard_errors_agree_with_the_spread_over_data_sets():
    names = [form.replace("NN", "30") for form in LINEARISED if form not in GROUPED]
    p, y, group, data_set = repetitions(1_000)
    spread = {name: float(by_group(p, y, data_set, [name])[name].var()) for name in names}
    clustered, independent = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for i in range(25):
        own = data_set == i
        for name in names:
            of_groups = linearised(p[own], y[own], group[own], name)[1]
            of_rows = linearised(p[own], y[own], torch.arange(int(own.sum())), name)[1]
            clustered[name] += float(of_groups.var()) / len(of_groups) / 25
            independent[name] += float(of_rows.var()) / len(of_rows) / 25
    for name in names:
        assert clustered[name] == pytest.approx(spread[name], rel=0.15), name
        # The clusters matter in these data: rows taken as independent promise far too much.
        assert independent[name] < 0.75 * spread[name], name


@pytest.mark.parametrize("name", ["gauc", "uauc"])
def test_standard_errors_of_mean_aucs_agree_with_the_spread_over_data_sets(name):
    p, y, group, data_set = repetitions(400)
    values, estimates = [], []
    for i in range(400):
        own = data_set == i
        of_groups = linearised(p[own], y[own], group[own], name)[1]
        of_groups = of_groups[~of_groups.isnan()]
        values.append(float(of_groups.mean()))
        estimates.append(float(of_groups.var()) / len(of_groups))
    assert np.mean(estimates) == pytest.approx(np.var(values, ddof=1), rel=0.15)
