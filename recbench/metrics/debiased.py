"""Estimators of a model's mean error over all user-item pairs from the pairs that happened to be observed.

The target is the ideal loss ``(1 / |D|) sum_D e``: D all pairs, O the observed ones, e the error of a prediction, p the
probability (propensity) that a pair is observed, ehat an imputed error.

========  ============================================  =====================================
naive     mean_O e                                      unbiased if pairs are missing at random
ips       (1 / |D|) sum_O e / p                         unbiased if p is right
snips     sum_O e / p  /  sum_O 1 / p                   consistent if p is right
dr        (1 / |D|) [sum_D ehat + sum_O (e - ehat) / p]  unbiased if p or ehat is right
========  ============================================  =====================================

Sources: Schnabel et al. 2016, arXiv:1602.05352, equations 9 to 11 (IPS, SNIPS); Wang et al. 2019, "Doubly robust joint
learning for recommendation on data missing not at random" (DR).

All are differentiable and serve as losses. In a mini-batch, ``n_pairs`` is the number of pairs the batch's observed
pairs stand for: B pairs drawn uniformly from O stand for ``B * |D| / |O|`` pairs. With |D| itself the weighted part
would be too small by B / |O|; with B it would be too large by |D| / |O| and drown the imputed part of DR.

Errors and propensities are floating point tensors (B,); propensities lie in (0, 1] and clipping them is the model's
decision. Results are scalars. Nothing is checked here, since a check would wait for the device in every step.
"""

from torch import Tensor


def naive(errors_O: Tensor) -> Tensor:
    """Mean error of the observed pairs (B,)."""
    return errors_O.mean()


def ips(errors_O: Tensor, propensities_O: Tensor, n_pairs: float) -> Tensor:
    """Inverse propensity score estimate from observed pairs (B,) that stand for ``n_pairs`` pairs."""
    return (errors_O / propensities_O).sum() / n_pairs


def snips(errors_O: Tensor, propensities_O: Tensor) -> Tensor:
    """Self-normalised inverse propensity score: the weighted mean error of the observed pairs (B,).

    Of lower variance than IPS, and biased by O(1 / |O|); it needs no number of pairs.
    """
    weights_O = 1 / propensities_O
    return (weights_O * errors_O).sum() / weights_O.sum()


def dr(errors_O: Tensor, imputed_O: Tensor, propensities_O: Tensor, imputed_D: Tensor, n_pairs: float) -> Tensor:
    """Doubly robust estimate: the mean imputed error plus the IPS estimate of what the imputation misses.

    Args:
        errors_O: (B,) errors of observed pairs.
        imputed_O: (B,) imputed errors of the same pairs.
        propensities_O: (B,) their propensities.
        imputed_D: (M,) imputed errors of all pairs, or of pairs drawn uniformly from all, observed or not.
        n_pairs: the number of pairs that the B observed pairs stand for; M plays no part in it.
    """
    return imputed_D.mean() + ips(errors_O - imputed_O, propensities_O, n_pairs)
