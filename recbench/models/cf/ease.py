"""EASE: a linear autoencoder whose weights have a closed form.

Source      Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, arXiv:1905.03375, equations 5 to 8
Objective   |X - X B|^2 + l2 |B|^2 with diag(B) = 0; X (U, I) the 0/1 interactions, B (I, I)
Solution    P = (X'X + l2 Id)^-1,  B_ij = -P_ij / P_jj for i != j
Score       s(u, .) = x_u B
Cost        one inverse of an (I, I) matrix in float64: 8 I^2 bytes a matrix, O(I^3) operations
Departures  none
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbench.models.base import ClosedFormRecommender, ModelConfig, PositiveFloat, Reference, tunable
from recbench.tasks.interactions import TopNData, UserBatch


class EASE(ClosedFormRecommender):
    """Linear item-to-item autoencoder in closed form (Steck, WWW 2019)."""

    class Config(ModelConfig):
        """Hyper-parameters."""

        l2: PositiveFloat = tunable(300.0, low=10.0, high=5000.0, log=True)
        """Lambda. Published: 500 on ML-20M, 1000 on Netflix, 200 on MSD."""

    folds_in = True
    reference = Reference("RecBole 1.2.1, its own draw of the same protocol", "topn/ml-100k", "ndcg@10", 0.3295, 0.015)
    weight: Tensor

    def __init__(self, config: Config, data: TopNData) -> None:
        super().__init__(config, data)
        self.register_buffer("weight", torch.zeros(data.n_items, data.n_items))

    def fit(self, data: TopNData) -> None:
        """Solve for B."""
        interactions = data.matrix()
        # Co-occurrence counts are integers far below 2**24, so the sparse product is exact in float32.
        gram = torch.from_numpy((interactions.T @ interactions).toarray()).to(data.device, torch.float64)
        gram.diagonal().add_(self.config.l2)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        weight = inverse.div_(-inverse.diagonal())
        self.weight.copy_(weight.fill_diagonal_(0.0))

    def score(self, batch: UserBatch) -> Tensor:
        """Return x_u B, shape (B, I)."""
        return batch.times(self.weight)
