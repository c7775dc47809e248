"""SGL-ED: LightGCN with a contrast between two graphs from which random edges are dropped.

Source      Wu et al., "Self-supervised Graph Learning for Recommendation", SIGIR 2021, arXiv:2010.10783, with edge
            dropout; details from the authors' code
Views       LightGCN's layers on two graphs, each without a share edge_dropout of the interactions, which are drawn anew
            every epoch; normalised by the degrees that are left
Score       s(u, i) = <e_u, e_i> on the whole graph
Loss        LightGCN's + contrast_weight (InfoNCE of users + InfoNCE of positive items) between the two views, cosines
            over contrast_temperature
Departures  the negatives of InfoNCE are the other users or items of the batch, each once (code: all users, all items;
            SELFRec: users and items of the batch together); it is a mean over them, as the other terms
            (code: all terms are sums); initial embeddings as LightGCN's
"""

# Shapes: U users, I items, B batch, D embedding_dim.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from recbench.models.base import NonNegativeFloat, PositiveFloat, Reference, Share, tunable
from recbench.models.cf.lightgcn import LightGCN
from recbench.models.layers.graph import InteractionGraph, drop_edges, info_nce
from recbench.models.procedure import Stage, Sweep
from recbench.tasks.interactions import PairBatch, TopNData


class SGL(LightGCN):
    """LightGCN and a contrast of edge-dropped views (Wu et al., SIGIR 2021)."""

    class Config(LightGCN.Config):
        """Hyper-parameters; the published values are for Yelp2018."""

        edge_dropout: Share = tunable(0.1, low=0.05, high=0.5)
        """Share of the interactions that a view lacks. Published: 0.1."""
        contrast_weight: NonNegativeFloat = tunable(0.1, low=1e-3, high=1.0, log=True)
        """Of the InfoNCE losses. Published: 0.1."""
        contrast_temperature: PositiveFloat = tunable(0.2, low=0.05, high=1.0, log=True)
        """Of the InfoNCE losses. Published: 0.2."""

    reference = Reference("BARS", "topn/yelp2018", "recall@20", 0.0675, 0.0014)

    def __init__(self, config: Config, data: TopNData) -> None:
        super().__init__(config, data)
        self.draw_views(data)

    def procedure(self, data: TopNData) -> Iterator[Stage]:
        """Before every epoch the views are drawn; they are no state, since their random numbers are in checkpoints."""
        for stage in super().procedure(data):
            yield replace(stage, steps=[Sweep("views", lambda: self.draw_views(data)), *stage.steps])

    def draw_views(self, data: TopNData) -> None:
        """Drop edges from the whole graph, twice."""
        self.views = []
        for _ in range(2):
            kept = drop_edges(data.users, data.items, self.config.edge_dropout)
            self.views.append(self.layer_mean(InteractionGraph(*kept, data.n_users, data.n_items)))

    def contrast(self, batch: PairBatch, views: list[Tensor]) -> Tensor:
        """Return the weighted InfoNCE losses of the batch's users and positives."""
        tables = (self.user.weight, self.item.weight)
        one, other = (view.at(tables, batch.users, batch.positives)[2:] for view in self.views)
        temperature = self.config.contrast_temperature
        of_users = info_nce(one[0], other[0], batch.users, temperature)
        of_items = info_nce(one[1], other[1], batch.positives, temperature)
        contrast: Tensor = self.config.contrast_weight * (of_users + of_items)
        return contrast
