"""Mult-DAE: a denoising autoencoder of user rows with a multinomial likelihood.

Source      Liang et al., "Variational Autoencoders for Collaborative Filtering", WWW 2018, arXiv:1802.05814,
            section 2.3; details from the authors' notebook
Score       f_u = W2 tanh(W1 dropout(x_u / |x_u|) + b1) + b2
Loss        mean over users of -log p(x_u | f_u), plus l2 times the squared norm of the weights
Likelihood  log p(x_u | f_u) = sum_i x_ui log softmax(f_u)_i; gaussian or logistic by configuration
Departures  smaller batches than published, which were of 116 677 users
"""

# Shapes: B batch, I items.

from __future__ import annotations

from torch import Tensor

from recbench.models.base import NonNegativeFloat, Positive, Recommender, Reference, Share, tunable
from recbench.models.layers.autoencoder import LikelihoodConfig, RowMLP, initialise, reconstruction_loss, squared_norm
from recbench.tasks.interactions import TopNData, UserBatch, UserRows


class MultDAE(Recommender):
    """Denoising autoencoder with a multinomial likelihood (Liang et al., WWW 2018)."""

    class Config(LikelihoodConfig):
        """Hyper-parameters."""

        hidden: tuple[Positive, ...] = (200,)
        """Widths between the input and the output. Published: (200,)."""
        dropout: Share = tunable(0.5, low=0.0, high=0.9)
        """Of the input. Published: 0.5."""
        l2: NonNegativeFloat = tunable(2e-5, low=1e-6, high=1e-2, log=True)
        """Lambda, times the squared norm of the weights. Published: 0.01 / 500."""
        batch_size: Positive = 100
        """Users in a batch. Published: 500 of 116 677."""

    folds_in = True
    reference = Reference("the authors' notebook", "topn/ml-20m-strong", "ndcg@100", 0.41997, 0.004)

    def __init__(self, config: Config, data: TopNData) -> None:
        super().__init__(config, data)
        self.layers = RowMLP(data.n_items, (*config.hidden, data.n_items), config.dropout)
        initialise(self)

    def batches(self, data: TopNData) -> UserRows:
        """Rows of users."""
        return data.user_rows(self.config.batch_size)

    def loss(self, batch: UserBatch) -> Tensor:
        """Mean negative log-likelihood of the batch's users, and the penalty."""
        loss = reconstruction_loss(self.config, self.layers(batch), batch)
        return loss + self.config.l2 * squared_norm(self) if self.config.l2 else loss

    def score(self, batch: UserBatch) -> Tensor:
        """Return the logits, shape (B, I)."""
        logits: Tensor = self.layers(batch)
        return logits
