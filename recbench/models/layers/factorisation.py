"""Matrix factorisation as a layer, and what all models built on it can be told."""

import torch
from torch import Tensor, nn

from recbench.models.base import NonNegativeFloat, Positive, PositiveFloat, TrainedConfig, tunable

INITIAL_SCALE = 0.1


class FactorisationConfig(TrainedConfig):
    """Hyper-parameters of a factorisation of the matrix of ratings.

    Weight decay is the one that matters most (an AUC of .65 to .74 over its range on Coat), and every estimator has to
    be given its own. All losses here estimate the mean error over all pairs and are of the same size, so that the same
    decay means about the same in each of them; a sum over observed pairs weighted by inverse propensities but divided
    by their number would be |D| / |O| times as large, and its decay as many times weaker.
    """

    embedding_dim: Positive = tunable(8, choices=(4, 8, 16, 32))
    biases: bool = True
    """Add an offset, and one for each user and each item."""
    learning_rate: PositiveFloat = tunable(0.01, low=1e-3, high=0.05, log=True)
    weight_decay: NonNegativeFloat = tunable(3e-4, low=1e-6, high=1e-2, log=True)
    batch_size: Positive = tunable(1024, choices=(256, 1024, 4096))


class Factorisation(nn.Module):
    """Logits ``p_u . q_i``, with biases ``b + b_u + b_i + p_u . q_i``.

    Factors start at N(0, 0.1^2), biases at 0.
    """

    def __init__(self, n_users: int, n_items: int, config: FactorisationConfig) -> None:
        super().__init__()
        self.users = nn.Embedding(n_users, config.embedding_dim)
        self.items = nn.Embedding(n_items, config.embedding_dim)
        for factors in (self.users, self.items):
            nn.init.normal_(factors.weight, std=INITIAL_SCALE)
        self.biases = _Biases(n_users, n_items) if config.biases else None

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the logits of pairs (B,), shape (B,)."""
        products: Tensor = (self.users(users) * self.items(items)).sum(-1)
        return products if self.biases is None else products + self.biases(users, items)


class _Biases(nn.Module):
    """``b + b_u + b_i``, all from zero."""

    def __init__(self, n_users: int, n_items: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(()))
        self.users = nn.Parameter(torch.zeros(n_users))
        self.items = nn.Parameter(torch.zeros(n_items))

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return self.offset + self.users[users] + self.items[items]
