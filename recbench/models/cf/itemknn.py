"""ItemKNN: recommend the items most similar to those a user has.

Source      Sarwar et al., "Item-based Collaborative Filtering Recommendation Algorithms", WWW 2001; the settings follow
            Ferrari Dacrema et al., TOIS 2021, arXiv:1911.07698, section 4.1
Weighting   x_ui = 1, or with tf-idf log(I / (1 + |I_u|)): users with many interactions say less about each
Similarity  s_ij = x_i . x_j / (|x_i| |x_j| + shrink), the k largest of every item i, no item its own neighbour
Score       s(u, i) = sum of s_ij over the items j of u among the neighbours of i
Cost        sparse products of blocks of items; memory k I plus one block of BLOCK rows of similarities
Departures  no BM25: on 0/1 data it differs from tf-idf by one factor an item, which the cosine cancels
"""

# Shapes: U users, I items, B batch, K neighbours.

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from recbench.models.base import ClosedFormRecommender, ModelConfig, NonNegativeFloat, Positive, Reference, tunable
from recbench.tasks.interactions import TopNData, UserBatch

if TYPE_CHECKING:
    import scipy.sparse as sp

BLOCK = 1024  # items whose similarities to all items are held at once


class ItemKNN(ClosedFormRecommender):
    """Item-based nearest neighbours by shrunk cosine similarity (Sarwar et al., WWW 2001)."""

    class Config(ModelConfig):
        """Hyper-parameters."""

        neighbours: Positive = tunable(200, low=5, high=1000, log=True)
        """K. Published on ML-20M by Ferrari Dacrema et al.: 278."""
        shrink: NonNegativeFloat = tunable(0.0, low=0.0, high=1000.0)
        """Added to the denominator of the cosine. Published on ML-20M: 409, with BM25."""
        weighting: Literal["none", "tfidf"] = tunable("tfidf", choices=("none", "tfidf"))
        """Weight of a user's interactions."""

    folds_in = True
    reference = Reference("Ferrari Dacrema et al., TOIS 2021", "topn/ml-20m-strong", "ndcg@100", 0.3492, 0.005)
    neighbours: Tensor
    similarities: Tensor

    def __init__(self, config: Config, data: TopNData) -> None:
        super().__init__(config, data)
        shape = (data.n_items, min(config.neighbours, data.n_items))
        self.register_buffer("neighbours", torch.zeros(shape, dtype=torch.int64))
        self.register_buffer("similarities", torch.zeros(shape))

    def fit(self, data: TopNData) -> None:
        """Find every item's neighbours."""
        rows = self._weighted(data.matrix()).T.tocsr()
        columns = rows.T.tocsr()
        norms = torch.from_numpy(np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel()))
        for start in range(0, self.n_items, BLOCK):
            block = slice(start, start + BLOCK)
            products = torch.from_numpy((rows[block] @ columns).toarray())
            denominators = norms[block, None] * norms + self.config.shrink
            # An item without interactions has a norm of 0, and without shrinkage 0 / 0.
            similarities = (products / denominators).nan_to_num_(0.0)
            similarities.diagonal(start).zero_()
            largest, items = similarities.topk(self.neighbours.shape[1])
            self.similarities[block], self.neighbours[block] = largest.to(data.device), items.to(data.device)

    def _weighted(self, interactions: sp.csr_matrix) -> sp.csr_matrix:
        if self.config.weighting == "none":
            return interactions
        lengths = np.diff(interactions.indptr)
        weights = np.log(self.n_items / (1 + lengths))
        interactions.data = np.repeat(weights, lengths).astype(np.float32)
        return interactions

    def score(self, batch: UserBatch) -> Tensor:
        """Return the summed similarities, shape (B, I)."""
        # A sparse product with the (I, I) matrix of similarities, whose rows all have K entries.
        return torch.nn.functional.embedding_bag(
            self.neighbours, batch.dense().T.contiguous(), mode="sum", per_sample_weights=self.similarities
        ).T
