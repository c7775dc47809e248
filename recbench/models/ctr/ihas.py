"""iHAS: embedding dimensions chosen by the row: search for gates, cluster the rows, train a model for each cluster.

Source      inspired by Yu, Qi, Yang, Jiang, Niu: iHAS. CIKM 2023, arXiv:2309.07967. Of the paper the abstract and two
            summaries were read: three stages (search, clustering, retraining), Bernoulli gates on every dimension of
            every field of a row, penalties that make them few and decided, k-means over masked embeddings, a model with
            its own dimensions for each cluster.
Layers      gates of field f of a row     pi = sigmoid(G_f e_f + b_f),     masked embedding z * e, with z drawn from a
            relaxed Bernoulli distribution in training, z = [pi > 0.5] otherwise
Loss        search: the backbone's + sparsity * mean(pi) - polarisation * mean |pi - mean(pi)|; then the backbone's
Training    search with the backbone; k-means over the masked embeddings of training rows, where a cluster of less than
            ``min_share`` of the rows is given up and its rows go to the nearest other one; then a backbone for each
            cluster, from the backbone's initial weights, on the cluster's rows with the cluster's dimensions. A row to
            be scored goes by embeddings and gates of the search to the nearest centroid, and to that one's backbone.
Departures  these equations are our assumptions, none is the paper's: G_f linear by field, b_f = -2 at first; the
            relaxed distribution and its temperature; both penalties' form; the threshold 0.5; the number of clusters
            and that small ones are merged; k-means on 2^16 rows at most; a dimension is kept where more than half of
            the cluster's rows have its gate open; all backbones start from the same initial weights; rows go to the
            nearest centroid; the search runs for all its epochs. A dimension not kept is masked, its column stays in
            memory; all clusters' backbones stop together, by the whole model's validation value; tables of one number
            an id (first-order weights) have no gates
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from recbench.errors import UsageError
from recbench.models.base import NonNegativeFloat, Positive, PositiveFloat, Share, tunable
from recbench.models.explanation import Explanation, Matrix, Table
from recbench.models.layers.backbone import BackboneConfig, BackboneModel, snapshot
from recbench.models.layers.clustering import k_means, nearest
from recbench.models.layers.embedding import FieldEmbedding
from recbench.models.procedure import Stage
from recbench.tasks.ctr import CTRBatch, CTRData, FieldSpace

log = logging.getLogger("recbench")

ROWS_AT_ONCE = 2**14
ROWS_TO_CLUSTER = 2**16
"""k-means looks at no more training rows than that."""


class FieldGates(nn.Module):
    """A linear map of each field's vector, D to D: logits of its gates, which are closed until the vector opens them.

    So the vectors of all values that open a gate lie in one half of the space, and k-means can tell them from the rest.
    Shapes: (B, F, D) -> (B, F, D).
    """

    def __init__(self, n_fields: int, dim: int, bias: float = -2.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_fields, dim, dim).normal_(std=dim**-0.5))
        self.bias = nn.Parameter(torch.full((n_fields, dim), bias))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return logits of pi."""
        return torch.einsum("bfd,fde->bfe", embeddings, self.weight) + self.bias


class IHAS(BackboneModel):
    """Around a backbone: rows are clustered by the embedding dimensions they need, one backbone a cluster."""

    class Config(BackboneConfig):
        """Hyper-parameters."""

        clusters: Positive = tunable(4, choices=(1, 2, 4, 8))
        min_share: Share = 0.02
        """A cluster with a smaller share of the training rows is merged into others."""
        sparsity: NonNegativeFloat = tunable(0.05, low=1e-4, high=1.0, log=True)
        polarisation: NonNegativeFloat = tunable(0.05, low=1e-4, high=1.0, log=True)
        temperature: PositiveFloat = 0.5
        """Of the relaxed Bernoulli distribution."""
        search_epochs: Positive = 5

    centroids: Tensor
    masks: Tensor
    """Which dimensions of all tables, side by side, each cluster keeps (K, sum of F D)."""
    sizes: Tensor
    """Training rows of each cluster (K,)."""

    def __init__(self, config: Config, fields: FieldSpace, backbone: Any) -> None:
        super().__init__(config, fields, backbone)
        tables = _gated(backbone)
        if not tables:
            raise UsageError(f"backbone '{config.backbone}': expected a model with embeddings of several dimensions")
        dims = [table.weight.shape[1] for table in tables]
        self.widths = [len(fields) * dim for dim in dims]
        self.gates = nn.ModuleList(FieldGates(len(fields), dim) for dim in dims)
        self.router = nn.ModuleList()
        self.members = nn.ModuleList()
        self.register_buffer("centroids", torch.empty(0, sum(self.widths)))
        self.register_buffer("masks", torch.empty(0, sum(self.widths), dtype=torch.bool))
        self.register_buffer("sizes", torch.empty(0, dtype=torch.int64))
        self._logits: list[Tensor] = []
        self._hooks = [
            table.register_forward_hook(self._gate(gates)) for table, gates in zip(tables, self.gates, strict=True)
        ]
        self.register_load_state_dict_pre_hook(_divide_as_saved)  # type: ignore[no-untyped-call]

    def _gate(self, gates: nn.Module) -> Any:
        def hook(embedding: nn.Module, inputs: tuple[CTRBatch], output: Tensor) -> Tensor:
            if output.shape[1] != len(self.fields):
                raise UsageError(
                    f"backbone '{self.config.backbone}': expected a model that embeds all {len(self.fields)} fields at "
                    f"once, found {output.shape[1]}"
                )
            logits = gates(output)
            if not self.training:
                return output * (logits > 0)
            self._logits.append(logits)
            noise = torch.rand_like(logits).logit()
            return output * ((noise + logits) / self.config.temperature).sigmoid()

        return hook

    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,): of the gated backbone while searching, then of each row's cluster's."""
        if not self.members:
            return super().forward(batch)
        clusters = self.clusters_of(batch)
        order = clusters.argsort(stable=True)
        parts = order.split(torch.bincount(clusters, minlength=len(self.members)).tolist())
        pairs = zip(self.members, parts, strict=True)
        logits = torch.cat([member(batch.take(rows)) for member, rows in pairs if len(rows)])
        return logits[order.argsort()]

    def loss(self, batch: CTRBatch) -> Tensor:
        """Return the loss of the search."""
        self._logits.clear()
        loss = self.backbone.loss(batch)
        probabilities = torch.cat([logits.flatten() for logits in self._logits]).sigmoid()
        mean = probabilities.mean()
        spread = (probabilities - mean).abs().mean()
        return loss + self.config.sparsity * mean - self.config.polarisation * spread

    def procedure(self, data: CTRData) -> Iterator[Stage]:
        """Search; cluster the rows by what was found; train a backbone for each cluster."""
        initial = snapshot(self.backbone)
        stage, phase = self.own_stage(data)
        gated = replace(phase, loss=self.loss, parameters=[*phase.parameters, *self.gates.parameters()])
        yield replace(stage, name="search", steps=[gated], epochs=self.config.search_epochs, patience=None)
        self._cluster(data.all_rows(), initial)
        clusters = self._clusters_of_all(data.all_rows())
        steps: list[Any] = []
        for number in range(len(self.members)):
            member: Any = self.members[number]
            own = next(member.procedure(data.take((clusters == number).nonzero().squeeze(1))))
            steps += [replace(step, name=f"cluster {number}") for step in own.steps]
        yield replace(stage, name="train", steps=steps)

    def gated(self, batch: CTRBatch) -> tuple[Tensor, Tensor]:
        """Return which gates are open, and the masked embeddings, of all tables side by side, each (B, sum of F D)."""
        opened, masked = [], []
        for table, gates in zip(_gated(self.router if self.members else self.backbone), self.gates, strict=True):
            vectors = table.forward(batch)  # without the hook, which gates them
            is_open = gates(vectors) > 0
            opened.append(is_open.flatten(1))
            masked.append((vectors * is_open).flatten(1))
        return torch.cat(opened, 1), torch.cat(masked, 1)

    def clusters_of(self, batch: CTRBatch) -> Tensor:
        """Return the number of each row's cluster, shape (B,)."""
        return nearest(self.gated(batch)[1], self.centroids)

    def _clusters_of_all(self, rows: CTRBatch) -> Tensor:
        with torch.no_grad():
            return torch.cat([self.clusters_of(part) for part in rows.split(ROWS_AT_ONCE)])

    @torch.no_grad()
    def _cluster(self, rows: CTRBatch, initial: dict[str, Tensor]) -> None:
        """Find centroids, and give each cluster a backbone with the dimensions that its rows have open."""
        # A generator of its own: what a resumed run does here again must come out the same.
        generator = torch.Generator().manual_seed(0)
        sample = torch.randperm(len(rows), generator=generator)[:ROWS_TO_CLUSTER].to(rows.ids.device)
        points = torch.cat([self.gated(part)[1] for part in rows.take(sample).split(ROWS_AT_ONCE)])
        self.centroids = k_means(points, self.config.clusters, generator)
        while (sizes := self._sizes(rows)).min() < self.config.min_share * len(rows):
            self.centroids = self.centroids[torch.arange(len(sizes), device=sizes.device) != sizes.argmin()]
        opened = torch.zeros_like(self.centroids)
        for part in rows.split(ROWS_AT_ONCE):
            opened.index_add_(0, self.clusters_of(part), self.gated(part)[0].to(opened.dtype))
        self._divide(len(sizes))
        self.sizes.copy_(sizes)
        self.masks.copy_(opened > sizes[:, None] / 2)
        if empty := int((~self.masks).all(1).sum()):
            log.warning("ihas: %d clusters keep no dimension; search for more epochs or lower the sparsity", empty)
        for member in self.members:
            member.load_state_dict(initial)

    def _sizes(self, rows: CTRBatch) -> Tensor:
        return torch.bincount(self._clusters_of_all(rows), minlength=len(self.centroids))

    def _divide(self, n_clusters: int) -> None:
        """Put a backbone for each cluster, with masks on its tables, in the place of the one that was searched with."""
        for hook in self._hooks:
            hook.remove()
        self.router = nn.ModuleList(_gated(self.backbone))
        self.members = nn.ModuleList(copy.deepcopy(self.backbone) for _ in range(n_clusters))
        self.masks = torch.ones(n_clusters, sum(self.widths), dtype=torch.bool, device=self.centroids.device)
        self.sizes = torch.zeros(n_clusters, dtype=torch.int64, device=self.centroids.device)
        for number, member in enumerate(self.members):
            for position, table in enumerate(_gated(member)):
                table.register_forward_hook(self._mask(number, position))
        del self.backbone

    def _mask(self, number: int, position: int) -> Any:
        def hook(embedding: nn.Module, inputs: tuple[CTRBatch], output: Tensor) -> Tensor:
            return output * self.masks[number].split(self.widths)[position].view(output.shape[1:])

        return hook

    def explain(self, data: CTRData) -> Explanation:
        """Tell the clusters' sizes, the dimensions they keep, and their number of embedding parameters."""
        names = [field.name for field in self.fields]
        of_tables = self.masks.cpu().split(self.widths, 1)
        kept = sum((masks.unflatten(1, (len(names), -1)).sum(2) for masks in of_tables), torch.zeros(()))  # (K, F)
        shares = self.sizes.double().cpu() / self.sizes.sum().cpu()
        parameters = torch.tensor([self._stored(masks) for masks in self.masks], dtype=torch.float64)
        base = float(sum(table.weight.numel() for table in _gated(self.router)))
        figures = {
            "clusters": float(len(kept)),
            "dimensions of the backbone": float(self.masks.shape[1]),
            "dimensions kept, mean over rows": float((shares * kept.sum(1)).sum()),
            "embedding parameters of the backbone": base,
            "embedding parameters kept, mean over rows": float((shares * parameters).sum()),
            "embedding parameters kept, all clusters": float(parameters.sum()),
            "parameters that find the cluster": base + sum(gates.numel() for gates in self.gates.parameters()),
        }
        clusters = [f"cluster {number}" for number in range(len(kept))]
        columns: dict[str, list[str | float]] = {
            "cluster": [*clusters],
            "rows": self.sizes.tolist(),
            "dimensions": kept.sum(1).tolist(),
            "embedding parameters": parameters.tolist(),
        }
        matrix = Matrix("Dimensions kept by field", clusters, names, kept.tolist())
        return Explanation(figures, [Table("Clusters", columns), matrix])

    def _stored(self, masks: Tensor) -> int:
        """Return how many entries of the tables a cluster's masks keep; fields may share ids."""
        stored = 0
        for table, mask in zip(_gated(self.router), masks.cpu().split(self.widths), strict=True):
            kept = torch.zeros(table.weight.shape, dtype=torch.bool)
            for field, dims in zip(self.fields, mask.view(len(self.fields), -1), strict=True):
                kept[field.offset : field.offset + field.size] |= dims
            stored += int(kept.sum())
        return stored


def _gated(backbone: nn.Module) -> list[FieldEmbedding]:
    """Return the tables that have gates: those of several dimensions."""
    modules = backbone.modules()
    return [module for module in modules if isinstance(module, FieldEmbedding) and module.weight.shape[1] > 1]


def _divide_as_saved(model: nn.Module, state: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """Before loading: if the saved model is divided into clusters and this one is not yet, divide it."""
    assert isinstance(model, IHAS)
    saved = state.get(f"{prefix}centroids", model.centroids)
    if len(saved) and not model.members:
        model.centroids = torch.empty_like(saved, device=model.centroids.device)
        model._divide(len(saved))
