"""BPR-MF: matrix factorisation that learns a ranking from pairs of a seen and an unseen item.

Source      Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009, arXiv:1205.2618,
            section 4.3.1
Score       s(u, i) = <p_u, q_i>
Loss        -log sigmoid(s(u, i) - s(u, j)) + l2 / 2 (|p_u|^2 + |q_i|^2 + |q_j|^2), j uniform from the items u has not
            seen
Departures  Adam on batches in place of single-sample stochastic gradient descent; the mean over several j where
            num_negatives > 1, all of them in the penalty
"""

# Shapes: B batch, N num_negatives, I items, D embedding_dim.

from __future__ import annotations

from torch import Tensor, nn

from recbench.models.base import (
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Recommender,
    Reference,
    TrainedConfig,
    tunable,
)
from recbench.models.layers.pairwise import batch_penalty, bpr_loss
from recbench.tasks.interactions import PairBatch, Pairs, TopNData, UserBatch

INITIAL_STD = 0.01


class BPRMF(Recommender):
    """Matrix factorisation with the pairwise BPR loss (Rendle et al., UAI 2009)."""

    class Config(TrainedConfig):
        """Hyper-parameters."""

        embedding_dim: Positive = tunable(64, low=16, high=256, log=True)
        """D."""
        learning_rate: PositiveFloat = tunable(2e-3, low=1e-4, high=1e-2, log=True)
        l2: NonNegativeFloat = tunable(1e-3, low=1e-6, high=1e-1, log=True)
        """Penalty on the squared norms of the embeddings of a pair."""
        num_negatives: Positive = 1
        """N, unseen items drawn for every interaction, anew in every epoch."""

    reference = Reference("RecBole 1.2.1, its own draw of the same protocol", "topn/ml-100k", "ndcg@10", 0.2931, 0.015)

    def __init__(self, config: Config, data: TopNData) -> None:
        super().__init__(config, data)
        self.user = nn.Embedding(data.n_users, config.embedding_dim)
        self.item = nn.Embedding(data.n_items, config.embedding_dim)
        for embedding in (self.user, self.item):
            nn.init.normal_(embedding.weight, std=INITIAL_STD)

    def batches(self, data: TopNData) -> Pairs:
        """Every interaction with ``num_negatives`` unseen items."""
        return data.pairs(self.config.batch_size, self.config.num_negatives)

    def loss(self, batch: PairBatch) -> Tensor:
        """Mean over the batch's pairs."""
        users = self.user(batch.users)  # (B, D)
        positives = self.item(batch.positives)  # (B, D)
        negatives = self.item(batch.negatives)  # (B, N, D)
        unseen_scores = (users[:, None] * negatives).sum(2)
        penalty: Tensor = self.config.l2 * batch_penalty(users, positives, negatives)
        return bpr_loss((users * positives).sum(1), unseen_scores) + penalty

    def score(self, batch: UserBatch) -> Tensor:
        """Return inner products, shape (B, I)."""
        scores: Tensor = self.user(batch.users) @ self.item.weight.T
        return scores
