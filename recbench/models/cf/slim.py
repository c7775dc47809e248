"""SLIM: every item is predicted from the others by a sparse linear model with weights that are not negative.

Source      Ning, Karypis, "SLIM: Sparse Linear Methods for Top-N Recommender Systems", ICDM 2011, equations 3 and 4;
            the penalties as scikit-learn's elastic net, and so the BARS tables, names them
Objective   for every item j: |x_j - X w_j|^2 / (2 U) + alpha l1_ratio |w_j|_1 + alpha (1 - l1_ratio) |w_j|^2 / 2
            with w_j >= 0 and w_jj = 0; x_j (U,) is column j of the 0/1 interactions X (U, I)
Score       s(u, i) = x_u . w_i over the items that user u has
Candidates  with g_i = x_i . x_j the weight w_ij is 0 where g_i <= U alpha l1_ratio, so above all for items that have
            no user in common with j. For w_j is a minimum of the convex objective (Karush, Kuhn, Tucker) if its slope
            is 0 in every w_ij > 0 and not negative in every w_ij = 0; and in w_ij = 0 the slope is
            (x_i . X w_j - g_i) / U + alpha l1_ratio >= alpha l1_ratio - g_i / U, since no entry of X or w_j is below 0.
            So the minimum over the candidates, filled up with zeros, is a minimum over all items
Cost        coordinate descent over columns of X: a sweep for all items takes sum_i |U_i| n_i operations, n_i the number
            of items that have a user in common with i. Memory: X, its columns for one item's candidates, K I weights
Departures  of every w_j the K largest weights are kept, as in Ferrari Dacrema et al., TOIS 2021, and the BARS tables;
            neighbours at the number of items keeps all
"""

# Shapes: U users, I items, B batch, K neighbours.

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from recbench.models.base import (
    ClosedFormRecommender,
    Factor,
    ModelConfig,
    Positive,
    PositiveFloat,
    Reference,
    tunable,
)
from recbench.models.layers.neighbours import ItemWeights
from recbench.tasks.interactions import TopNData, UserBatch

if TYPE_CHECKING:
    import scipy.sparse as sp

log = logging.getLogger("recbench")

BLOCK = 1024  # items whose co-occurrences are counted at once
TOLERANCE = 1e-4  # duality gap at which an item's weights are found, as a part of |x_j|^2; scikit-learn's own
SWEEPS = 1000  # over an item's candidates at most; scikit-learn's own


class SLIM(ClosedFormRecommender):
    """Sparse linear model between items, an elastic net without negative weights (Ning & Karypis, ICDM 2011)."""

    class Config(ModelConfig):
        """Hyper-parameters."""

        alpha: PositiveFloat = tunable(0.005, low=1e-4, high=1.0, log=True)
        """Weight of both penalties, against a squared error that is divided by the number of users. Published: of the
        BARS tables 0.005 on Gowalla, 0.01 on Yelp2018, 0.001 on Amazon-Book."""
        l1_ratio: Factor = tunable(1e-6, low=1e-6, high=0.1, log=True)
        """Share of the L1 penalty. Published: of the BARS tables 1e-6 on Gowalla, 1e-4 on Yelp2018, 1e-3 on
        Amazon-Book."""
        neighbours: Positive = tunable(100, low=5, high=1000, log=True)
        """K. Published: 100 in the BARS tables."""

    folds_in = True
    reference = Reference("BARS", "topn/gowalla", "recall@20", 0.16988, 0.0005)

    def __init__(self, config: Config, data: TopNData) -> None:
        super().__init__(config, data)
        self.weights = ItemWeights(data.n_items, config.neighbours)

    def fit(self, data: TopNData) -> None:
        """Solve for the weights of every item."""
        import scipy.sparse as sp
        from sklearn.exceptions import ConvergenceWarning

        interactions = data.matrix(np.float64).tocsc()
        rows, values, unfinished = [], [], 0
        for item, candidates in enumerate(self._candidates(data.matrix())):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # told below, once for all items
                weights, sweeps = self._solve(interactions, item, candidates)
            unfinished += sweeps == SWEEPS
            largest = np.argsort(-weights, kind="stable")[: self.config.neighbours]
            largest = largest[weights[largest] > 0]
            rows.append(candidates[largest])
            values.append(weights[largest].astype(np.float32))
        if unfinished:
            log.warning("slim: the weights of %d items are not exact after %d sweeps; raise alpha", unfinished, SWEEPS)
        ends = np.cumsum([len(row) for row in rows])
        columns = (np.concatenate(values), np.concatenate(rows), np.concatenate([[0], ends]))
        self.weights.set(sp.csc_matrix(columns, shape=(data.n_items, data.n_items)).tocsr())

    def score(self, batch: UserBatch) -> Tensor:
        """Return the summed weights, shape (B, I)."""
        scores: Tensor = self.weights(batch.history)
        return scores

    def _candidates(self, users: sp.csr_matrix) -> Iterator[NDArray[np.integer]]:
        """Yield for every item the others that can have a weight, ascending."""
        config, items = self.config, users.T.tocsr()
        least = self.n_users * config.alpha * config.l1_ratio
        for start in range(0, self.n_items, BLOCK):
            block = items[start : start + BLOCK] @ users
            for row, (low, high) in enumerate(zip(block.indptr[:-1], block.indptr[1:], strict=True)):
                others, counts = block.indices[low:high], block.data[low:high]
                yield np.sort(others[(counts > least) & (others != start + row)])

    def _solve(
        self, interactions: sp.csc_matrix, item: int, candidates: NDArray[np.integer]
    ) -> tuple[NDArray[Any], int]:
        """Return the weights of the candidates for one item, in their order, and the number of sweeps made."""
        if not len(candidates):
            return np.zeros(0), 0
        from sklearn.linear_model import ElasticNet

        alpha, l1_ratio = self.config.alpha, self.config.l1_ratio
        net = ElasticNet(
            alpha=alpha,
            l1_ratio=l1_ratio,
            positive=True,
            fit_intercept=False,
            copy_X=False,
            tol=TOLERANCE,
            max_iter=SWEEPS,
        )
        target = interactions[:, [item]].toarray().ravel()
        net.fit(interactions[:, candidates], target)
        return net.coef_, int(net.n_iter_)
