import itertools

import numpy as np
import pytest
import torch

from recbench.models.base import parameter_count
from recbench.models.layers.interaction import InteractingLayer, pair_pooling

FORMS = {
    "paper": {},
    "authors": {"activated": True, "scaled": True, "layer_norm": "after"},
    "fuxictr": {"identity_residual": True, "layer_norm": "before"},
}


@pytest.fixture
def embeddings():
    return torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(0))


def test_pair_pooling_is_the_sum_over_pairs(embeddings):
    pairs = itertools.combinations(range(5), 2)
    expected = sum(embeddings[:, i].double() * embeddings[:, j].double() for i, j in pairs)
    torch.testing.assert_close(pair_pooling(embeddings.double()), expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("head_dim", [4, 6])
def test_equals_the_equations_in_numpy(embeddings, form, head_dim):
    torch.manual_seed(0)
    flags = FORMS[form]
    width = 2 * head_dim
    layer = InteractingLayer(8, head_dim, 2, **flags)
    if layer.projections.bias is not None:
        torch.nn.init.normal_(layer.projections.bias)

    def normalised(x):
        return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)

    weight = layer.projections.weight.detach().double().numpy().reshape(-1, width, 8)
    bias = layer.projections.bias.detach().double().numpy().reshape(-1, width) if "activated" in flags else np.zeros(4)
    for row, output in zip(embeddings.double().numpy(), layer(embeddings).detach().numpy(), strict=True):
        projected = [row @ block.T + offset for block, offset in zip(weight, bias, strict=False)]
        if "activated" in flags:
            projected = [np.maximum(block, 0) for block in projected]
        query, key, value, *residual = projected
        heads = []
        for head in (slice(0, head_dim), slice(head_dim, width)):
            scores = query[:, head] @ key[:, head].T
            exps = np.exp(scores / np.sqrt(head_dim) if "scaled" in flags else scores)
            heads.append(exps / exps.sum(1, keepdims=True) @ value[:, head])
        expected = np.concatenate(heads, axis=1) + (residual[0] if residual else row)
        if flags.get("layer_norm") == "before":
            expected = normalised(expected)
        expected = np.maximum(expected, 0)
        if flags.get("layer_norm") == "after":
            expected = normalised(expected)
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4)


def test_attention_rows_sum_to_one(embeddings):
    layer = InteractingLayer(8, 4, 2)
    embeddings[..., 0] = 1.0
    query, key, value, residual = layer.projections.weight.data.split(8)
    value.zero_()[:, 0] = 1.0  # every field's value is a vector of ones, so any weighted mean of them is
    residual.zero_()
    torch.testing.assert_close(layer(embeddings), torch.ones(6, 5, 8))
    assert not torch.allclose(query, key)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("head_dim", [4, 6])
def test_fields_permute_with_their_embeddings(embeddings, form, head_dim):
    layer = InteractingLayer(8, head_dim, 2, **FORMS[form])
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(layer(embeddings[:, order]), layer(embeddings)[:, order])


def test_without_values_only_the_residual_is_left(embeddings):
    layer = InteractingLayer(8, 4, 2)
    _, _, value, residual = layer.projections.weight.data.split(8)
    value.zero_()
    torch.testing.assert_close(layer(embeddings), (embeddings @ residual.T).relu())


def test_without_values_the_identity_residual_gives_the_input_back(embeddings):
    layer = InteractingLayer(8, 4, 2, identity_residual=True)
    layer.projections.weight.data[16:].zero_()
    torch.testing.assert_close(layer(embeddings), embeddings.relu())


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, 4 * 8 * 8),
        ({"activated": True}, 4 * (8 * 8 + 8)),
        ({"identity_residual": True}, 3 * 8 * 8),
        ({"layer_norm": "before"}, 4 * 8 * 8 + 2 * 8),
    ],
)
def test_parameter_count(flags, expected):
    assert parameter_count(InteractingLayer(8, 4, 2, **flags)) == expected


def test_each_projection_is_initialised_as_a_matrix_of_its_own():
    torch.manual_seed(0)
    for block in InteractingLayer(100, 50, 6).projections.weight.data.split(300):
        assert block.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.02)
