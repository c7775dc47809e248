"""RecVAE: a variational autoencoder of user rows with a composite prior, its halves trained in turn.

Source      Shenbin et al., "RecVAE: a New Variational Autoencoder for Top-N Recommendations with Implicit Feedback",
            WSDM 2020, arXiv:1912.11160; details from the authors' code, branch wsdm, with which its numbers were made
Encoder     h_1 = LN(swish(W_1 dropout(x_u / |x_u|) + b_1)), h_k = LN(swish(W_k h_{k-1} + b_k + h_1 + ... + h_{k-1})),
            mu_u and logvar_u linear in the last h
Code        z_u = mu_u + eps * exp(logvar_u / 2), eps ~ N(0, Id), in training; z_u = mu_u in scoring
Score       f_u = V z_u + c
Prior       of each dimension: 3/20 N(0, 1) + 3/4 q_old(z | x_u) + 1/10 N(0, e^10), where q_old is the encoder as it was
            after its last turn, without dropout and without a gradient
Loss        encoder: mean over users of -sum_i x_ui log softmax(f_u)_i + gamma |x_u|_1 (log q(z_u) - log prior(z_u)),
            z_u one sample; decoder: the first term alone, without dropout
Training    an epoch is three passes that update the encoder, a copy of it into the prior, and one that updates the
            decoder
Departures  q_old is a copy of the encoder, as on branch master, in place of a table of mu and logvar by user: the same
            numbers, in memory that does not grow with users (master's layer normalisation has epsilon 0.1, wsdm's,
            used here, 1e-5); smaller batches than published, which were of 116 677 users
"""

# Shapes: B batch, I items, H hidden, D embedding_dim.

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbench.models.base import (
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Recommender,
    Reference,
    Share,
    TrainedConfig,
    tunable,
)
from recbench.models.layers.autoencoder import RowLinear, multinomial_loss
from recbench.models.layers.wide import WideLinear, wide_linear
from recbench.models.procedure import Phase, Stage, Sweep
from recbench.tasks.interactions import TopNData, UserBatch, UserRows

LAYERS = 5
ENCODER_PASSES = 3
STANDARD, PREVIOUS, WIDE = 3 / 20, 3 / 4, 1 / 10  # weights of the prior's components
WIDE_LOG_VARIANCE = 10.0


class RecVAE(Recommender):
    """Variational autoencoder with a composite prior and alternating training (Shenbin et al., WSDM 2020)."""

    class Config(TrainedConfig):
        """Hyper-parameters."""

        embedding_dim: Positive = tunable(200, low=32, high=256, log=True)
        """D, the length of the code. Published: 200."""
        hidden: Positive = 600
        """Width of the encoder's layers. Published: 600."""
        dropout: Share = tunable(0.5, low=0.0, high=0.8)
        """Of the encoder's input. Published: 0.5."""
        gamma: NonNegativeFloat = tunable(0.005, low=1e-3, high=0.05, log=True)
        """Weight of the KL divergence for each item of a user. Published: 0.005 on ML-20M."""
        learning_rate: PositiveFloat = tunable(5e-4, low=1e-4, high=1e-2, log=True)
        """Of both halves. Published: 5e-4."""
        batch_size: Positive = 100
        """Users in a batch. Published: 500 of 116 677."""
        epochs: Positive = 50
        """Published: 50."""
        patience: Positive = 8

    folds_in = True
    reference = Reference("Shenbin et al., WSDM 2020", "topn/ml-20m-strong", "ndcg@100", 0.442, 0.005)

    def __init__(self, config: Config, data: TopNData) -> None:
        super().__init__(config, data)
        self.encoder = Encoder(data.n_items, config.hidden, config.embedding_dim, config.dropout)
        self.decoder = WideLinear(config.embedding_dim, data.n_items)
        self.previous = frozen(self.encoder)

    def procedure(self, data: TopNData) -> Iterator[Stage]:
        """One stage: encoder, copy, decoder in every epoch."""
        config, rows = self.config, data.user_rows(self.config.batch_size)
        rate, decay = config.learning_rate, config.weight_decay
        steps: list[Phase | Sweep] = [
            Phase("encoder", Passes(rows, ENCODER_PASSES), self.loss, list(self.encoder.parameters()), rate, decay),
            Sweep("prior", self.remember),
            Phase("decoder", rows, self.decoder_loss, list(self.decoder.parameters()), rate, decay),
        ]
        yield Stage("train", steps, config.epochs, config.patience)

    def remember(self) -> None:
        """Make the encoder as it is now a component of the prior."""
        self.previous.load_state_dict(self.encoder.state_dict())

    def loss(self, batch: UserBatch) -> Tensor:
        """Loss of the encoder: the mean negative evidence lower bound, with the divergence weighted by user."""
        mean, log_variance = self.encoder(batch)
        code = sample(mean, log_variance)
        # Detached: the gradient of the decoder's weight would cost as much as its output.
        logits = wide_linear(code, self.decoder.weight.detach(), self.decoder.bias.detach())
        prior = log_prior(code, *self.previous(batch))
        divergence = (log_normal(code, mean, log_variance) - prior).sum(1)
        weighted: Tensor = (self.config.gamma * batch.history.lengths * divergence).mean()
        return multinomial_loss(logits, batch) + weighted

    def decoder_loss(self, batch: UserBatch) -> Tensor:
        """Loss of the decoder: the mean negative log-likelihood.

        Codes are of the copy just made, which is the encoder without dropout and without gradients.
        """
        return multinomial_loss(self.decoder(sample(*self.previous(batch))), batch)

    def score(self, batch: UserBatch) -> Tensor:
        """Return the logits at the mean of the code, shape (B, I)."""
        mean, _ = self.encoder(batch)
        logits: Tensor = self.decoder(mean)
        return logits


class Encoder(nn.Module):
    """Five layers, each given the sum of all before it."""

    def __init__(self, n_items: int, hidden: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.input = RowLinear(n_items, hidden, dropout)
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(LAYERS - 1))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(LAYERS))
        self.mean = nn.Linear(hidden, dim)
        self.log_variance = nn.Linear(hidden, dim)

    def forward(self, batch: UserBatch) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the code, each (B, D)."""
        total = output = self.norms[0](functional.silu(self.input(batch)))
        for layer, norm in zip(self.layers, self.norms[1:], strict=True):
            output = norm(functional.silu(layer(output) + total))
            total = total + output
        return self.mean(output), self.log_variance(output)


class Passes:
    """A source of batches that goes over another one several times in an epoch."""

    def __init__(self, source: UserRows, number: int) -> None:
        self._source = source
        self._number = number

    @property
    def n_samples(self) -> int:
        """Number of samples in all passes."""
        return self._number * self._source.n_samples

    def epoch(self, generator: torch.Generator) -> Iterator[UserBatch]:
        """Yield the batches of all passes."""
        for _ in range(self._number):
            yield from self._source.epoch(generator)


def frozen(module: nn.Module) -> nn.Module:
    """Return a copy without dropout, whose parameters are buffers: part of the state, and not trained."""
    copy = deepcopy(module)
    for child in copy.modules():
        if isinstance(child, nn.Dropout):
            child.p = 0.0
        for name, parameter in list(child.named_parameters(recurse=False)):
            delattr(child, name)
            child.register_buffer(name, parameter.detach())
    return copy


def sample(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Draw one code of each row, shape (B, D)."""
    return mean + torch.randn_like(mean) * (log_variance / 2).exp()


def log_prior(code: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the log-density of the composite prior at each dimension of ``code``, shape (B, D).

    ``mean`` and ``log_variance`` (B, D) are those of the previous encoder.
    """
    zero = code.new_zeros(())
    components = (zero, zero), (mean, log_variance), (zero, zero + WIDE_LOG_VARIANCE)
    return log_mixture(code, (STANDARD, PREVIOUS, WIDE), components)


def log_mixture(x: Tensor, weights: Sequence[float], components: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the log-density at ``x`` of a mixture of normal distributions, given by mean and log-variance."""
    parts = [math.log(weight) + log_normal(x, *part) for weight, part in zip(weights, components, strict=True)]
    return torch.stack(parts).logsumexp(0)


def log_normal(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the log-density of N(mean, exp(log_variance)) at ``x``, elementwise."""
    return -0.5 * (log_variance + math.log(2 * math.pi) + (x - mean).square() * (-log_variance).exp())
