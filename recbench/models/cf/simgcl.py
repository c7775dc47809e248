"""SimGCL: LightGCN with a contrast between two noisy views of the embeddings of its layers.

Source      Yu et al., "Are Graph Augmentations Necessary? Simple Graph Contrastive Learning for Recommendation", SIGIR
            2022, arXiv:2112.08679; details from the authors' code (SELFRec)
Layers      E_k = D^-1/2 A D^-1/2 E_(k-1), in a view + noise * sign(E_k) * unit(U[0, 1]^D);  E = (E_1 + ... + E_K) / K:
            layer 0 is left out
Score       s(u, i) = <e_u, e_i>, without noise
Loss        LightGCN's + contrast_weight (InfoNCE of users + InfoNCE of positive items) between the two views, cosines
            over contrast_temperature, negatives are the other users or items of the batch
Departures  LightGCN's penalty, on layer 0 (code: norms, not squared, of the outputs); initial embeddings as LightGCN's,
            normal (code: Xavier)
"""

# Shapes: U users, I items, B batch, D embedding_dim, K n_layers.

from __future__ import annotations

from torch import Tensor

from recbench.models.base import NonNegativeFloat, Positive, PositiveFloat, Reference, tunable
from recbench.models.cf.lightgcn import LightGCN
from recbench.models.layers.graph import InteractionGraph, LayerMean, info_nce
from recbench.tasks.interactions import PairBatch


class SimGCL(LightGCN):
    """LightGCN and a contrast of noisy views (Yu et al., SIGIR 2022)."""

    class Config(LightGCN.Config):
        """Hyper-parameters; the published values are for Yelp2018."""

        n_layers: Positive = tunable(3, choices=(1, 2, 3))
        """K. Published: 3."""
        noise: NonNegativeFloat = tunable(0.1, low=0.01, high=0.5, log=True)
        """Length of the vector added to a row of a layer. Published: 0.1."""
        contrast_weight: NonNegativeFloat = tunable(0.5, low=1e-3, high=2.0, log=True)
        """Of the InfoNCE losses. Published: 0.5."""
        contrast_temperature: PositiveFloat = tunable(0.2, low=0.05, high=1.0, log=True)
        """Of the InfoNCE losses. Published: 0.2."""

    reference = Reference("SELFRec, its README", "topn/yelp2018", "recall@20", 0.0721, 0.0015)

    def layer_mean(self, graph: InteractionGraph) -> LayerMean:
        """Return the mean without layer 0, and of it two noisy views."""
        noise: float = self.config.noise
        return LayerMean(graph, self.config.n_layers, with_first=False, noise=(0.0, noise, noise))

    def contrast(self, batch: PairBatch, views: list[Tensor]) -> Tensor:
        """Return the weighted InfoNCE losses of the batch's users and positives."""
        users, items, other_users, other_items = views
        temperature, n = self.config.contrast_temperature, len(batch)
        of_users = info_nce(users, other_users, batch.users, temperature)
        of_items = info_nce(items[:n], other_items[:n], batch.positives, temperature)
        contrast: Tensor = self.config.contrast_weight * (of_users + of_items)
        return contrast
