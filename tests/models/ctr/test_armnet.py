import pytest
import torch

from recbench.errors import UsageError
from recbench.metrics.pointwise import auc
from recbench.models.base import parameter_count
from recbench.models.ctr.armnet import ARMNet, ExponentialNeurons
from recbench.models.ctr.fm import FM
from recbench.tasks.ctr import CTRBatch, CTRData, Field, FieldSpace


def criteo_like(n_fields):
    return FieldSpace(Field(str(n), False, 2, 2 * n) for n in range(n_fields))


@pytest.mark.parametrize(
    ("n_fields", "heads", "neurons", "hidden", "expected"),
    [
        pytest.param(10, 8, 32, (300, 300), 866_533, id="Frappe, 867K in the paper"),
        pytest.param(3, 1, 16, (300, 300), 140_441, id="MovieLens, 140K"),
        pytest.param(22, 1, 32, (200, 200, 200), 147_189, id="Avazu, 147K"),
        pytest.param(39, 4, 64, (500, 500), 1_546_957, id="Criteo, 1.5M"),
        pytest.param(43, 32, 1, (300,), 102_161, id="Diabetes130, 102K"),
    ],
)
def test_parameter_counts_of_the_paper(n_fields, heads, neurons, hidden, expected):
    """Table 2, without the embeddings."""
    fields = criteo_like(n_fields)
    config = ARMNet.Config(embedding_dim=10, num_heads=heads, num_neurons=neurons, hidden=hidden)
    assert parameter_count(ARMNet(config, fields)) - fields.n_ids * 10 == expected


@pytest.fixture
def neurons():
    torch.manual_seed(0)
    return ExponentialNeurons(6, 4, 2, 3, alpha=1.5)


@pytest.fixture
def embeddings():
    return torch.randn(8, 6, 4, generator=torch.Generator().manual_seed(1))


def test_equals_the_equations(neurons, embeddings):
    """Equations 5 and 6 as they stand: q^T W e for each head, the product of powers for each neuron."""
    scores = torch.einsum("koy,kyx,bfx->bfko", neurons.query, neurons.bilinear, embeddings).flatten(2) / 2
    gates = neurons.gates(embeddings)
    x = scores / 2  # alpha-entmax of 1.5: the gates are (x - tau)^2 in the support, with one tau a neuron
    tau = (x - gates.sqrt()).where(gates > 0, torch.nan)
    torch.testing.assert_close(tau.nanmean(1, keepdim=True).expand_as(x)[gates > 0], tau[gates > 0])
    assert (x <= tau.nanmean(1, keepdim=True) + 1e-6)[gates == 0].all()
    powers = gates * neurons.value.flatten(0, 1).T
    expected = (embeddings.exp()[:, :, :, None] ** powers[:, :, None]).prod(1)
    torch.testing.assert_close(neurons(embeddings), expected)


@pytest.mark.parametrize("attended", [(2,), (0, 4)])
def test_powers_of_one_give_products_of_exponentials(neurons, embeddings, attended, monkeypatch):
    chosen = torch.zeros(8, 6, 6)
    chosen[:, attended] = 1
    monkeypatch.setattr(neurons, "gates", lambda embeddings: chosen)
    neurons.value.data.fill_(1)
    expected = embeddings[:, attended].exp().prod(1)
    torch.testing.assert_close(neurons(embeddings), expected[:, :, None].expand(8, 4, 6))


def test_without_values_neurons_are_one_and_predictions_constant(make, rows):
    model = make(ARMNet)
    model.neurons.value.data.zero_()
    assert torch.equal(model.neurons(model.embedding(rows)), torch.ones(300, 10, 256))
    assert len(model(rows).unique()) == 1


def test_permuting_fields_with_their_values_changes_nothing(neurons, embeddings):
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    expected = neurons(embeddings)
    neurons.value.data = neurons.value.data[:, :, order]
    torch.testing.assert_close(neurons(embeddings[:, order]), expected)


def test_support_shrinks_as_alpha_grows(make, rows):
    sizes = []
    for alpha in (1.0, 1.5, 1.7, 2.0):
        model = make(ARMNet, alpha=alpha, num_heads=2, num_neurons=4)
        gates = model.neurons.gates(5 * model.embedding(rows))
        torch.testing.assert_close(gates.sum(1), torch.ones(300, 8))
        sizes.append(float((gates > 0).sum(1).double().mean()))
    assert sizes[0] == 4 > sizes[1] > sizes[2] > sizes[3] >= 1


def test_rejects_alpha_below_one():
    with pytest.raises(UsageError, match="alpha"):
        ARMNet.Config.parse({"alpha": 0.9}, "the test")


@pytest.mark.parametrize("alpha", [1.0, 1.7, 2.0])
def test_predictions_do_not_depend_on_the_batch(make, check_batch_size, alpha):
    check_batch_size(make(ARMNet, alpha=alpha, num_heads=2, num_neurons=4))


@pytest.fixture(scope="module")
def planted():
    """Ten binary fields; a row is positive if an odd number of fields 1, 4 and 7 is set: training and test rows."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(2, (4000, 10), generator=generator)
    labels = values[:, [1, 4, 7]].sum(1) % 2
    rows = CTRBatch(values + 2 * torch.arange(10), {}, labels.float())
    fields = criteo_like(10)
    return CTRData(fields, rows.take(torch.arange(3000))), rows.take(torch.arange(3000, 4000))


def fit(model, data, epochs):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for batch in data.rows(250).epoch(generator):
            optimizer.zero_grad()
            model.loss(batch).backward()
            optimizer.step()
    return model.eval()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_finds_a_planted_rule_of_third_order(planted, seed):
    data, test = planted
    torch.manual_seed(seed)
    config = ARMNet.Config(embedding_dim=4, num_heads=1, num_neurons=4, hidden=(8,), embedding_l2=0)
    model = fit(ARMNet(config, data.fields), data, epochs=30)
    pairs = fit(FM(FM.Config(embedding_dim=4), data.fields), data, epochs=5)
    assert auc(model(test), test.labels) > 0.95
    assert auc(pairs(test), test.labels) < 0.6
    matrix, table = model.explain(data).parts
    assert "1 4 7" in table.columns["fields"]
    assert len(matrix.values) == len(table.columns["neuron"]) == 4


def test_explains_the_strongest_neurons(make, rows, fields):
    model = make(ARMNet, num_heads=4, num_neurons=16, alpha=1.0)
    matrix, table = model.explain(CTRData(fields, rows)).parts
    weights = (model.neurons.gates(model.embedding(rows)).mean(0) * model.neurons.values().abs()).T
    head, neuron = divmod(int(weights.sum(1).argmax()), 16)
    assert len(matrix.rows) == 32
    assert matrix.rows[0] == table.columns["neuron"][0] == f"head {head + 1} neuron {neuron + 1}"
    torch.testing.assert_close(torch.tensor(matrix.values[0]), weights[16 * head + neuron])
    assert set(table.columns["mean support"]) == {4.0}
    assert model.explain(CTRData(fields, rows)).figures == {"fields in the support of a gate, mean": 4.0}
