"""P3alpha: recommend what a random walk of three steps from a user reaches.

Source      Cooper, Lee, Radinsky, Siantos, "Random Walks in Recommender Systems: Exact Computation and Simulations",
            WWW 2014 Companion; the form of Ferrari Dacrema et al., TOIS 2021, arXiv:1911.07698, section 4.1
Walk        from item j to a user v of j, to an item i of v: w_ji = sum over v of (1 / |U_j|)^alpha (1 / |I_v|)^alpha
Weights     the K largest w_ji of every item j, no item its own neighbour; divided by their sum if normalised; of these
            the K largest of every item i
Score       s(u, i) = sum of w_ji over the items j of u. The first step, (1 / |I_u|)^alpha, changes no order
Departures  none
"""

# Shapes: I items, B batch, K neighbours.

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from recbench.models.base import (
    ClosedFormRecommender,
    ModelConfig,
    NonNegativeFloat,
    Positive,
    Reference,
    tunable,
)
from recbench.models.layers.neighbours import Array, ItemWeights, largest, nearest, rows_to_one
from recbench.tasks.interactions import TopNData, UserBatch


class P3Alpha(ClosedFormRecommender):
    """Random walks of three steps with powers of the transition probabilities (Cooper et al., WWW 2014)."""

    class Config(ModelConfig):
        """Hyper-parameters."""

        neighbours: Positive = tunable(200, low=5, high=1000, log=True)
        """K."""
        alpha: NonNegativeFloat = tunable(1.0, low=0.0, high=2.0)
        """Power of the transition probabilities; 1 is the walk itself."""
        normalise: bool = tunable(True, choices=(False, True))
        """Divide the weights of an item that the walk starts from by their sum."""

    folds_in = True
    reference = Reference("Ferrari Dacrema et al., TOIS 2021", "topn/ml-20m-strong", "ndcg@100", 0.3182, 0.005)

    def __init__(self, config: Config, data: TopNData) -> None:
        super().__init__(config, data)
        self.weights = ItemWeights(data.n_items, config.neighbours)

    def fit(self, data: TopNData) -> None:
        """Compute the walks between items."""
        config, users = self.config, data.matrix()
        items = users.T.tocsr()
        of_user, of_item = np.diff(users.indptr), np.diff(items.indptr)
        items.data = np.repeat(of_item, of_item).astype(np.float32) ** -config.alpha
        users.data = np.repeat(of_user, of_user).astype(np.float32) ** -config.alpha
        rewards = self.rewards(of_item)

        def transform(products: Array, _: Array, columns: Array) -> Array:
            return products * rewards[columns]

        walks = nearest(items, users, config.neighbours, transform, np.arange(data.n_items))
        if config.normalise:
            walks = rows_to_one(walks)
        walks = walks.T.tocsr()
        self.weights.set(largest(walks, config.neighbours).T.tocsr())

    def rewards(self, popularity: NDArray[np.integer]) -> NDArray[np.floating]:
        """Return what the walks that end in an item count, shape (I,)."""
        return np.ones(len(popularity), np.float32)

    def score(self, batch: UserBatch) -> Tensor:
        """Return the summed weights, shape (B, I)."""
        scores: Tensor = self.weights(batch.history)
        return scores
