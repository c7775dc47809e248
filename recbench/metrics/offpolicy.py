"""Estimates of a mean from a log with known propensities, each with its uncertainty.

Two kinds of log, and what is random in them:

* *Pairs*: of a fixed set D of user-item pairs each is observed, independently, with its propensity p. The target is the
  mean error of a model over D. Only which pairs are observed is random, so the variance is that of Poisson sampling,
  with the estimate ``sum_O (1 - p) (x / p)^2 / |D|^2`` for the errors x of the observed pairs O (Horvitz and Thompson
  1952); with every propensity 1 it is 0.
* *Policy*: n independent rows, in each an action taken with propensity p (probability under the logging policy) and its
  reward. The target is the mean reward under another policy, which takes the same action with probability pi. The
  variance is that of the mean of n terms, one a row.

=====  ===================================================  ==================================================
       pairs, w = 1 / p                                     policy, w = pi / p
=====  ===================================================  ==================================================
IPS    (1 / |D|) sum_O w e                                  (1 / n) sum w r
SNIPS  sum_O w e / sum_O w                                  sum w r / sum w
DR     (1 / |D|) [sum_D ehat + sum_O w (e - ehat)]          (1 / n) sum [E_pi rhat + w (r - rhat)]
=====  ===================================================  ==================================================

Sources: Schnabel et al. 2016, arXiv:1602.05352, equations 9 to 11 (pairs); Swaminathan and Joachims 2015, "The
self-normalized estimator for counterfactual learning" (SNIPS); Dudik et al. 2011, arXiv:1103.4601 (DR).

Intervals are normal: of IPS and DR from the variance of a sum, of SNIPS, a ratio, by the delta method, from the
residuals w (e - estimate). They speak of chance alone. Wrong propensities bias IPS and SNIPS whatever the interval
says; with a right imputation DR's value is right even then, but its interval of pairs, which needs p, may not be. An
imputation must be learned from other data than the log it corrects. Where few effective rows, or one of a large share
of the weight, decide, the normal limit is far and the interval too short.

All arguments are floating point or integer tensors of one dimension, on one device; all is computed in float64 and does
not depend on the order of rows. ``RecbenchError`` is raised for no rows, unequal lengths, values that are not finite,
propensities outside (0, 1], probabilities outside [0, 1], and where all weights are 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from recbench.errors import RecbenchError
from recbench.metrics import debiased
from recbench.metrics.rows import Z95, columns


@dataclass(frozen=True)
class Estimate:
    """An estimated mean and how far it can be trusted."""

    value: float
    """In the unit of the errors or rewards."""
    standard_error: float
    ci95: tuple[float, float]
    """Normal interval, ``value`` -+ 1.96 ``standard_error``."""
    effective_sample_size: float
    """Kish: (sum w)^2 / sum w^2, from 1 to n; the number of equally weighted rows that would tell as much."""
    largest_weight_share: float
    """Share of the largest weight in the sum of the weights, from 1 / n to 1."""
    n: int
    """Number of logged rows."""


def ips_of_pairs(errors_O: Tensor, propensities_O: Tensor, n_pairs: int) -> Estimate:
    """Inverse propensity score estimate of the mean error over ``n_pairs`` pairs, from the observed ones (B,)."""
    errors, propensities = columns(errors=errors_O, propensities=propensities_O)
    _check_propensities(propensities)
    if n_pairs < len(errors):
        raise RecbenchError(
            f"n_pairs counts all pairs, observed or not: expected at least {len(errors)}, got {n_pairs}"
        )
    value = debiased.ips(errors, propensities, n_pairs)
    return _estimate(value, _poisson_error(errors, propensities) / n_pairs, 1 / propensities)


def snips_of_pairs(errors_O: Tensor, propensities_O: Tensor) -> Estimate:
    """Self-normalised estimate of the mean error over all pairs, from the observed ones (B,).

    Errors shifted by a constant shift the estimate by it and leave the interval's width. Biased by O(1 / B).
    """
    errors, propensities = columns(errors=errors_O, propensities=propensities_O)
    _check_propensities(propensities)
    value = debiased.snips(errors, propensities)
    weights = 1 / propensities
    return _estimate(value, _poisson_error(errors - value, propensities) / weights.sum(), weights)


def dr_of_pairs(errors_O: Tensor, imputed_O: Tensor, propensities_O: Tensor, imputed_D: Tensor) -> Estimate:
    """Doubly robust estimate of the mean error over all pairs.

    Args:
        errors_O: (B,) errors of the observed pairs.
        imputed_O: (B,) imputed errors of the same pairs.
        propensities_O: (B,) their propensities.
        imputed_D: (|D|,) imputed errors of all pairs, observed or not.
    """
    errors, imputed, propensities = columns(errors=errors_O, imputed=imputed_O, propensities=propensities_O)
    (everywhere,) = columns(imputed_D=imputed_D)
    _check_propensities(propensities)
    n_pairs = len(everywhere)
    if n_pairs < len(errors):
        raise RecbenchError(f"imputed_D has a value for each pair: expected at least {len(errors)}, got {n_pairs}")
    value = debiased.dr(errors, imputed, propensities, everywhere, n_pairs)
    return _estimate(value, _poisson_error(errors - imputed, propensities) / n_pairs, 1 / propensities)


def ips_of_policy(rewards: Tensor, propensities: Tensor, targets: Tensor) -> Estimate:
    """Inverse propensity score estimate of a policy's value from n >= 2 rows of a log.

    Args:
        rewards: (n,) of the logged actions.
        propensities: (n,) probabilities of the logged actions under the logging policy.
        targets: (n,) probabilities of the same actions under the policy to judge.
    """
    values, weights = _policy_rows(propensities, targets, rewards=rewards)
    value = debiased.ips(values[0], 1 / weights, len(weights))
    return _estimate(value, _error_of_mean(weights * values[0]), weights)


def snips_of_policy(rewards: Tensor, propensities: Tensor, targets: Tensor) -> Estimate:
    """Self-normalised estimate of a policy's value; arguments as in ``ips_of_policy``.

    Rewards shifted by a constant shift the estimate by it. Never outside the range of the rewards.
    """
    values, weights = _policy_rows(propensities, targets, rewards=rewards)
    value = debiased.snips(values[0], 1 / weights)
    return _estimate(value, (weights * (values[0] - value)).square().sum().sqrt() / weights.sum(), weights)


def dr_of_policy(
    rewards: Tensor, imputed: Tensor, propensities: Tensor, targets: Tensor, imputed_targets: Tensor
) -> Estimate:
    """Doubly robust estimate of a policy's value from n >= 2 rows of a log.

    Args:
        rewards: (n,) of the logged actions.
        imputed: (n,) imputed rewards of the logged actions.
        propensities: (n,) probabilities of the logged actions under the logging policy.
        targets: (n,) probabilities of the same actions under the policy to judge.
        imputed_targets: (n,) the mean imputed reward of each row over all actions, under the policy to judge.
    """
    given = {"rewards": rewards, "imputed": imputed, "imputed_targets": imputed_targets}
    values, weights = _policy_rows(propensities, targets, **given)
    observed, guessed, everywhere = values
    value = debiased.dr(observed, guessed, 1 / weights, everywhere, len(weights))
    return _estimate(value, _error_of_mean(everywhere + weights * (observed - guessed)), weights)


def _check_propensities(propensities: Tensor) -> None:
    wrong = (propensities <= 0) | (propensities > 1)
    if bool(wrong.any()):
        raise RecbenchError(
            f"propensities are probabilities above 0 and up to 1; {int(wrong.sum())} of {len(wrong)} are not, first "
            f"{float(propensities[wrong][0]):g} in row {int(wrong.nonzero()[0])}"
        )


def _policy_rows(propensities: Tensor, targets: Tensor, **values: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the checked values and the weights, both (n,)."""
    *kept, logged, wanted = columns(**values, propensities=propensities, targets=targets)
    _check_propensities(logged)
    if wrong := int(((wanted < 0) | (wanted > 1)).sum()):
        raise RecbenchError(f"targets are probabilities from 0 to 1; {wrong} of {len(wanted)} are not")
    if len(wanted) < 2:
        raise RecbenchError("a policy's value and its standard error need at least 2 rows, found 1")
    if not bool(wanted.any()):
        raise RecbenchError(f"the policy takes none of the {len(wanted)} logged actions; the log says nothing of it")
    return kept, wanted / logged


def _poisson_error(values_O: Tensor, propensities_O: Tensor) -> Tensor:
    """Return the standard error of ``sum_O values / p``."""
    return ((1 - propensities_O) * (values_O / propensities_O).square()).sum().sqrt()


def _error_of_mean(terms: Tensor) -> Tensor:
    return terms.std() / math.sqrt(len(terms))


def _estimate(value: Tensor, standard_error: Tensor, weights: Tensor) -> Estimate:
    centre, error = float(value), float(standard_error)
    shares = weights / weights.sum()
    return Estimate(
        value=centre,
        standard_error=error,
        ci95=(centre - Z95 * error, centre + Z95 * error),
        effective_sample_size=float(1 / shares.square().sum()),
        largest_weight_share=float(shares.max()),
        n=len(weights),
    )
