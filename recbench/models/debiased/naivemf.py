"""Naive MF: matrix factorisation of observed ratings, as if they were missing at random.

The baseline that debiasing has to beat. Koren, Bell, Volinsky, "Matrix factorization techniques for recommender
systems", Computer 42(8), 2009; for binary ratings as in Schnabel et al., ICML 2016, arXiv:1602.05352.

    f_ui = sigmoid(b + b_u + b_i + p_u . q_i),    loss = mean over observed pairs of BCE(f_ui, y_ui)

Departures: biases (off with ``biases=false``); initial factors N(0, 0.1^2) instead of N(0, 1); early stopping on
missing-at-random validation ratings instead of on the training loss.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from recbench.metrics import debiased
from recbench.models.base import RatingModel, Reference
from recbench.models.layers.factorisation import Factorisation, FactorisationConfig
from recbench.tasks.rating import RatingBatch, RatingData


class NaiveMF(RatingModel):
    """Matrix factorisation with the mean error over observed pairs: biased unless they are missing at random."""

    class Config(FactorisationConfig):
        """Hyper-parameters."""

    reference = Reference(
        "re-run of haoxuanli-pku/ICLR24-Kernel-Balancing, decay chosen on test", "rating/coat-all", "auc", 0.737, 0.02
    )

    def __init__(self, config: FactorisationConfig, data: RatingData) -> None:
        super().__init__(config, data)
        self.prediction = Factorisation(data.n_users, data.n_items, config)

    def predict(self, users: Tensor, items: Tensor) -> Tensor:
        """Return probabilities, shape (B,)."""
        logits: Tensor = self.prediction(users, items)
        return logits.sigmoid()

    def loss(self, batch: RatingBatch) -> Tensor:
        """Mean binary cross-entropy of the observed pairs."""
        return debiased.naive(self.errors(batch))

    def errors(self, batch: RatingBatch) -> Tensor:
        """Binary cross-entropy e of each observed pair, shape (B,)."""
        return bce(self.prediction(batch.users, batch.items), batch.labels, reduction="none")
