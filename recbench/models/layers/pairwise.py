"""Pairwise ranking: the loss of Bayesian personalised ranking and the penalty that goes with it.

Source: Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009, equation 4.
"""

import torch
from torch import Tensor
from torch.nn import functional


def bpr_loss(positive: Tensor, negative: Tensor) -> Tensor:
    """Return the mean of ``-log sigmoid(positive - negative)``, a scalar.

    ``positive`` (B,) are scores of seen items, ``negative`` (B,) or (B, N) of unseen ones.
    """
    if negative.dim() > positive.dim():
        positive = positive.unsqueeze(-1)
    return functional.softplus(negative - positive).mean()


def batch_penalty(*vectors: Tensor) -> Tensor:
    """Return half the squared norm of the vectors a batch uses, a mean over its B rows; each has shape (B, ...)."""
    return 0.5 * torch.stack([vector.square().sum() for vector in vectors]).sum() / len(vectors[0])
