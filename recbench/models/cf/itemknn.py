"""ItemKNN: recommend the items most similar to those a user has.

Source      Sarwar et al., "Item-based Collaborative Filtering Recommendation Algorithms", WWW 2001; settings, weighting
            and similarities of Ferrari Dacrema et al., TOIS 2021, arXiv:1911.07698, section 4.1; normalised weights and
            deviations from means as in the ItemCF of BARS (Zhu et al., SIGIR 2022)
Weighting   x_ui = c_i idf_u: items are documents, users their words (`layers/neighbours.py`). On 0/1 data BM25 is
            tf-idf times a factor c_i of the item, which the cosine cancels, but neither shrinkage nor the score does
Similarity  s_ij of the columns i and j of x, the K largest of every item i, no item its own neighbour; divided by their
            sum if normalised
Score       s(u, i) = sum of c_j s_ij over the items j of u: as published, what a user has is weighted too; idf_u
            changes no order. By deviations: m_i + sum over all j of c_j s_ij (1[u has j] - m_j), where m_j is the
            share of users who have j
Departures  Jaccard's coefficient of weighted vectors is Tanimoto's; the published code then leaves the weights out
"""

# Shapes: U users, I items, B batch, K neighbours.

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from recbench.models.base import ClosedFormRecommender, Reference, tunable
from recbench.models.layers.neighbours import (
    ItemWeights,
    KNNConfig,
    Vectors,
    bm25,
    idf,
    nearest,
    rows_to_one,
    similarity,
)
from recbench.tasks.interactions import TopNData, UserBatch


class ItemKNN(ClosedFormRecommender):
    """Item-based nearest neighbours by shrunk similarity (Sarwar et al., WWW 2001)."""

    class Config(KNNConfig):
        """Hyper-parameters.

        Published on Gowalla by BARS: 100 neighbours, no weighting, normalised, deviations. On ML-20M by Ferrari Dacrema
        et al.: 278 neighbours, BM25, shrink 409.
        """

        weighting: Literal["none", "tfidf", "bm25"] = tunable("tfidf", choices=("none", "tfidf", "bm25"))
        """Of interactions: tf-idf trusts users with many of them less, BM25 also items with many."""
        normalise: bool = tunable(False, choices=(False, True))
        """Divide the similarities of an item by their sum."""
        deviations: bool = tunable(False, choices=(False, True))
        """Score deviations from the items' means, and add an item's own mean."""

    folds_in = True
    reference = Reference("BARS, ItemCF", "topn/gowalla", "recall@20", 0.1570, 0.0024)
    bias: Tensor

    def __init__(self, config: Config, data: TopNData) -> None:
        super().__init__(config, data)
        self.weights = ItemWeights(data.n_items, config.neighbours)
        if config.deviations:
            self.register_buffer("bias", torch.zeros(data.n_items))

    def fit(self, data: TopNData) -> None:
        """Find every item's neighbours."""
        config, users = self.config, data.matrix()
        items = users.T.tocsr()
        of_user, of_item = np.diff(users.indptr), np.diff(items.indptr)
        features = np.ones(data.n_users, np.float32) if config.weighting == "none" else idf(data.n_items, of_user)
        factors = bm25(of_item, of_item.mean()) if config.weighting == "bm25" else np.ones(data.n_items, np.float32)
        vectors = Vectors.of(items, factors, features)
        items.data = features[items.indices] ** 2
        similarities = nearest(
            items, users, config.neighbours, similarity(config, vectors, vectors), np.arange(data.n_items)
        )
        if config.normalise:
            similarities = rows_to_one(similarities)
        similarities.data *= factors[similarities.indices]
        self.weights.set(similarities.T.tocsr())
        if config.deviations:
            means = of_item / np.count_nonzero(of_user)
            self.bias.copy_(torch.from_numpy(means - similarities @ means))

    def score(self, batch: UserBatch) -> Tensor:
        """Return the summed weights and the bias, shape (B, I)."""
        scores: Tensor = self.weights(batch.history)
        return scores.add_(self.bias) if self.config.deviations else scores
