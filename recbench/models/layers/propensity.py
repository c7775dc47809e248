"""Propensities: the probability that a pair is observed, which inverse propensity weighting divides by.

==============  ==============================================================  ===================================
naive-bayes     P(o=1 | y) = P(y | o=1) P(o=1) / P(y)                           one for each label y
logistic        logit P(o=1 | u, i) = b + b_u + b_i                             one for each pair
known           as published with the data set                                  one for each pair
==============  ==============================================================  ===================================

Sources: Schnabel et al. 2016, arXiv:1602.05352, section 5 (naive Bayes, logistic regression). P(y), which naive Bayes
needs, comes from ratings missing at random: those of the validation part here, never of the test part.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recbench.errors import UsageError
from recbench.models.base import ModelConfig, Share
from recbench.tasks.rating import RatingBatch, RatingData

Method = Literal["naive-bayes", "logistic", "known"]

# A ridge this weak only keeps the biases of users or items without any observed pair finite.
LOGISTIC_L2 = 0.1


class PropensityConfig(ModelConfig):
    """Which propensities a model divides by."""

    propensity: Method = "naive-bayes"
    clip: Share = 0.05
    """Smaller propensities are raised to this: some bias, for weights of at most 1 / clip."""


class Propensities(nn.Module):
    """Propensities of observed pairs, fixed before training."""

    table: Tensor

    def __init__(self, config: PropensityConfig, data: RatingData) -> None:
        super().__init__()
        self._by_label = config.propensity == "naive-bayes"
        table = {"naive-bayes": naive_bayes, "logistic": logistic, "known": known}[config.propensity](data)
        # Made of the data anew whenever the model is, so checkpoints need not carry it.
        self.register_buffer("table", table.clamp(min=config.clip), persistent=False)

    def forward(self, batch: RatingBatch) -> Tensor:
        """Return the propensities of the observed pairs of a batch, shape (B,)."""
        return self.table[batch.labels.long()] if self._by_label else self.table[batch.users, batch.items]


def naive_bayes(data: RatingData) -> Tensor:
    """Return P(o=1 | y) of a negative and of a positive pair, shape (2,)."""
    observed = torch.stack([1 - data.labels.mean(), data.labels.mean()])
    missing_at_random = observed.new_tensor([1 - data.positive_share, data.positive_share])
    return (observed * len(data.labels) / data.n_pairs / missing_at_random).clamp(max=1)


def logistic(data: RatingData) -> Tensor:
    """Return P(o=1 | u, i), shape (U, I): L-BFGS on the likelihood of the whole indicator matrix of observed pairs."""
    from scipy.optimize import minimize
    from scipy.special import expit

    U = data.n_users
    users, items = data.users.cpu().numpy(), data.items.cpu().numpy()
    n_user, n_item = np.bincount(users, minlength=U), np.bincount(items, minlength=data.n_items)

    def logits(theta: NDArray[np.float64]) -> NDArray[np.float64]:
        matrix: NDArray[np.float64] = theta[0] + theta[1 : U + 1, None] + theta[U + 1 :]
        return matrix

    # The indicators enter the likelihood through their sums over rows and columns alone.
    counts = np.concatenate([[len(users)], n_user, n_item])
    ridge = np.full(counts.shape, LOGISTIC_L2)
    ridge[0] = 0.0

    def objective(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = logits(theta)
        p = expit(z)
        expected = np.concatenate([[p.sum()], p.sum(1), p.sum(0)])
        value = np.logaddexp(0, z).sum() - counts @ theta + 0.5 * ridge @ theta**2
        # Per pair, so that the optimiser's tolerances do not depend on the size of the data.
        return value / data.n_pairs, (expected - counts + ridge * theta) / data.n_pairs

    start = np.zeros(len(counts))
    start[0] = np.log(len(users) / (data.n_pairs - len(users)))
    fitted = minimize(objective, start, jac=True, method="L-BFGS-B", options={"gtol": 1e-8, "ftol": 1e-12})
    return torch.tensor(expit(logits(fitted.x)), dtype=torch.float32, device=data.device)


def known(data: RatingData) -> Tensor:
    """Return the published propensities, shape (U, I).

    Raises:
        UsageError: the data set comes without.
    """
    if data.propensities is None:
        raise UsageError("propensity=known: this data set publishes no propensities; use naive-bayes or logistic")
    return data.propensities
