"""Calibration: whether of the rows that get probability p a share p is positive.

For rows with probabilities p and labels y of 0 or 1, cut into bins k of equal mass with n_k rows, mean probability
p_k and mean label y_k, out of N rows with mean label b:

ece                sum n_k |p_k - y_k| / N                                          Nixon et al. 2019, adaptive bins
brier_reliability  sum n_k (p_k - y_k)^2 / N                                        Murphy 1973
brier_resolution   b (1 - b) - mean of (p - (p_k - y_k) - y)^2                      Stephenson et al. 2008
brier_uncertainty  b (1 - b)

so that ``brier = brier_reliability - brier_resolution + brier_uncertainty`` holds exactly, for any predictions and any
number of bins. Murphy's resolution, ``sum n_k (y_k - b)^2 / N``, adds up only if the predictions inside a bin are
equal; taking distinct predictions as bins makes it so, but where every row has a prediction of its own, it calls the
noise of single labels resolution, and all else miscalibration. The resolution here, Stephenson, Coelho and Jolliffe's
*generalised resolution*, is Murphy's less the variance of the predictions inside bins and plus twice their covariance
with the labels there. It says how much better than the constant b the predictions are once the mean of every bin is put
right; it is Murphy's where predictions inside bins are equal, and negative where they order rows worse than chance.

Bins are fair to ties: where a cut falls between rows of equal prediction, each side gets its share of their mean label,
so the order of tied rows does not matter.
"""

# Shape suffixes: N rows, G groups, b bins.

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recbench.metrics.rows import Z95, Rows, segment_sums

BINS = 20


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: one point a bin, in ascending order of prediction; all tensors (b,).

    ``low`` and ``high`` bound the label by Wilson's 95 % interval (Wilson 1927), for labels that are independent given
    their prediction.
    """

    rows: Tensor
    """Number of rows, int64."""
    prediction: Tensor
    """Mean prediction, float64 in [0, 1]."""
    label: Tensor
    """Mean label, float64 in [0, 1]; of rows tied over a cut, each side has its share."""
    low: Tensor
    high: Tensor


def reliability(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> Reliability:
    """Return the data of a reliability diagram over at most ``bins`` bins of equal mass; fewer rows are a bin each.

    Probabilities (N,) in [0, 1], labels (N,) 0 or 1. The mean of |prediction - label| weighted by rows is ``ece``.
    Raises ``RecbenchError`` for anything else.
    """
    rows = Rows(probabilities, labels)
    rows.require_probabilities()
    binned = _Binned(rows, bins)
    filled = binned.sizes > 0
    sizes = binned.sizes[filled]
    n = sizes.double()
    prediction, label = (
        (segment_sums(values, binned.bin, len(filled))[filled] / n).clamp(0, 1)
        for values in (binned.predictions, binned.labels)
    )
    centre = label + Z95**2 / (2 * n)
    half = Z95 * (label * (1 - label) / n + (Z95 / (2 * n)) ** 2).sqrt()
    scale = 1 + Z95**2 / n
    low, high = ((centre + side * half).div(scale).clamp(0, 1) for side in (-1, 1))
    return Reliability(sizes, prediction, label, low, high)


def ece(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Return the expected calibration error, in [0, 1], best at 0; the definition is at the top of this module.

    It is biased upwards: also calibrated predictions have an error of about ``sqrt(bins * b (1 - b) / N)``.
    """
    rows = Rows(probabilities, labels)
    rows.require_probabilities()
    return float(_ece(rows, bins))


class _Binned:
    """Rows in equal-mass bins of each group; ``predictions`` and tie-fair ``labels`` (N,) in the order of ``bin``."""

    def __init__(self, rows: Rows, bins: int) -> None:
        steps = torch.arange(bins + 1, device=rows.sizes.device)
        edges_Gb = steps * rows.sizes[:, None] // bins
        self.sizes = edges_Gb.diff(dim=1).flatten()
        self.bin = torch.arange(len(self.sizes), device=self.sizes.device).repeat_interleave(self.sizes)
        self.predictions = rows.ordered[0]
        self.labels = rows.runs.of_rows(rows.runs.positives / rows.runs.sizes)

    @property
    def gaps(self) -> Tensor:
        """Sum of prediction - label of each bin, (G * b,)."""
        return segment_sums(self.predictions - self.labels, self.bin, len(self.sizes))


def _ece(rows: Rows, bins: int = BINS) -> Tensor:
    return _Binned(rows, bins).gaps.abs().view(-1, bins).sum(1) / rows.sizes


def _reliability(rows: Rows) -> Tensor:
    binned = _Binned(rows, BINS)
    return (binned.gaps.square() / binned.sizes.clamp(min=1)).view(-1, BINS).sum(1) / rows.sizes


def _resolution(rows: Rows) -> Tensor:
    binned = _Binned(rows, BINS)
    shift = (binned.gaps / binned.sizes.clamp(min=1))[binned.bin]
    group = rows.ordered_group
    base = rows.mean(rows.labels)[group]
    # Labels differ from the mean label of their run alike in both squares, so the means of the runs may stand for them.
    gain = (base - binned.labels).square() - (binned.predictions - shift - binned.labels).square()
    return segment_sums(gain, group, len(rows.sizes)) / rows.sizes


def _uncertainty(rows: Rows) -> Tensor:
    base = rows.mean(rows.labels)
    return base * (1 - base)


CALIBRATION: dict[str, Callable[[Rows], Tensor]] = {
    "ece": _ece,
    "brier_reliability": _reliability,
    "brier_resolution": _resolution,
    "brier_uncertainty": _uncertainty,
}
"""The value (G,) of each group of rows; predictions must be probabilities, labels 0 or 1."""
