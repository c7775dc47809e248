"""Uplift: how well scores order people by what a treatment does for them.

From scores, treatment (1 treated, 0 control) and outcome (1 response, 0 none), each of shape (N,), of an experiment in
which treatment was drawn at random. Among the x rows of highest scores, let N_T and N_C be the numbers of treated and
of control rows, Y_T and Y_C those with a response:

==============  ==================================================  ==================================================
uplift curve    f(x) = (Y_T / N_T - Y_C / N_C) (N_T + N_C)          extra responses if all x had been treated
Qini curve      g(x) = Y_T - Y_C N_T / N_C                          extra responses of the treated among the x
qini            (1 / N^2) integral_0^N [g(x) - g(N) x / N] dx       0 for random, higher is better
perfect_qini    qini of the ranking that responses would give       the scale of qini_share
qini_share      qini / perfect_qini                                 0 for random, 1 for that ranking
auuc            (1 / N^2) integral_0^N f(x) dx                      half the mean effect for random; in [-1, 1]
uplift_at(s)    Y_T / N_T - Y_C / N_C at x = s N                    the mean effect for random; in [-1, 1]
==============  ==================================================  ==================================================

Sources: Radcliffe 2007, "Using control groups to target on predicted lift" (Qini); Gutierrez and Gerardy 2017, "Causal
inference and uplift modelling: a review of the literature" (both curves). The perfect ranking has treated responders
first, then all rows without response as one tie group, control responders last. It is a scale and no bound: scores that
depend on the treatment can pass it.

Ties: rows of equal score enter together. A curve is a straight line between the ends of tie groups, and a cut inside a
group takes its rows in proportion, so nothing depends on the order of rows, and a constant score has the value of a
random ranking: qini exactly 0, auuc half the mean effect, uplift_at the mean effect.

One group alone: while the first rows have no treated or no control row among them, a curve counts that group's response
rate as 0; this ends after a few rows of any real ranking. ``uplift_at`` raises an error there.

Other libraries: scikit-uplift has the same curves. Its ``qini_auc_score`` is ``qini_share``, its ``uplift_auc_score``
auuc less its random value, over the same of a perfect ranking; its ``uplift_at_k`` with strategy ``overall`` is
``uplift_at`` but for ties, which it cuts in the reverse order of rows, and for s N, which it rounds down. Its
``by_group``, the first share s of the treated rows against that of the control rows, is not offered: the two tops end
at different scores, and so compare different people. causalml's ``auuc_score`` (read, not run) is the mean of the
uplift curve over its last value.

All functions raise ``RecbenchError`` for no rows, unequal shapes, values that are not finite, a treatment or outcome
other than 0 and 1, and where nobody or everybody was treated. Any device; computed in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recbench.errors import RecbenchError
from recbench.metrics.rows import columns


class Curve(NamedTuple):
    """Points of a curve of straight lines, from (0, 0) to all N rows: both tensors are (P,) in float64."""

    rows: Tensor
    """Numbers of rows targeted, those of highest scores first."""
    values: Tensor


def uplift_curve(scores: Tensor, treatment: Tensor, outcome: Tensor) -> Curve:
    """Return f at the end of every tie group: extra responses if all rows so far had been treated."""
    counts = _count(scores, treatment, outcome)
    return Curve(counts.rows, (counts.treated_rate - counts.control_rate) * counts.rows)


def qini_curve(scores: Tensor, treatment: Tensor, outcome: Tensor) -> Curve:
    """Return g at the end of every tie group: extra responses of the treated rows so far."""
    counts = _count(scores, treatment, outcome)
    return Curve(counts.rows, (counts.treated_rate - counts.control_rate) * counts.treated)


def auuc(scores: Tensor, treatment: Tensor, outcome: Tensor) -> float:
    """Area under the uplift curve, both axes as shares of N; a random ranking has half the mean effect."""
    return _area(uplift_curve(scores, treatment, outcome))


def qini(scores: Tensor, treatment: Tensor, outcome: Tensor) -> float:
    """Qini coefficient: the area between the Qini curve and the line of a random ranking, both axes as shares of N."""
    curve = qini_curve(scores, treatment, outcome)
    random = Curve(curve.rows[[0, -1]], curve.values[[0, -1]])
    return _area(curve) - _area(random)


def perfect_qini(treatment: Tensor, outcome: Tensor) -> float:
    """Qini coefficient of the ranking that knows the responses: treated responders first, control responders last."""
    return qini(outcome.double() * (2 * treatment.double() - 1), treatment, outcome)


def qini_share(scores: Tensor, treatment: Tensor, outcome: Tensor) -> float:
    """Qini coefficient over that of the perfect ranking; undefined, an error, where that is not better than random."""
    best = perfect_qini(treatment, outcome)
    if best <= 0:
        raise RecbenchError("qini_share is not defined: no ranking is better than a random one for these responses")
    return qini(scores, treatment, outcome) / best


def uplift_at(scores: Tensor, treatment: Tensor, outcome: Tensor, share: float) -> float:
    """Response rate of the treated less that of the control rows, among the ``share`` of all rows scored highest.

    The top is taken of both groups together (strategy "overall"). Raises RecbenchError for a share outside (0, 1] and
    where the top has no treated or no control rows.
    """
    if not 0 < share <= 1:
        raise RecbenchError(f"uplift_at needs a share of the rows above 0 and up to 1, found {share:g}")
    counts = _count(scores, treatment, outcome)
    cut = counts.rows.new_tensor(share * len(scores)).clamp(max=len(scores))
    end = int(torch.searchsorted(counts.rows, cut))
    part = (cut - counts.rows[end - 1]) / (counts.rows[end] - counts.rows[end - 1])
    top = _Counts(*(torch.lerp(column[end - 1], column[end], part) for column in counts))
    for group, rows in {"treated": top.treated, "control": top.control}.items():
        if not rows > 0:
            raise RecbenchError(f"uplift_at is not defined: no {group} rows among the first {share:g} of {len(scores)}")
    return float(top.treated_rate - top.control_rate)


class _Counts(NamedTuple):
    """Cumulative counts at the end of each tie group, the first of them 0."""

    treated: Tensor
    control: Tensor
    treated_responses: Tensor
    control_responses: Tensor

    @property
    def rows(self) -> Tensor:
        return self.treated + self.control

    @property
    def treated_rate(self) -> Tensor:
        # Without rows there are no responses: 0 / 1.
        return self.treated_responses / self.treated.where(self.treated > 0, torch.ones_like(self.treated))

    @property
    def control_rate(self) -> Tensor:
        return self.control_responses / self.control.where(self.control > 0, torch.ones_like(self.control))


def _count(scores: Tensor, treatment: Tensor, outcome: Tensor) -> _Counts:
    _check(scores, treatment, outcome)
    # Tie groups by falling score, and in each of them the rows of every combination of treatment and outcome.
    group = torch.unique(-scores.double(), return_inverse=True)[1]
    kind = 2 * treatment.long() + outcome.long()
    cells = torch.bincount(4 * group + kind, minlength=4 * (int(group.max()) + 1)).view(-1, 4)
    upto = torch.nn.functional.pad(cells.cumsum(0), (0, 0, 1, 0)).double()
    return _Counts(upto[:, 2] + upto[:, 3], upto[:, 0] + upto[:, 1], upto[:, 3], upto[:, 1])


def _area(curve: Curve) -> float:
    return float(torch.trapezoid(curve.values, curve.rows)) / float(curve.rows[-1]) ** 2


def _check(scores: Tensor, treatment: Tensor, outcome: Tensor) -> None:
    columns(scores=scores, treatment=treatment, outcome=outcome)
    for name, column in {"treatment": treatment, "outcome": outcome}.items():
        if wrong := int(((column != 0) & (column != 1)).sum()):
            raise RecbenchError(f"{name} is 0 or 1 in every row; {wrong} of {len(column)} rows have something else")
    if not 0 < (treated := int(treatment.sum())) < len(treatment):
        raise RecbenchError(f"uplift needs treated and control rows; {treated} of {len(treatment)} rows were treated")
