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

# Shape suffixes: N rows, G groups, R runs of rows with equal predictions in a group, b bins.

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recbench.errors import RecbenchError

BINS = 20
_Z_95 = 1.959963984540054


class Rows:
    """Predictions for labels, of G groups or of all rows together (G = 1), sorted once if a metric needs it.

    Attributes:
        predictions: (N,) float64.
        labels: (N,) float64.
        group_ids: (G,) the values of ``groups``, ascending.
        group: (N,) int64, the number of each row's group, from 0.
        sizes: (G,) int64, the number of rows of each group.

    Raises:
        RecbenchError: no rows, unequal shapes, values that are not finite, or groups that are not integers.
    """

    def __init__(self, predictions: Tensor, labels: Tensor, groups: Tensor | None = None) -> None:
        if predictions.ndim != 1 or predictions.shape != labels.shape or not len(labels):
            raise RecbenchError(
                f"expected predictions and labels of one shape (N,) with N > 0, "
                f"found {tuple(predictions.shape)} and {tuple(labels.shape)}"
            )
        for what, values in (("predictions", predictions), ("labels", labels)):
            broken = int((~values.isfinite()).sum())
            if broken:
                raise RecbenchError(f"{broken} of {len(values)} {what} are NaN or infinite, expected finite numbers")
        if groups is not None and (groups.shape != labels.shape or groups.is_floating_point()):
            raise RecbenchError(
                f"expected groups as integers of shape {tuple(labels.shape)}, "
                f"found {groups.dtype} of shape {tuple(groups.shape)}"
            )
        self.predictions = predictions.detach().double()
        self.labels = labels.detach().double()
        self.group_ids: Tensor
        self.group: Tensor
        if groups is None:
            self.group = torch.zeros_like(labels, dtype=torch.int64)
            self.group_ids = self.group[:1]
        else:
            self.group_ids, self.group = torch.unique(groups, return_inverse=True)
        self.sizes = self.group.bincount()

    def require_classes(self) -> None:
        """Raise ``RecbenchError`` unless every label is 0 or 1."""
        other = self.labels[(self.labels != 0) & (self.labels != 1)]
        if len(other):
            raise RecbenchError(f"expected labels 0 or 1, found {other[0].item()} and {len(other) - 1} more")

    def require_probabilities(self) -> None:
        """Raise ``RecbenchError`` unless every prediction is in [0, 1] and every label 0 or 1."""
        low, high = float(self.predictions.min()), float(self.predictions.max())
        if low < 0 or high > 1:
            raise RecbenchError(f"expected probabilities in [0, 1], found values from {low:.4g} to {high:.4g}")
        self.require_classes()

    def mean(self, values: Tensor) -> Tensor:
        """Mean (G,) of each group's values (N,)."""
        return segment_sums(values, self.group, len(self.sizes)) / self.sizes

    @cached_property
    def ordered(self) -> tuple[Tensor, Tensor]:
        """The predictions (N,) sorted by group, then value; and their rows (N,)."""
        predictions, order = self.predictions.sort()
        if len(self.sizes) > 1:
            order = order[self.group[order].argsort(stable=True)]
            predictions = self.predictions[order]
        return predictions, order

    @cached_property
    def runs(self) -> "Runs":
        """The runs of equal predictions; labels must be 0 or 1."""
        predictions, order = self.ordered
        last = torch.ones_like(predictions, dtype=torch.bool)
        torch.ne(predictions[1:], predictions[:-1], out=last[:-1])
        last[self.sizes.cumsum(0) - 1] = True
        ends = last.nonzero().squeeze(1)
        upto = torch.stack([ends + 1, (self.labels == 1)[order].cumsum(0)[ends]])
        sizes, positives = upto.diff(dim=1, prepend=upto.new_zeros(2, 1))
        return Runs(sizes, self.ordered_group[ends], positives.double(), (sizes - positives).double(), len(self.sizes))

    @property
    def ordered_group(self) -> Tensor:
        """The group (N,) of each row in the order of ``ordered``."""
        return torch.arange(len(self.sizes), device=self.sizes.device).repeat_interleave(self.sizes)


@dataclass(frozen=True)
class Runs:
    """Runs of rows with equal predictions, ordered by group, then prediction.

    ``sizes`` (R,) int64 is the number of rows of a run, ``group`` (R,) its group; ``positives`` and ``negatives`` (R,)
    count its rows in float64, exact below 2^53.
    """

    sizes: Tensor
    group: Tensor
    positives: Tensor
    negatives: Tensor
    n_groups: int

    def sums(self, values: Tensor) -> Tensor:
        """Sum (G,) of the values (R,) of each group's runs."""
        return segment_sums(values, self.group, self.n_groups)

    def of_rows(self, values: Tensor) -> Tensor:
        """Give each row the value (R,) of its run: (N,), in the order of ``Rows.ordered``."""
        return values.repeat_interleave(self.sizes)

    def below(self, values: Tensor) -> Tensor:
        """For each run the sum (R,) of the values (R,) of its group's runs of lower prediction."""
        before = values.cumsum(0) - values
        counts = self.group.bincount()
        return before - before[counts.cumsum(0) - counts][self.group]


def segment_sums(values: Tensor, segment: Tensor, n_segments: int) -> Tensor:
    """Sum (n_segments,) of the values (N,) of each segment, numbered from 0 by ``segment`` (N,)."""
    if n_segments == 1:
        return values.sum(0, keepdim=True)  # in pairs: more exact than adding one by one, and parallel on a GPU
    return values.new_zeros(n_segments).index_add(0, segment, values)


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
    centre = label + _Z_95**2 / (2 * n)
    half = _Z_95 * (label * (1 - label) / n + (_Z_95 / (2 * n)) ** 2).sqrt()
    scale = 1 + _Z_95**2 / n
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
