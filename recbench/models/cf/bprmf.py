"""BPR-MF: matrix factorisation that learns a ranking from pairs of a seen and an unseen item.

Source      Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009, arXiv:1205.2618,
            section 4.3.1
Score       s(u, i) = <p_u, q_i>
Loss        -log sigmoid(s(u, i) - s(u, j)) + l2 / 2 (|p_u|^2 + |q_i|^2 + |q_j|^2), j uniform from the items u has not
            seen; others, and other samplers, by configuration
Departures  Adam on batches in place of single-sample stochastic gradient descent; the mean over several j where
            num_negatives > 1, all of them in the penalty
"""

# Shapes: U users, I items, D embedding_dim.

from __future__ import annotations

from torch import Tensor, nn

from recbench.models.base import NonNegativeFloat, Positive, PositiveFloat, Reference, tunable
from recbench.models.layers.pairwise import DotRecommender, PairwiseConfig
from recbench.tasks.interactions import TopNData

INITIAL_STD = 0.01


class BPRMF(DotRecommender):
    """Matrix factorisation with the pairwise BPR loss (Rendle et al., UAI 2009)."""

    class Config(PairwiseConfig):
        """Hyper-parameters."""

        embedding_dim: Positive = tunable(64, low=16, high=256, log=True)
        """D."""
        learning_rate: PositiveFloat = tunable(2e-3, low=1e-4, high=1e-2, log=True)
        l2: NonNegativeFloat = tunable(1e-3, low=1e-6, high=1e-1, log=True)
        """Penalty on the squared norms of the embeddings of a pair."""

    reference = Reference("RecBole 1.2.1, its own draw of the same protocol", "topn/ml-100k", "ndcg@10", 0.2931, 0.015)

    def __init__(self, config: Config, data: TopNData) -> None:
        super().__init__(config, data)
        self.user = nn.Embedding(data.n_users, config.embedding_dim)
        self.item = nn.Embedding(data.n_items, config.embedding_dim)
        for embedding in (self.user, self.item):
            nn.init.normal_(embedding.weight, std=INITIAL_STD)

    def outputs(self) -> tuple[Tensor, Tensor]:
        """Return the embeddings."""
        return self.user.weight, self.item.weight
