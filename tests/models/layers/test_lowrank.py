import pytest
import torch
from torch import nn

from recbench.models.base import parameter_count
from recbench.models.layers.embedding import FieldEmbedding
from recbench.models.layers.lowrank import (
    LowRankEmbedding,
    Moments,
    fuse,
    low_rank_linear,
    mimic_embedding,
    mimic_linear,
    principal_axes,
)
from recbench.tasks.batches import Ragged
from recbench.tasks.ctr import CTRBatch, Field, FieldSpace

FIELDS = FieldSpace(
    [
        Field("user", False, 30, 0),
        Field("genres", True, 12, 30),
        Field("item", False, 40, 42),
        Field("age", False, 1, 82, dense=True),
        Field("last", False, 40, 42, vocabulary="item"),
    ]
)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    n = 200

    def ids(field, n):
        # Low numbers are frequent, so that means over look-ups are not means over rows of the table.
        return field.offset + (field.size * torch.rand(n, generator=generator) ** 3).long()

    lengths = torch.randint(4, (n,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    genres = Ragged(ids(FIELDS[1], int(offsets[-1])), offsets)
    singles = torch.stack([ids(field, n) for field in FIELDS.single], 1)
    return CTRBatch(singles, {"genres": genres}, torch.zeros(n), torch.randn(n, 1, generator=generator))


@pytest.fixture
def embedding():
    torch.manual_seed(0)
    layer = FieldEmbedding(FIELDS, 8)
    # Vectors of different lengths along the axes, away from zero.
    layer.weight.data = torch.randn(FIELDS.n_ids, 8) * torch.arange(8, 0, -1) + torch.randn(8)
    return layer


def counts(batch):
    found = torch.bincount(torch.cat([batch.ids.flatten(), batch.multi["genres"].values]), minlength=FIELDS.n_ids)
    found = found.double()
    found[FIELDS[3].offset] = batch.dense.double().square().sum()
    return found


def calibration(inputs=20, outputs=16, n=3000):
    """A linear layer and inputs that are far from white."""
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs).double()
    x = torch.randn(n, inputs).double() @ torch.randn(inputs, inputs).double() * torch.linspace(3, 0.01, inputs) + 1
    return layer, x


def moments_of(values, weights=None, size=7):
    moments = Moments()
    for start in range(0, len(values), size):
        rows = slice(start, start + size)
        moments.add(values[rows], None if weights is None else weights[rows])
    return moments


def weight_svd(layer, rank):
    """Return the layer with its weight cut to that rank: the comparison, not the method."""
    left, values, right = torch.linalg.svd(layer.weight)
    return lambda x: x @ ((left[:, :rank] * values[:rank]) @ right[:rank]).T + layer.bias


def squared_error(function, layer, x):
    with torch.no_grad():
        return float((function(x) - layer(x)).square().sum(1).mean())


def test_moments_do_not_depend_on_the_blocks_and_keep_their_digits():
    x = 1e6 + torch.randn(1000, 5).double() * torch.arange(1.0, 6)
    for size in (1, 7, 1000):
        moments = moments_of(x, size=size)
        torch.testing.assert_close(moments.mean, x.mean(0), rtol=1e-13, atol=0)
        torch.testing.assert_close(moments.scatter / 1000, torch.cov(x.T, correction=0), rtol=1e-8, atol=1e-8)


def test_a_weight_is_a_number_of_repetitions():
    x, weights = torch.randn(50, 4).double(), torch.arange(50) % 4 + 1
    weighted, repeated = moments_of(x, weights), moments_of(x.repeat_interleave(weights, 0))
    for name in ("weight", "mean", "scatter"):
        torch.testing.assert_close(getattr(weighted, name), getattr(repeated, name))


def test_axes_keep_the_share_of_variance_that_is_asked_for():
    x = torch.randn(5000, 6).double() * torch.tensor([10, 5, 2, 1, 0.5, 0.1])
    moments = moments_of(x, size=5000)
    variances = torch.linalg.eigvalsh(moments.scatter).flip(0)
    shares = variances.cumsum(0) / variances.sum()
    for share in (0.5, 0.9, 0.99):
        rank = principal_axes([moments], share)[0].shape[1]
        assert shares[rank - 1] >= share
        assert rank == 1 or shares[rank - 2] < share
    assert principal_axes([moments], 3)[0].shape == (6, 3)


def test_full_rank_reproduces_the_layer():
    layer, x = calibration()
    outputs = moments_of(layer(x).detach(), size=500)
    # Two layers of full rank are larger than one, and so are not made.
    assert mimic_linear(layer, outputs, 16) is None
    (axes,) = principal_axes([outputs], 16)
    thin = low_rank_linear(20, 16, 16, False).double()
    thin[0].weight.data, thin[0].bias.data = axes.T @ layer.weight.data, axes.T @ layer.bias.data
    thin[1].weight.data, thin[1].bias.data = axes, outputs.mean - axes @ (axes.T @ outputs.mean)
    torch.testing.assert_close(thin(x), layer(x), rtol=1e-8, atol=1e-8)
    # They are made where the outputs themselves have that rank.
    layer.weight.data = torch.randn(16, 4).double() @ torch.randn(4, 20).double()
    thin = mimic_linear(layer, moments_of(layer(x).detach(), size=500), 1 - 1e-9)
    assert thin[0].out_features == 4
    torch.testing.assert_close(thin(x), layer(x), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_the_error_is_what_is_discarded_and_no_weight_decomposition_has_less(rank):
    layer, x = calibration()
    moments = moments_of(layer(x).detach(), size=500)
    thin = mimic_linear(layer, moments, rank)
    discarded = torch.linalg.eigvalsh(moments.scatter).flip(0)[rank:].sum() / len(x)
    error = squared_error(thin, layer, x)
    assert error == pytest.approx(float(discarded), rel=1e-6)
    assert error < 0.9 * squared_error(weight_svd(layer, rank), layer, x)
    torch.testing.assert_close(thin(x).mean(0), layer(x).mean(0))


def test_equals_weight_decomposition_on_white_inputs():
    layer, x = calibration()
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / len(x))).T
    thin = mimic_linear(layer, moments_of(layer(x).detach(), size=500), 5)
    assert squared_error(thin, layer, x) == pytest.approx(squared_error(weight_svd(layer, 5), layer, x), rel=1e-6)


def test_activation_lets_the_mean_through():
    layer, x = calibration()
    moments = moments_of(layer(x).detach(), size=500)
    thin = mimic_linear(layer, moments, 5, activated=True)
    assert isinstance(thin[1], nn.ReLU)
    assert (thin[0](x).mean(0) >= 0).all()


def test_parameter_counts_of_published_configurations():
    assert parameter_count(low_rank_linear(400, 64, 400, True)) == 51_664
    assert parameter_count(low_rank_linear(2000, 320, 2000, True)) == 1_282_320


@pytest.mark.parametrize(("dim", "rank", "ratio"), [(16, 2, 8), (50, 8, 6.25)])
def test_a_large_table_shrinks_by_dim_over_rank(dim, rank, ratio):
    fields = FieldSpace([Field("id", False, 100_000, 0)])
    layers = FieldEmbedding(fields, dim), LowRankEmbedding(fields, dim, rank)
    assert parameter_count(layers[1]) == 100_000 * rank + dim * rank + dim
    assert parameter_count(layers[0]) / parameter_count(layers[1]) == pytest.approx(ratio, rel=1e-3)


def discarded_of(embedding, batch, rank):
    """Return the sum of squares that is lost, by an eigen-decomposition of the look-ups themselves."""
    table, singles = embedding.weight.detach().double(), [batch.ids[:, 0], batch.ids[:, 1:].flatten()]
    blocks = [table[ids] - table[ids].mean(0) for ids in singles] + [table[batch.multi["genres"].values]]
    return sum(float(torch.linalg.eigvalsh(block.T @ block).flip(0)[rank:].sum()) for block in blocks)


@pytest.mark.parametrize("rank", [2, 5])
def test_a_table_loses_what_is_discarded_over_the_look_ups(embedding, batch, rank):
    thin = mimic_embedding(embedding, counts(batch), rank)
    weights = counts(batch)
    weights[FIELDS[3].offset] = 0
    found = (weights[:, None] * (thin.weight - embedding.weight).double().square()).sum().detach()
    assert float(found) == pytest.approx(discarded_of(embedding, batch, rank), rel=1e-4)


def test_means_of_fields_with_one_value_are_kept(embedding, batch):
    thin = mimic_embedding(embedding, counts(batch), 1)
    # Columns that share a vocabulary share its mean.
    for columns in ([0], [2, 4]):
        left, right = thin(batch)[:, columns].mean((0, 1)), embedding(batch)[:, columns].mean((0, 1))
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


def test_full_rank_reproduces_every_kind_of_field(embedding, batch):
    # At full rank a table is not smaller; a table of that rank mimics one that is padded by what it does not use.
    wide = FieldEmbedding(FIELDS, 40)
    wide.weight.data = torch.cat([embedding.weight.data, torch.zeros(FIELDS.n_ids, 32)], 1)
    thin = mimic_embedding(wide, counts(batch), 8)
    torch.testing.assert_close(thin(batch), wide(batch), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(thin.weight, wide.weight, rtol=1e-4, atol=1e-4)
    some = FieldSpace([FIELDS[2], FIELDS[0]])
    part = CTRBatch(batch.ids[:, [1, 0]], {}, batch.labels)
    torch.testing.assert_close(thin(part, some), wide(part, some), rtol=1e-4, atol=1e-4)
    assert mimic_embedding(embedding, counts(batch), 8) is None


@pytest.mark.parametrize("alone", [False, True])
def test_fusion_changes_nothing(embedding, batch, alone):
    layer = nn.Linear(len(FIELDS) * 8, 11)
    thin = mimic_embedding(embedding, counts(batch), 3)
    fused = fuse(layer, thin, alone=alone)
    unfused = layer(thin(batch).flatten(1))
    reads = thin.codes(batch).flatten(1) if alone else torch.full((200, 40), float("nan"))
    torch.testing.assert_close(fused(reads), unfused, rtol=1e-4, atol=1e-4)
    assert parameter_count(fused) == 11 * (len(FIELDS) * 3 + 1)
    assert "embedding" not in " ".join(fused.state_dict())


def test_a_vocabulary_that_is_never_looked_up_counts_alike(embedding):
    thin = mimic_embedding(embedding, torch.zeros(FIELDS.n_ids), 4)
    rows = slice(FIELDS[0].offset, FIELDS[0].size)
    torch.testing.assert_close(thin.weight[rows].mean(0), embedding.weight[rows].mean(0), rtol=1e-3, atol=1e-3)
