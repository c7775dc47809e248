"""Rows of predictions and labels, sorted once and summed by group: what metrics of rows are computed from."""

# Shape suffixes: N rows, G groups, R runs of rows with equal predictions in a group.

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recbench.errors import RecbenchError

Z95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


def columns(**given: Tensor) -> list[Tensor]:
    """Return columns of numbers, each (N,), in float64 and without gradients.

    Raises ``RecbenchError``, with their names, for no rows, unequal shapes, and values that are not finite.
    """
    shapes = {name: tuple(column.shape) for name, column in given.items()}
    first = next(iter(shapes.values()))
    if len(first) != 1 or 0 in first or len(set(shapes.values())) > 1:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise RecbenchError(f"expected columns of one shape (N,) with N > 0, found {found}")
    for name, column in given.items():
        if broken := int((~column.isfinite()).sum()):
            raise RecbenchError(f"{broken} of {len(column)} {name} are NaN or infinite, expected finite numbers")
    return [column.detach().double() for column in given.values()]


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
        self.predictions, self.labels = columns(predictions=predictions, labels=labels)
        if groups is not None and (groups.shape != labels.shape or groups.is_floating_point()):
            raise RecbenchError(
                f"expected groups as integers of shape {tuple(labels.shape)}, "
                f"found {groups.dtype} of shape {tuple(groups.shape)}"
            )
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
