"""Clusters of points. Shapes: N points, K centroids, D dims."""

from __future__ import annotations

import torch
from torch import Tensor

RESTARTS = 4
ITERATIONS = 100


def nearest(points: Tensor, centroids: Tensor) -> Tensor:
    """Return the number of the centroid nearest to each point, shape (N,)."""
    # |x - c|^2 without |x|^2, which is the same for all centroids.
    return (centroids.square().sum(1) - 2 * points @ centroids.T).argmin(1)


def k_means(points: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Return K centroids, shape (K, D): the best of several runs of Lloyd's algorithm from k-means++ seeds.

    Lloyd, IEEE Trans. Inf. Theory 28(2), 1982; Arthur & Vassilvitskii, SODA 2007. ``generator`` is one of the CPU.
    There are fewer than ``k`` centroids where there are fewer different points.
    """
    runs = [_lloyd(points, _seeds(points, k, generator)) for _ in range(RESTARTS)]
    return min(runs, key=lambda centroids: float(_squares(points, centroids).double().sum()))


def _squares(points: Tensor, centroids: Tensor) -> Tensor:
    """Return the squared distance of each point to its nearest centroid, shape (N,)."""
    return (points - centroids[nearest(points, centroids)]).square().sum(1)


def _seeds(points: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Draw centroids among the points, each with a probability that grows with its squared distance to those drawn."""
    seeds = points[torch.randint(len(points), (1,), generator=generator).to(points.device)]
    while len(seeds) < k and (squares := _squares(points, seeds).double().cpu()).sum() > 0:
        level = torch.rand(1, generator=generator, dtype=torch.float64) * squares.sum()
        drawn = torch.searchsorted(squares.cumsum(0), level, right=True).clamp_max(len(points) - 1)
        seeds = torch.cat([seeds, points[drawn.to(points.device)]])
    return seeds


def _lloyd(points: Tensor, centroids: Tensor) -> Tensor:
    """Move centroids to the means of their points until none changes; one without points stays where it is."""
    for _ in range(ITERATIONS):
        clusters = nearest(points, centroids)
        counts = torch.bincount(clusters, minlength=len(centroids))[:, None]
        sums = torch.zeros_like(centroids).index_add_(0, clusters, points)
        moved = torch.where(counts > 0, sums / counts.clamp_min(1), centroids)
        if torch.equal(moved, centroids):
            break
        centroids = moved
    return centroids
