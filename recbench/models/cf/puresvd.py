"""PureSVD: project a user's row onto the leading singular vectors of the interactions.

Source      Cremonesi, Koren, Turrin, "Performance of Recommender Algorithms on Top-N Recommendation Tasks", RecSys
            2010, section 3.3.1
Solution    X = P S Q', X (U, I) the 0/1 interactions; of it the D largest singular values
Score       s(u, .) = x_u Q Q', which for users in training is the row of P S Q'
Cost        ARPACK's Lanczos iteration: sparse products, and memory of about 2 D vectors
Departures  none
"""

# Shapes: U users, I items, D embedding_dim, B batch.

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse.linalg import svds
from torch import Tensor

from recbench.errors import UsageError
from recbench.models.base import ClosedFormRecommender, ModelConfig, Positive, Reference, tunable
from recbench.models.layers.wide import wide_linear
from recbench.tasks.interactions import TopNData, UserBatch


class PureSVD(ClosedFormRecommender):
    """Truncated singular value decomposition of the interactions (Cremonesi et al., RecSys 2010)."""

    class Config(ModelConfig):
        """Hyper-parameters."""

        embedding_dim: Positive = tunable(50, low=4, high=512, log=True)
        """D. Published: 50 and 150 on MovieLens and Netflix."""

    folds_in = True
    reference = Reference("Ferrari Dacrema et al., TOIS 2021", "topn/ml-20m-strong", "ndcg@100", 0.3538, 0.005)
    item_vectors: Tensor

    def __init__(self, config: Config, data: TopNData) -> None:
        super().__init__(config, data)
        smaller = min(data.n_users, data.n_items)
        if config.embedding_dim >= smaller:
            raise UsageError(
                f"embedding_dim: expected less than the smaller of {data.n_users} users and {data.n_items} items, "
                f"found {config.embedding_dim}"
            )
        self.register_buffer("item_vectors", torch.zeros(data.n_items, config.embedding_dim))

    def fit(self, data: TopNData) -> None:
        """Decompose the interactions."""
        interactions = data.matrix(np.float64)
        # A given start, so that all runs give the same vectors.
        start = np.ones(min(interactions.shape))
        _, _, vectors = svds(interactions, self.config.embedding_dim, v0=start)
        self.item_vectors.copy_(torch.from_numpy(np.ascontiguousarray(vectors.T)))

    def score(self, batch: UserBatch) -> Tensor:
        """Return x_u Q Q', shape (B, I)."""
        return wide_linear(batch.times(self.item_vectors), self.item_vectors)
