"""UserKNN: recommend what the users most similar to a user have.

Source      Resnick et al., "GroupLens", CSCW 1994, on 0/1 data; settings, weighting and similarities of Ferrari Dacrema
            et al., TOIS 2021, arXiv:1911.07698, section 4.1
Weighting   x_ui = c_u idf_i: users are documents, items their words (`layers/neighbours.py`)
Similarity  s_uv of the rows u and v of x, the K largest of every user u, among the users in training, nobody his own
            neighbour
Score       s(u, i) = sum of s_uv over the neighbours v who have i
Cost        similarities are computed when a user is scored, by sparse products with the training interactions, which
            are all that is kept
Departures  the published code weights items as documents here too, so that the cosine cancels tf-idf, a factor for each
            user, and weights what the neighbours have; Jaccard as in ItemKNN
"""

# Shapes: U users, I items, B batch, K neighbours, n interactions.

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from recbench.models.base import ClosedFormRecommender, Reference, tunable
from recbench.models.layers.neighbours import KNNConfig, Vectors, bm25, dense, idf, nearest, pattern, similarity
from recbench.tasks.batches import Ragged
from recbench.tasks.interactions import TopNData, UserBatch


class UserKNN(ClosedFormRecommender):
    """User-based nearest neighbours by shrunk similarity (Resnick et al., CSCW 1994)."""

    class Config(KNNConfig):
        """Hyper-parameters. Published on Gowalla by Anelli et al.: 146 neighbours, cosine, no weighting."""

        weighting: Literal["none", "tfidf", "bm25"] = tunable("tfidf", choices=("none", "tfidf", "bm25"))
        """Of interactions: tf-idf trusts items that many have less, BM25 also users who have many."""

    folds_in = True
    reference = Reference("Anelli et al., RecSys 2023", "topn/gowalla", "recall@20", 0.1685, 0.0025)
    items: Tensor
    item_offsets: Tensor
    users: Tensor
    user_offsets: Tensor
    features: Tensor
    factors: Tensor
    squares: Tensor
    mean_length: Tensor

    def __init__(self, config: Config, data: TopNData) -> None:
        super().__init__(config, data)
        # The training matrix, by user and by item, and the weights of items and users.
        for side, length in (("item", data.n_items), ("user", data.n_users)):
            self.register_buffer(f"{side}s", torch.zeros(len(data.items), dtype=torch.int32))
            self.register_buffer(f"{side}_offsets", torch.zeros(length + 1, dtype=torch.int32))
        self.register_buffer("features", torch.zeros(data.n_items))
        self.register_buffer("factors", torch.zeros(data.n_users))
        self.register_buffer("squares", torch.zeros(data.n_users))
        self.register_buffer("mean_length", torch.zeros(()))

    def fit(self, data: TopNData) -> None:
        """Keep the training interactions, and weigh them."""
        users = data.matrix()
        items = users.T.tocsr()
        lengths = np.diff(users.indptr)
        n_trained = int(np.count_nonzero(lengths))
        weighted = self.config.weighting != "none"
        features = idf(n_trained, np.diff(items.indptr)) if weighted else np.ones(self.n_items, np.float32)
        self.mean_length.fill_(len(data.items) / n_trained)
        vectors = Vectors.of(users, self._factors(lengths), features)
        for buffer, array in (
            (self.items, users.indices),
            (self.user_offsets, users.indptr),
            (self.users, items.indices),
            (self.item_offsets, items.indptr),
            (self.features, features),
            (self.factors, vectors.factors),
            (self.squares, vectors.squares),
        ):
            buffer.copy_(torch.from_numpy(array))

    def score(self, batch: UserBatch) -> Tensor:
        """Return the summed similarities of the neighbours who have an item, shape (B, I)."""
        trained = Vectors(self.factors.cpu().numpy(), self.squares.cpu().numpy())
        features = self.features.cpu().numpy()
        history = pattern(batch.history, self.n_items)
        vectors = Vectors.of(history, self._factors(np.diff(history.indptr)), features)
        history.data = features[history.indices] ** 2
        users_of_items = pattern(Ragged(self.users, self.item_offsets), self.n_users)
        items_of_users = pattern(Ragged(self.items, self.user_offsets), self.n_items)
        own = batch.users.cpu().numpy()
        transform = similarity(self.config, vectors, trained)
        neighbours = nearest(history, users_of_items, self.config.neighbours, transform, own)
        return dense(neighbours @ items_of_users, self.features.device)

    def _factors(self, lengths: np.ndarray) -> np.ndarray:
        if self.config.weighting == "bm25":
            return bm25(lengths, float(self.mean_length))
        return np.ones(len(lengths), np.float32)
