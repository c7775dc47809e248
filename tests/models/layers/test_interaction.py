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


def test_equals_the_equations_in_numpy(embeddings):
    torch.manual_seed(0)
    layer = InteractingLayer(8, 3, 2)
    query, key, value, residual = layer.projections.weight.detach().double().numpy().reshape(4, 6, 8)
    for row, output in zip(embeddings.double().numpy(), layer(embeddings).detach().numpy(), strict=True):
        heads = []
        for head in (slice(0, 3), slice(3, 6)):
            scores = np.exp((row @ query[head].T) @ (row @ key[head].T).T)
            heads.append(scores / scores.sum(1, keepdims=True) @ (row @ value[head].T))
        expected = np.maximum(np.concatenate(heads, axis=1) + row @ residual.T, 0)
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scaled", [False, True])
def test_attention_rows_sum_to_one(embeddings, scaled):
    layer = InteractingLayer(8, 4, 2, scaled=scaled)
    attention = layer.attention(embeddings, embeddings.flip(0))
    assert attention.shape == (6, 2, 5, 5)
    torch.testing.assert_close(attention.sum(-1), torch.ones(6, 2, 5))
    assert attention.std() > 0.01  # not merely uniform


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


def test_scaling_divides_the_scores_by_the_root_of_the_head_width(embeddings):
    plain, scaled = InteractingLayer(8, 4, 2), InteractingLayer(8, 4, 2, scaled=True)
    torch.testing.assert_close(scaled.attention(embeddings, embeddings), plain.attention(embeddings / 2, embeddings))


def test_activation_leaves_nothing_negative_to_be_cut(embeddings):
    # With ReLU on all four projections the sum is not negative, so the last ReLU is idle; linear ones are cut.
    zeros = [(InteractingLayer(8, 4, 2, activated=activated)(embeddings) == 0).sum() for activated in (False, True)]
    assert zeros[0] > zeros[1]


@pytest.mark.parametrize(("layer_norm", "centred"), [("after", True), ("before", False)])
def test_place_of_the_layer_norm(embeddings, layer_norm, centred):
    output = InteractingLayer(8, 4, 2, layer_norm=layer_norm)(embeddings)
    assert torch.allclose(output.mean(-1), torch.zeros(6, 5), atol=1e-5) is centred
    assert bool((output >= 0).all()) is not centred


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
