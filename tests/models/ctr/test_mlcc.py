import pytest
import torch

from recbench.errors import UsageError
from recbench.models.base import parameter_count
from recbench.models.ctr.mlcc import MLCC, FieldGate
from recbench.tasks.ctr import CTRData, Field, FieldSpace


def dense_parameters(n_fields, model=MLCC, **values):
    fields = FieldSpace(Field(str(n), False, 2, 2 * n) for n in range(n_fields))
    made = model(model.Config(**values), fields)
    return parameter_count(made) - made.embedding.weight.numel()


@pytest.mark.parametrize(
    ("n_fields", "dynamic", "expected"),
    [
        pytest.param(39, (4, 1), 305_893, id="Criteo"),
        pytest.param(22, (4, 1), 191_174, id="Avazu"),
        pytest.param(17, (2, 1), 119_434, id="TaobaoAds"),
    ],
)
def test_parameter_counts_of_the_released_configurations(n_fields, dynamic, expected):
    assert dense_parameters(n_fields, dynamic=dynamic) == expected


def test_global_compression_grows_with_the_square_of_the_width():
    """F E H (E m_1 + m_1 m_2)."""
    fields = FieldSpace(Field(str(n), False, 2, 2 * n) for n in range(10))
    for width in (8, 16, 32):
        model = MLCC(MLCC.Config(embedding_dim=width), fields)
        assert model.crossing.compression.numel() == 10 * width * 4 * (width * 4 + 4)


def test_equals_the_equations(make, rows):
    """Step by step for one row and one head, in plain products."""
    model = make(MLCC, embedding_dim=3, num_heads=2, dynamic=(4, 2), hidden=(5,))
    embeddings = model.embedding(rows)
    e = embeddings[7]
    g = e.flatten() @ model.crossing.compression[0]
    collected = []
    for head in range(2):
        w1 = g[:24].view(3, 2, 4)[:, head]
        w2 = g[24:].view(2, 4, 2)[head]
        collected += [e @ w1, e @ w1 @ w2]
    z = torch.cat([*collected, e], 1)
    torch.testing.assert_close(model.collect(embeddings)[7], z)
    y = torch.stack([z[field] @ model.local[field] for field in range(4)])
    first, _, _, second, _ = model.gate.layers
    hidden = (first.weight @ y.mean(1) + first.bias).relu()
    hidden = (hidden - hidden.mean()) / (hidden.var(correction=0) + 1e-5).sqrt()
    gates = (second.weight @ hidden + second.bias).sigmoid()
    torch.testing.assert_close(model(rows)[7], model.mlp((gates[:, None] * y).flatten()[None])[0, 0])


@pytest.mark.parametrize(("dynamic", "degree"), [((4,), 2), ((4, 1), 3), ((4, 2, 3), 4)])
def test_degree_in_the_embeddings(make, rows, dynamic, degree):
    """One more than there are dynamic layers."""
    model = make(MLCC, dynamic=dynamic, keep=())
    embeddings = model.embedding(rows)
    torch.testing.assert_close(model.collect(2 * embeddings), 2**degree * model.collect(embeddings))
    torch.testing.assert_close(model.collect(-embeddings), (-1) ** degree * model.collect(embeddings))


def test_a_relu_between_dynamic_layers(make, rows):
    model = make(MLCC, activated=True)
    embeddings = model.embedding(rows).unflatten(2, (1, -1))
    weights = model.crossing.weights(embeddings)
    first, second = model.crossing.cross(embeddings, weights)
    assert (first < 0).any()
    expected = first.relu().transpose(2, 3) @ weights[1]
    torch.testing.assert_close(second, expected.transpose(2, 3))


def test_weights_are_shared_by_fields(make, rows):
    model = make(MLCC)
    embeddings = model.embedding(rows).unflatten(2, (1, -1))
    weights = model.crossing.weights(embeddings)
    order = torch.tensor([0, 3, 2, 1])
    outputs = model.crossing.cross(embeddings, weights)
    for output, permuted in zip(outputs, model.crossing.cross(embeddings[:, order], weights), strict=True):
        torch.testing.assert_close(permuted, output[:, :, order])


def test_gates_are_between_zero_and_one():
    torch.manual_seed(0)
    y = torch.randn(50, 6, 3)
    gates = FieldGate(6)(y) / y
    torch.testing.assert_close(gates, gates[:, :, :1].expand_as(gates))
    assert (gates > 0).all()
    assert (gates < 1).all()
    assert FieldGate(1)(y[:, :1]).shape == (50, 1, 3)


@pytest.mark.parametrize("keep", [[2], [1, 1]])
def test_rejects_layers_that_are_not_there(keep):
    with pytest.raises(UsageError, match=r"keep: .*expected different numbers below 2"):
        MLCC.Config.parse({"keep": keep}, "the test")
    with pytest.raises(UsageError, match="dynamic"):
        MLCC.Config.parse({"dynamic": []}, "the test")


def test_explains_its_sizes(make, rows, fields):
    model = make(MLCC)
    explanation = model.explain(CTRData(fields, rows))
    (table,) = explanation.parts
    assert sum(table.columns["parameters"]) == parameter_count(model)
    assert explanation.figures == {"channels": 1, "parameters without the table": parameter_count(model) - 40 * 16}
    assert table.columns["width"] == [16, 272, 36, 8, 4, 1]


def test_predictions_do_not_depend_on_the_batch(make, check_batch_size):
    check_batch_size(make(MLCC, embedding_dim=4))
