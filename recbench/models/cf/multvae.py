"""Mult-VAE: a variational autoencoder of user rows with a multinomial likelihood.

Source      Liang et al., "Variational Autoencoders for Collaborative Filtering", WWW 2018, arXiv:1802.05814,
            sections 2.1 and 2.2; details from the authors' notebook
Encoder     [mu_u | logvar_u] = W2 tanh(W1 dropout(x_u / |x_u|) + b1) + b2
Code        z_u = mu_u + eps * exp(logvar_u / 2), eps ~ N(0, Id), in training; z_u = mu_u in scoring
Score       f_u = W4 tanh(W3 z_u + b3) + b4
Loss        mean over users of -log p(x_u | f_u) + beta_t KL(q(z_u) | N(0, Id)),
            KL = 1/2 sum_k (exp(logvar_k) + mu_k^2 - 1 - logvar_k); plus l2 times the squared norm of the weights
Likelihood  log p(x_u | f_u) = sum_i x_ui log softmax(f_u)_i; gaussian or logistic by configuration
Annealing   beta_t = min(anneal_cap, t / anneal_updates), t the number of updates made
Departures  smaller batches and a shorter annealing than published, which was for 116 677 users: beta reaches its cap
            within some epochs on small data too
"""

# Shapes: B batch, I items, D embedding_dim.

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbench.models.base import (
    NonNegative,
    NonNegativeFloat,
    Positive,
    Recommender,
    Reference,
    Share,
    tunable,
)
from recbench.models.layers.autoencoder import (
    LikelihoodConfig,
    RowMLP,
    initialise,
    reconstruction_loss,
    squared_norm,
    tanh_layers,
)
from recbench.tasks.interactions import TopNData, UserBatch, UserRows


class MultVAE(Recommender):
    """Variational autoencoder with a multinomial likelihood (Liang et al., WWW 2018)."""

    class Config(LikelihoodConfig):
        """Hyper-parameters."""

        embedding_dim: Positive = tunable(200, low=32, high=256, log=True)
        """D, the length of the code. Published: 200."""
        hidden: tuple[Positive, ...] = (600,)
        """Widths of the encoder from the input to the code; the decoder mirrors them. Published: (600,)."""
        dropout: Share = tunable(0.5, low=0.0, high=0.8)
        """Of the input. Published: 0.5."""
        anneal_cap: NonNegativeFloat = tunable(0.2, low=0.0, high=1.0)
        """Largest weight of the KL divergence. Published: 0.2."""
        anneal_updates: NonNegative = 1000
        """Updates in which the weight would reach 1; 0: it is ``anneal_cap`` throughout. Published: 200 000."""
        l2: NonNegativeFloat = 0.0
        """Lambda, times the squared norm of the weights. Published: 0."""
        batch_size: Positive = 100
        """Users in a batch. Published: 500 of 116 677."""
        patience: Positive = 8

    folds_in = True
    reference = Reference("BARS", "topn/gowalla", "recall@20", 0.1641, 0.0025)
    updates: Tensor

    def __init__(self, config: Config, data: TopNData) -> None:
        super().__init__(config, data)
        dim = config.embedding_dim
        self.encoder = RowMLP(data.n_items, (*config.hidden, 2 * dim), config.dropout)
        widths = (*reversed(config.hidden), data.n_items)
        self.decoder = nn.Sequential(nn.Linear(dim, widths[0]), *tanh_layers(widths))
        initialise(self)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def batches(self, data: TopNData) -> UserRows:
        """Rows of users."""
        return data.user_rows(self.config.batch_size)

    def forward(self, batch: UserBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (B, I), and mean and log-variance of the code (B, D)."""
        mean, log_variance = self.encoder(batch).chunk(2, dim=1)
        code = mean
        if self.training:
            code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decoder(code), mean, log_variance

    def loss(self, batch: UserBatch) -> Tensor:
        """Mean negative evidence lower bound of the batch's users, and the penalty; counts as an update."""
        logits, mean, log_variance = self(batch)
        loss = reconstruction_loss(self.config, logits, batch) + self.beta() * kl_divergence(mean, log_variance)
        if self.config.l2:
            loss = loss + self.config.l2 * squared_norm(self)
        self.updates += 1
        return loss

    def beta(self) -> Tensor:
        """Return the weight of the KL divergence in the next update, a scalar."""
        cap: float = self.config.anneal_cap
        if self.config.anneal_updates == 0:
            return torch.full_like(self.updates, cap, dtype=torch.float32)
        beta: Tensor = self.updates / self.config.anneal_updates
        return beta.clamp(max=cap)

    def score(self, batch: UserBatch) -> Tensor:
        """Return the logits at the mean of the code, shape (B, I)."""
        logits: Tensor = self(batch)[0]
        return logits


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the mean over users of KL(N(mean, exp(log_variance)) | N(0, Id)), a scalar."""
    return 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum(1).mean()
