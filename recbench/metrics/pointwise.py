"""Metrics of one prediction for one label: over all rows together, in each group of rows, and as means over groups.

For rows with predictions p and labels y, b the mean label:

auc      share of (positive, negative) pairs in the right order, ties counting half
pauc.NN  area A under the ROC curve for false positive rates up to m = .NN, the curve straight within ties, as
         (1 + (A - m^2 / 2) / (m - m^2 / 2)) / 2, from (1 - m) / (2 - m) to 1            McClish 1989
prauc    sum over distinct predictions t of (recall gained at t) * (precision of the rows with p >= t)
logloss  -mean of y ln p + (1 - y) ln (1 - p)
ne       logloss / -(b ln b + (1 - b) ln (1 - b)): 1 for the constant b                 He et al., ADKDD 2014
mse      mean of (p - y)^2;  rmse  its square root;  brier  the same of probabilities   Brier 1950
mae      mean of |p - y|
pcoc     sum p / sum y, best at 1
gauc     mean of the auc of each group, weighted by its rows                            Zhu et al., KDD 2017
uauc     mean of the auc of each group, unweighted

and those of ``recbench.metrics.calibration``. auc and its kin need labels 0 or 1; mse, rmse, mae and pcoc take any
finite labels; the others need labels 0 or 1 and probabilities.

Every function takes predictions and labels of shape (N,), on any device, computes in float64, does not depend on the
order of the rows, and raises ``RecbenchError`` where the value is not defined; values per group are NaN there.
"""

# Shape suffixes: N rows, G groups, R runs of rows with equal predictions in a group.

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from recbench.errors import RecbenchError, UsageError, unknown
from recbench.metrics.calibration import CALIBRATION
from recbench.metrics.names import GROUPED, POINTWISE, pattern, share
from recbench.metrics.rows import Rows, Runs, segment_sums

LINEARISED = ("auc", "pauc.NN", "prauc", "logloss", "ne", "brier", "mse", "rmse", "mae", "pcoc", "gauc", "uauc")
"""Forms of the metrics that ``linearised`` supports; those of calibration depend on the bins, not on rows alone."""


def auc(scores: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve, in [0, 1]: .5 for constant scores, 1 at best. Pairs are counted exactly."""
    return _of_all("auc", Rows(scores, labels))


def log_loss(logits: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood in nats of labels 0 or 1 under sigmoid(logits); exact also for large logits."""
    rows = Rows(logits, labels)
    rows.require_classes()
    return float(torch.nn.functional.binary_cross_entropy_with_logits(rows.predictions, rows.labels))


def log_loss_of_probabilities(probabilities: Tensor, labels: Tensor) -> float:
    """Log loss of probabilities clipped to [eps, 1 - eps] with float64's eps, 2.2e-16.

    One certain and wrong prediction thus costs 36 nats. Probabilities rounded to float32 reach 1 at a logit of 17;
    take the sigmoid in float64, or use ``log_loss`` where logits are at hand.
    """
    return _of_all("logloss", Rows(probabilities, labels))


def brier(probabilities: Tensor, labels: Tensor) -> float:
    """Mean squared difference of probabilities and labels 0 or 1 (Brier 1950, the two-class form in [0, 1])."""
    return _of_all("brier", Rows(probabilities, labels))


def mse(predictions: Tensor, labels: Tensor) -> float:
    """Mean squared error."""
    return _of_all("mse", Rows(predictions, labels))


def rmse(predictions: Tensor, labels: Tensor) -> float:
    """Square root of the mean squared error."""
    return _of_all("rmse", Rows(predictions, labels))


def mae(predictions: Tensor, labels: Tensor) -> float:
    """Mean absolute error."""
    return _of_all("mae", Rows(predictions, labels))


def predicted_over_observed(probabilities: Tensor, labels: Tensor) -> float:
    """Sum of the predictions over the sum of the labels (predicted clicks over clicks, PCOC); best at 1."""
    return _of_all("pcoc", Rows(probabilities, labels))


def pointwise_metrics(
    probabilities: Tensor, labels: Tensor, names: Iterable[str], *, groups: Tensor | None = None
) -> dict[str, float]:
    """Compute the named metrics, defined at the top of this module and of ``recbench.metrics.calibration``.

    Args:
        probabilities: (N,) predictions.
        labels: (N,).
        names: such as ``auc`` or ``pauc.10``.
        groups: (N,) integers, for instance user ids; needed by gauc and uauc.

    Raises:
        UsageError: an unknown name, or gauc or uauc without groups.
        RecbenchError: no rows, unequal shapes, values that are not finite or outside what the metric needs, or labels
            for which a metric is not defined.
    """
    names = list(names)
    for name in names:
        if _form(name, (*POINTWISE, *GROUPED)) in GROUPED and groups is None:
            raise UsageError(f"metric '{name}' is a mean over groups of rows, such as users, but no groups are known")
    rows = Rows(probabilities, labels)
    by_group = Rows(probabilities, labels, groups) if any(name in GROUPED for name in names) else rows
    return {name: _of_groups(name, by_group) if name in GROUPED else _of_all(name, rows) for name in names}


def by_group(predictions: Tensor, labels: Tensor, groups: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """Compute the named metrics of each group's rows, for instance of each value of a field.

    Returns:
        Tensors (G,): ``group``, the ids, ascending; ``rows`` and ``positives`` (rows with a label above 0), int64; and
        one for each name, float64, NaN where the metric is not defined for the labels of the group. Of small groups,
        ``ece`` and the parts of ``brier`` have a bin for each row, and say little.

    Raises:
        UsageError: an unknown name, or gauc or uauc, which have no value for one group.
        RecbenchError: as ``pointwise_metrics``, but for labels of one class.
    """
    names = list(names)
    for name in names:
        _form(name, POINTWISE)
    rows = Rows(predictions, labels, groups)
    positives = segment_sums((rows.labels > 0).long(), rows.group, len(rows.sizes))
    counts = {"group": rows.group_ids, "rows": rows.sizes, "positives": positives}
    return counts | {name: _per_group(name, rows) for name in names}


def linearised(predictions: Tensor, labels: Tensor, groups: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Write a metric as a mean over groups of rows, so that what is known of means applies to it.

    Of a metric t and G groups the value of group g is ``t + G psi_g``, where psi_g, the influence of the group, is the
    derivative of t by the weight of all its rows (the infinitesimal jackknife, Jaeckel 1972). The mean of the values is
    t, their variance / G the cluster-robust variance of t, where groups are independent and rows in them may depend on
    each other. For auc the influences are the placement values of DeLong et al. 1988, summed over clusters as by
    Obuchowski 1997; for a mean over rows ``t + G (n_g / N) (t_g - t)``; for rmse, ne and pcoc the delta method.
    Differences of two models' values give the variance of the difference. As every variance of first order it wants
    many groups: that of prauc was 15 % too small for 40 groups of 8 rows, and right for 400.

    Args:
        predictions: (N,).
        labels: (N,).
        groups: (N,) integers, such as user ids. With one row a group, rows count as independent.
        name: one of the forms ``LINEARISED``. The groups of gauc and uauc are also those whose auc they average.

    Returns:
        The group ids, ascending, (G,), and the values (G,) float64. Of gauc and uauc, groups with labels of one class
        are NaN, and G counts the others.

    Raises:
        UsageError: a metric that is not supported.
        RecbenchError: as ``pointwise_metrics``.
    """
    if _form(name, (*POINTWISE, *GROUPED)) not in LINEARISED:
        raise UsageError(f"metric '{name}' is no smooth function of its rows; supported: {', '.join(LINEARISED)}")
    by_group = Rows(predictions, labels, groups)
    if name in GROUPED:
        value = _of_groups(name, by_group)
        aucs, weights = _per_group("auc", by_group), _group_weights(name, by_group)
        return by_group.group_ids, value + (aucs - value) * weights / weights[~aucs.isnan()].mean()
    rows = Rows(predictions, labels)
    value = _of_all(name, rows)
    with torch.enable_grad():
        influence = _influence_of_means(name, rows) if name in _MEANS else _influence_of_runs(name, rows)
    n_groups = len(by_group.sizes)
    return by_group.group_ids, value + n_groups * segment_sums(influence, by_group.group, n_groups)


def _form(name: str, known: Iterable[str]) -> str:
    """Return the form of a metric's name if it is among the known ones."""
    form = pattern(name)
    if form not in known or ":" in name:
        raise unknown("pointwise metric", name, known)
    if form != name:
        share(name)
    return form


def _per_group(name: str, rows: Rows) -> Tensor:
    """Compute a metric of each group, (G,), NaN where it is not defined."""
    form = pattern(name)
    if form in _RUNS:
        rows.require_classes()
        return _RUNS[form](name, rows.runs, rows.runs.positives, rows.runs.negatives)
    if form not in _OF_ANY_RANGE:
        rows.require_probabilities()
    if form in CALIBRATION:
        return CALIBRATION[form](rows)
    metric = _MEANS[form]
    return metric.of(*(rows.mean(values) for values in metric.quantities(rows.predictions, rows.labels)))


def _of_all(name: str, rows: Rows) -> float:
    """Compute a metric of all rows together."""
    value = float(_per_group(name, rows))
    if math.isnan(value):
        positive = int((rows.labels > 0).sum())
        raise RecbenchError(
            f"{name} is not defined: the labels sum to 0, expected at least one positive row"
            if name in ("prauc", "pcoc")
            else f"{name} is not defined: expected labels of both classes, found {positive} positive and "
            f"{len(rows.labels) - positive} negative rows"
        )
    return value


def _of_groups(name: str, rows: Rows) -> float:
    """Compute gauc or uauc."""
    aucs = _per_group("auc", rows)
    defined = ~aucs.isnan()
    if not bool(defined.any()):
        raise RecbenchError(f"{name} is not defined: none of the {len(aucs)} groups of rows has labels of both classes")
    weights = _group_weights(name, rows)[defined]
    return float((aucs[defined] * weights).sum() / weights.sum())


def _group_weights(name: str, rows: Rows) -> Tensor:
    """Weights (G,) of the groups in gauc and uauc."""
    return rows.sizes.double() if name == "gauc" else torch.ones_like(rows.sizes, dtype=torch.float64)


# Metrics of the order of the rows. They are written as functions of how many positive and negative rows each run of
# equal predictions has, so that their derivative by these counts is the influence of a row.


def _auc(name: str, runs: Runs, positives: Tensor, negatives: Tensor) -> Tensor:
    twice_ordered = runs.sums(positives * (2 * runs.below(negatives) + negatives))
    return twice_ordered / (2 * runs.sums(positives) * runs.sums(negatives))


def _partial_auc(name: str, runs: Runs, positives: Tensor, negatives: Tensor) -> Tensor:
    limit = share(name)
    n_positive, n_negative = runs.sums(positives), runs.sums(negatives)
    positives_above = n_positive[runs.group] - runs.below(positives) - positives
    negatives_above = n_negative[runs.group] - runs.below(negatives) - negatives
    left = limit * n_negative[runs.group] - negatives_above
    # Not torch.minimum, whose derivative where a run ends at the limit would count the run half, and the next whole.
    taken = torch.where(left < negatives, left.clamp(min=0), negatives)
    area = runs.sums(taken * (positives_above + positives * taken / (2 * negatives.clamp(min=1))))
    random = limit**2 / 2
    return (1 + (area / (n_positive * n_negative) - random) / (limit - random)) / 2


def _average_precision(name: str, runs: Runs, positives: Tensor, negatives: Tensor) -> Tensor:
    n_positive, n_negative = runs.sums(positives), runs.sums(negatives)
    true_positives = n_positive[runs.group] - runs.below(positives)
    false_positives = n_negative[runs.group] - runs.below(negatives)
    return runs.sums(positives * true_positives / (true_positives + false_positives)) / n_positive


_RUNS: dict[str, Callable[[str, Runs, Tensor, Tensor], Tensor]] = {
    "auc": _auc,
    "pauc.NN": _partial_auc,
    "prauc": _average_precision,
}


def _influence_of_runs(name: str, rows: Rows) -> Tensor:
    """Differentiate a metric of the order of rows, (N,), by the weight of each row."""
    runs = rows.runs
    counts = [runs.positives.detach().requires_grad_(), runs.negatives.detach().requires_grad_()]
    positive, negative = torch.autograd.grad(_RUNS[pattern(name)](name, runs, *counts).sum(), counts)
    _, order = rows.ordered
    influence = torch.where(rows.labels[order] == 1, runs.of_rows(positive), runs.of_rows(negative))
    return torch.empty_like(influence).index_copy_(0, order, influence)


# Metrics that are functions of means over rows.


@dataclass(frozen=True)
class _Means:
    """A function ``of`` the means (G,) of ``quantities`` (N,) of predictions and labels."""

    quantities: Callable[[Tensor, Tensor], tuple[Tensor, ...]]
    of: Callable[..., Tensor]


def _negative_log_likelihood(probabilities: Tensor, labels: Tensor) -> Tensor:
    logits = torch.logit(probabilities, eps=torch.finfo(torch.float64).eps)
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return (numerator / denominator).masked_fill(denominator == 0, torch.nan)


def _itself(mean: Tensor) -> Tensor:
    return mean


def _squared(predictions: Tensor, labels: Tensor) -> tuple[Tensor]:
    return ((predictions - labels).square(),)


_MEANS: dict[str, _Means] = {
    "logloss": _Means(lambda p, y: (_negative_log_likelihood(p, y),), _itself),
    "ne": _Means(
        lambda p, y: (_negative_log_likelihood(p, y), y),
        lambda loss, base: _ratio(loss, torch.special.entr(base) + torch.special.entr(1 - base)),
    ),
    "brier": _Means(_squared, _itself),
    "mse": _Means(_squared, _itself),
    "rmse": _Means(_squared, torch.sqrt),
    "mae": _Means(lambda p, y: ((p - y).abs(),), _itself),
    "pcoc": _Means(lambda p, y: (p, y), _ratio),
}
_OF_ANY_RANGE = ("mse", "rmse", "mae", "pcoc")


def _influence_of_means(name: str, rows: Rows) -> Tensor:
    """Differentiate a function of means, (N,), by the weight of each row."""
    quantities = _MEANS[name].quantities(rows.predictions, rows.labels)
    means = [rows.mean(values).requires_grad_() for values in quantities]
    slopes = torch.autograd.grad(_MEANS[name].of(*means).sum(), means)
    deviations = [values - mean.detach() for values, mean in zip(quantities, means, strict=True)]
    # What does not vary has no influence, also where the slope is infinite: rmse where every prediction is right.
    parts = [
        torch.where(deviation == 0, 0, slope * deviation) for slope, deviation in zip(slopes, deviations, strict=True)
    ]
    return torch.stack(parts).sum(0) / len(rows.labels)
