"""Metrics of one prediction for one label, over all rows together.

Every function takes predictions and labels of shape (N,), on any device, computes in float64, does not depend on the
order of the rows, and raises ``RecbenchError`` where the value is not defined.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from recbench.errors import RecbenchError, unknown
from recbench.metrics.names import POINTWISE


def auc(scores: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs in the right order, ties counting half.

    Exact: pairs are counted in integers. Labels are 0 or 1, and both must occur.
    """
    _check(scores, labels)
    _check_binary(labels)
    ordered, order = scores.sort()
    ends = _tie_ends(ordered)
    positives_upto = labels[order].long().cumsum(0)[ends]
    negatives_upto = ends + 1 - positives_upto
    n_positive, n_negative = int(positives_upto[-1]), int(negatives_upto[-1])
    if not n_positive or not n_negative:
        raise RecbenchError(
            f"auc is not defined: expected labels of both classes, found {n_positive} positive and "
            f"{n_negative} negative rows"
        )
    positives = _differences(positives_upto)
    # Negatives below a tie group count whole, those inside it half: twice that is below + up to and including.
    twice_ordered = int((positives * (2 * negatives_upto - _differences(negatives_upto))).sum())
    return twice_ordered / (2 * n_positive * n_negative)


def log_loss(logits: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood in nats of labels 0 or 1 under sigmoid(logits); exact also for large logits."""
    _check(logits, labels)
    _check_binary(labels)
    return float(torch.nn.functional.binary_cross_entropy_with_logits(logits.double(), labels.double()))


def brier(probabilities: Tensor, labels: Tensor) -> float:
    """Mean squared difference of probabilities and labels 0 or 1 (Brier 1950, the two-class form in [0, 1])."""
    _check_probabilities(probabilities, labels)
    _check_binary(labels)
    return mse(probabilities, labels)


def mse(predictions: Tensor, labels: Tensor) -> float:
    """Mean squared error."""
    return float(_residuals(predictions, labels).square().mean())


def rmse(predictions: Tensor, labels: Tensor) -> float:
    """Square root of the mean squared error."""
    return float(_residuals(predictions, labels).square().mean().sqrt())


def mae(predictions: Tensor, labels: Tensor) -> float:
    """Mean absolute error."""
    return float(_residuals(predictions, labels).abs().mean())


def ece(probabilities: Tensor, labels: Tensor, bins: int = 20) -> float:
    """Return the expected calibration error over ``bins`` bins of equal mass (Nixon et al. 2019, adaptive bins).

    Rows are sorted by probability and cut into bins of equal size; the value is the mean, weighted by size, of
    |mean probability - mean label| of the bins. Where a cut falls between rows of equal probability, each side gets
    its share of their mean label, so the order of tied rows does not matter and a constant prediction equal to the
    mean label has no error.
    """
    _check_probabilities(probabilities, labels)
    ordered, order = probabilities.sort()
    ends = _tie_ends(ordered)
    sizes = _differences(ends + 1)
    residuals = _residuals(probabilities, labels)[order]
    # Every tied row carries the mean residual of its tie group.
    tie_means = _differences(residuals.cumsum(0)[ends]) / sizes
    upto = torch.nn.functional.pad(tie_means.repeat_interleave(sizes).cumsum(0), (1, 0))
    edges = torch.arange(bins + 1, device=upto.device) * len(residuals) // bins
    return float(upto[edges].diff().abs().sum() / len(residuals))


def predicted_over_observed(probabilities: Tensor, labels: Tensor) -> float:
    """Sum of the predictions over the sum of the labels (predicted clicks over clicks, PCOC); best at 1."""
    _check(probabilities, labels)
    observed = float(labels.double().sum())
    if observed == 0:
        raise RecbenchError("pcoc is not defined: the labels sum to 0, expected at least one positive row")
    return float(probabilities.double().sum()) / observed


def log_loss_of_probabilities(probabilities: Tensor, labels: Tensor) -> float:
    """Log loss of probabilities clipped to [eps, 1 - eps] with float64's eps, 2.2e-16.

    One certain and wrong prediction thus costs 36 nats. Probabilities rounded to float32 reach 1 at a logit of 17;
    take the sigmoid in float64, or use ``log_loss`` where logits are at hand.
    """
    _check_probabilities(probabilities, labels)
    return log_loss(torch.logit(probabilities.double(), eps=torch.finfo(torch.float64).eps), labels)


def pointwise_metrics(probabilities: Tensor, labels: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Compute the named metrics of predictions (N,) and labels (N,).

    Metrics of ratings (mse, rmse, mae) and auc take predictions of any range; the others need probabilities.

    Raises:
        UsageError: an unknown name.
        RecbenchError: no rows, unequal shapes, values that are not finite or outside what the metric needs.
    """
    values = {}
    for name in names:
        if name not in POINTWISE:
            raise unknown("pointwise metric", name, POINTWISE)
        values[name] = _DEFINITIONS[name](probabilities, labels)
    return values


def _check(predictions: Tensor, labels: Tensor) -> None:
    if predictions.ndim != 1 or predictions.shape != labels.shape or not len(labels):
        raise RecbenchError(
            f"expected predictions and labels of one shape (N,) with N > 0, "
            f"found {tuple(predictions.shape)} and {tuple(labels.shape)}"
        )
    for what, values in (("predictions", predictions), ("labels", labels)):
        broken = int((~values.isfinite()).sum())
        if broken:
            raise RecbenchError(f"{broken} of {len(values)} {what} are NaN or infinite, expected finite numbers")


def _check_binary(labels: Tensor) -> None:
    other = labels[(labels != 0) & (labels != 1)]
    if len(other):
        raise RecbenchError(f"expected labels 0 or 1, found {other[0].item()} and {len(other) - 1} more")


def _check_probabilities(probabilities: Tensor, labels: Tensor) -> None:
    _check(probabilities, labels)
    low, high = float(probabilities.min()), float(probabilities.max())
    if low < 0 or high > 1:
        raise RecbenchError(f"expected probabilities in [0, 1], found values from {low:.4g} to {high:.4g}")


def _residuals(predictions: Tensor, labels: Tensor) -> Tensor:
    _check(predictions, labels)
    return predictions.double() - labels.double()


def _tie_ends(ordered: Tensor) -> Tensor:
    """Position of the last row of each group of equal values of a sorted tensor."""
    sizes: Tensor = torch.unique_consecutive(ordered, return_counts=True)[1]
    return sizes.cumsum(0) - 1


def _differences(totals: Tensor) -> Tensor:
    """Undo a cumulative sum."""
    return totals.diff(prepend=totals.new_zeros(1))


_DEFINITIONS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "auc": auc,
    "logloss": log_loss_of_probabilities,
    "brier": brier,
    "mse": mse,
    "rmse": rmse,
    "mae": mae,
    "ece": ece,
    "pcoc": predicted_over_observed,
}
