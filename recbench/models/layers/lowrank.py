"""Low-rank layers that mimic the outputs of full ones.

Source: Yu, Fu, Ding, Zhou, Wu (Atomic Feature Mimicking), KDD 2024, arXiv:2405.18146. A layer's outputs y over the
training data have mean mu and covariance U S U^T. y - mu -> U_r U_r^T (y - mu), the projection on the first r axes,
loses the sum of the other eigenvalues, which is the least that any r axes lose, and can be written as two thin layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbench.models.base import parameter_count
from recbench.models.layers.embedding import FieldEmbedding
from recbench.tasks.ctr import CTRBatch, Field, FieldSpace


class Moments:
    """Weight, mean (D,) and scatter (D, D) of vectors that come in blocks, in double precision.

    Blocks are merged by Chan, Golub & LeVeque (COMPSTAT 1982): nothing is squared before the mean is taken off.
    """

    def __init__(self) -> None:
        self.weight = self.mean = self.scatter = torch.zeros((), dtype=torch.float64)

    def add(self, vectors: Tensor, weights: Tensor | None = None) -> None:
        """Take in vectors (N, D), each with its weight (N,), or 1; not all of the weights are zero."""
        vectors = vectors.double()
        weights = vectors.new_ones(len(vectors)) if weights is None else weights.double()
        weight = weights.sum()
        mean = weights @ vectors / weight
        centred = vectors - mean
        shift = mean - self.mean
        total = self.weight + weight
        self.scatter = self.scatter + (weights[:, None] * centred).T @ centred
        self.scatter = self.scatter + torch.outer(shift, shift) * (self.weight * weight / total)
        self.mean = self.mean + shift * (weight / total)
        self.weight = total

    def about_zero(self) -> Moments:
        """Return the moments with zero in place of the mean."""
        moments = Moments()
        moments.weight, moments.mean = self.weight, torch.zeros_like(self.mean)
        moments.scatter = self.scatter + self.weight * torch.outer(self.mean, self.mean)
        return moments


def principal_axes(moments: Sequence[Moments], rank: float) -> list[Tensor]:
    """Return the first principal axes of each, float64 (D, r), with one r for all.

    ``rank`` from 1 on is r itself, and below 1 the share of the variance of all together that r axes must keep. The
    sign of an axis is such that the mean has no negative coordinate.
    """
    eigenvalues, eigenvectors = zip(*(torch.linalg.eigh(of.scatter) for of in moments), strict=True)
    variances = torch.stack(eigenvalues).sum(0).flip(0).clamp(min=0)
    if rank < 1:
        missing = variances.cumsum(0) < rank * variances.sum()
        rank = int(missing.sum()) + 1
    axes = [vectors.flip(1)[:, : int(rank)] for vectors in eigenvectors]
    return [axis * torch.where(of.mean @ axis < 0, -1.0, 1.0).to(axis) for of, axis in zip(moments, axes, strict=True)]


def low_rank_linear(inputs: int, rank: int, outputs: int, activated: bool) -> nn.Sequential:
    """Return two linear layers, (B, inputs) -> (B, rank) -> (B, outputs), with a ReLU between where ``activated``."""
    first, second = nn.Linear(inputs, rank), nn.Linear(rank, outputs)
    return nn.Sequential(first, nn.ReLU(), second) if activated else nn.Sequential(first, second)


@torch.no_grad()
def mimic_linear(layer: nn.Linear, outputs: Moments, rank: float, *, activated: bool = False) -> nn.Sequential | None:
    """Return two layers that mimic the outputs of one, whose moments are given; None where they would not be smaller.

    Without the activation they give the outputs' projection on their principal axes.
    """
    weight = layer.weight.double()
    (axes,) = principal_axes([outputs], rank)
    thin = low_rank_linear(layer.in_features, axes.shape[1], layer.out_features, activated).to(layer.weight)
    if parameter_count(thin) >= parameter_count(layer):
        return None
    bias = outputs.mean.new_zeros(()) if layer.bias is None else layer.bias.double()
    first: Any = thin[0]
    second: Any = thin[-1]
    first.weight.copy_(axes.T @ weight)
    first.bias.copy_(axes.T @ bias.expand(layer.out_features))
    second.weight.copy_(axes)
    second.bias.copy_(outputs.mean - axes @ (axes.T @ outputs.mean))
    return thin


class LowRankEmbedding(nn.Module):
    """A table of codes, and one affine map a vocabulary that makes vectors of them; in place of a FieldEmbedding.

    The map has no constant for fields that are multi-valued or dense, whose vectors are sums and multiples of their
    values' vectors, and zero for a row without values.

    Shapes: a batch of B rows -> (B, F, D) from codes (B, F, R).
    """

    _places: Tensor

    def __init__(self, fields: FieldSpace, dim: int, rank: int) -> None:
        super().__init__()
        self.fields = fields
        self.codes = FieldEmbedding(fields, rank)
        self.vocabularies = vocabularies(fields)
        centred = [vocabulary.offset for vocabulary in self.vocabularies if is_centred(fields, vocabulary)]
        self._map_of = {vocabulary.offset: place for place, vocabulary in enumerate(self.vocabularies)}
        # Those without a constant have the row of zeros that is put below the constants.
        self._constant_of = {offset: centred.index(offset) if offset in centred else -1 for offset in self._map_of}
        self.maps = nn.Parameter(torch.zeros(len(self.vocabularies), rank, dim))
        self.constants = nn.Parameter(torch.zeros(len(centred), dim))
        self.register_buffer("_places", self._places_of(fields), persistent=False)
        self.latest: Tensor | None = None
        """Codes of the last batch: what a ``FusedLinear`` reads."""

    def forward(self, batch: CTRBatch, fields: FieldSpace | None = None) -> Tensor:
        """Look up the fields of a batch, as a FieldEmbedding does."""
        self.latest = self.codes(batch, fields)
        maps, constants = self.of_fields(fields)
        return torch.einsum("bfr,frd->bfd", self.latest, maps) + constants

    def of_fields(self, fields: FieldSpace | None = None) -> tuple[Tensor, Tensor]:
        """Return the map of each field, (F, R, D), and its constant, (F, D)."""
        places = self._places
        if fields is not None:
            places = self._places_of(fields).to(places.device, non_blocking=True)
        maps, constants = places
        return self.maps[maps], functional.pad(self.constants, (0, 0, 0, 1))[constants]

    @property
    def code_width(self) -> int:
        """Width of the flattened codes of a row."""
        return len(self.fields) * self.codes.weight.shape[1]

    @property
    def sparse(self) -> bool:
        """Whether the gradient of ``weight`` is sparse: never, for it is computed."""
        return False

    @property
    def weight(self) -> Tensor:
        """The table of all vectors, (n_ids, D), for models that read it themselves; computed at each access."""
        maps, constants = self.of_fields(FieldSpace(self.vocabularies))
        codes = self.codes.weight.split([vocabulary.size for vocabulary in self.vocabularies])
        return torch.cat([code @ map_ + constant for code, map_, constant in zip(codes, maps, constants, strict=True)])

    def _places_of(self, fields: FieldSpace) -> Tensor:
        return torch.tensor([[of[field.offset] for field in fields] for of in (self._map_of, self._constant_of)])


def vocabularies(fields: FieldSpace) -> list[Field]:
    """Return one field of each vocabulary, in the order of their ids."""
    return sorted({field.offset: field for field in fields}.values(), key=lambda field: field.offset)


def is_centred(fields: FieldSpace, vocabulary: Field) -> bool:
    """Say whether a row has exactly one value in every field with that vocabulary."""
    return not any(field.multi or field.dense for field in fields if field.offset == vocabulary.offset)


@torch.no_grad()
def mimic_embedding(embedding: FieldEmbedding, counts: Tensor, rank: float) -> LowRankEmbedding | None:
    """Return a low-rank table that mimics the vectors looked up; None where it would not be smaller.

    ``counts`` (n_ids,) says how often each id was looked up; in a vocabulary without any look-up all ids count alike.
    """
    fields, table = embedding.fields, embedding.weight.double()
    found, moments = vocabularies(fields), []
    for field in found:
        rows = slice(field.offset, field.offset + field.size)
        moments.append(Moments())
        moments[-1].add(table[rows], counts[rows] if counts[rows].any() else None)
        if not is_centred(fields, field):
            moments[-1] = moments[-1].about_zero()
    axes = principal_axes(moments, rank)
    thin = LowRankEmbedding(fields, table.shape[1], axes[0].shape[1]).to(embedding.weight)
    if parameter_count(thin) >= parameter_count(embedding):
        return None
    for field, of, axis, map_ in zip(found, moments, axes, thin.maps, strict=True):
        rows = slice(field.offset, field.offset + field.size)
        thin.codes.weight[rows] = ((table[rows] - of.mean) @ axis).to(map_)
        map_.copy_(axis.T)
    means = [of.mean for field, of in zip(found, moments, strict=True) if is_centred(fields, field)]
    if means:
        thin.constants.copy_(torch.stack(means))
    return thin


class FusedLinear(nn.Linear):
    """A linear layer that reads the codes of a low-rank embedding in place of the vectors that are made of them.

    Shapes: any -> (B, outputs), from codes (B, F, R) of the batch that the embedding has looked up last.
    """

    def __init__(self, embedding: LowRankEmbedding, outputs: int) -> None:
        super().__init__(embedding.code_width, outputs)
        self._embedding = (embedding,)  # in a tuple: it is no part of this layer

    def forward(self, input: Tensor) -> Tensor:
        """Read the codes; the vectors are not looked at."""
        codes = self._embedding[0].latest
        assert codes is not None, "the embedding looks a batch up first"
        return functional.linear(codes.flatten(1), self.weight, self.bias)


@torch.no_grad()
def fuse(layer: nn.Linear, embedding: LowRankEmbedding, *, alone: bool) -> nn.Linear:
    """Return the layer that gives of the codes what ``layer`` gives of the flattened vectors.

    ``alone``: nothing else reads the embedding, so that its codes take the place of the vectors as the layer's input.
    """
    outputs = layer.out_features
    fused = nn.Linear(embedding.code_width, outputs) if alone else FusedLinear(embedding, outputs)
    fused.to(layer.weight)
    maps, constants = (values.double() for values in embedding.of_fields())
    weight = layer.weight.double().unflatten(1, constants.shape)  # (outputs, F, D)
    fused.weight.copy_(torch.einsum("ofd,frd->ofr", weight, maps).flatten(1))
    fused.bias.copy_(torch.einsum("ofd,fd->o", weight, constants))
    if layer.bias is not None:
        fused.bias.add_(layer.bias)
    return fused
