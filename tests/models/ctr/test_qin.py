import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from recbench.errors import UsageError
from recbench.models.base import parameter_count
from recbench.models.ctr.din import DIN
from recbench.models.ctr.qin import QIN, QuadraticLayer, SparseTargetAttention
from recbench.models.layers.history import History
from recbench.tasks.batches import Ragged
from recbench.tasks.ctr import CTRBatch, CTRData, Field, FieldSpace, ItemTable

LENGTHS = [3, 0, 5, 1]


def microlens():
    """Return fields and items with the sizes of MicroLens_1M; nothing of it is in memory."""
    likes, views = Field("likes", False, 11, 0), Field("views", False, 11, 11)
    item, tags = Field("item", False, 91_718, 22), Field("tags", True, 11_740, 91_740)
    history = Field("history", True, 91_718, 22, sequence=64, vocabulary="item")
    with torch.device("meta"):
        rows = CTRBatch(torch.empty(91_718, 1, dtype=torch.int64), {}, torch.empty(91_718, 0))
        vectors = torch.empty(91_718, 128)
    items = ItemTable(item, FieldSpace([item, tags]), rows, vectors)
    return FieldSpace([likes, views, item, tags, history]), items


@pytest.fixture
def history():
    """Return four histories, the second of them empty, in 6 dims."""
    generator = torch.Generator().manual_seed(0)
    offsets = torch.tensor([0, *np.cumsum(LENGTHS)])
    places = Ragged(torch.randint(7, (int(offsets[-1]),), generator=generator), offsets)
    return History(torch.randn(4, 6, generator=generator), torch.randn(7, 6, generator=generator), places)


@pytest.fixture
def attention():
    torch.manual_seed(0)
    return SparseTargetAttention(6)


@pytest.mark.parametrize(("num_row", "count"), [(4, 31_244_293), (3, 27_045_893)])
def test_parameter_count_of_the_authors(num_row, count):
    fields, items = microlens()
    with torch.device("meta"):
        model = QIN(QIN.Config(embedding_dim=128, num_row=num_row), fields, items)
    assert parameter_count(model) == count


def test_attention_is_that_of_keys_and_values(attention, history):
    """The equation as it is printed, over padded histories with a mask that is applied before the ReLU."""
    values, mask = history.places.padded(5)
    seen = history.table[values]
    query, key, value = attention.query(history.target), attention.key(seen), attention.value(seen)
    scores = (query[:, None] * key).sum(2) / 12**0.5 * mask
    expected = attention.output((scores.relu()[:, :, None] * value).sum(1)) + history.target
    torch.testing.assert_close(attention(history), expected)
    assert (scores < 0).any()


def test_items_with_a_negative_score_have_no_part(attention, history):
    weights = attention.weights(history)
    assert (weights == 0).any()
    assert (weights > 0).any()
    vectors = history.vectors().detach().requires_grad_()
    lone = Ragged(torch.arange(len(vectors)), history.places.offsets)
    attention(History(history.target, vectors, lone)).square().sum().backward()
    assert torch.equal(vectors.grad.abs().sum(1) > 0, weights > 0)


def test_an_empty_history_gives_the_target(attention, history):
    assert torch.equal(attention(history)[1], history.target[1])


def test_what_is_read_is_quadratic_in_the_history(attention, history):
    def read(scale):
        return attention(History(history.target, scale * history.table, history.places)) - history.target

    torch.testing.assert_close(read(3.0), 9 * read(1.0))


def test_without_dropout_all_maps_are_one():
    torch.manual_seed(0)
    layer, single = QuadraticLayer(5, 4, 0.5), QuadraticLayer(5, 1, 0.5)
    nn.init.normal_(layer.linear.bias)
    state = layer.state_dict()
    for name in ("linear.weight", "linear.bias"):
        state[name] = state[name].unflatten(0, (4, -1)).sum(0)
    single.load_state_dict(state)
    x = torch.randn(8, 5)
    torch.testing.assert_close(layer.eval()(x), single.eval()(x))
    torch.testing.assert_close(layer.factor(x), layer.linear(x).view(8, 4, 5).sum(1))
    layer.train()
    layer.dropout.p = 0.0
    torch.testing.assert_close(layer.factor(x), single.linear(x))


def test_dropout_is_of_each_map():
    torch.manual_seed(0)
    layer = QuadraticLayer(5, 4, 0.5)
    x = torch.ones(4000, 5)
    parts = 2 * layer.linear(x[:1]).view(4, 5)
    sums = layer.factor(x)
    # Each of the four terms is there or not: sixteen values, with the mean of the factor without dropout.
    assert (
        len(sums[:, 0].detach().numpy().round(4).tolist()) > len(np.unique(sums[:, 0].detach().numpy().round(4))) == 16
    )
    torch.testing.assert_close(sums.mean(0), parts.sum(0) / 2, atol=0.1, rtol=0)


def test_layers_are_a_polynomial_of_degree_two_to_their_number():
    torch.manual_seed(0)
    layers = nn.Sequential(*(QuadraticLayer(3, 2, 0.0) for _ in range(2))).double().eval()
    for layer in layers:
        layer.norm = layer.activation = nn.Identity()
    x = torch.randn(3, dtype=torch.float64)
    torch.testing.assert_close(layers[0](2 * x[None]), 2 * x[None] + 4 * (layers[0](x[None]) - x[None]))
    with torch.no_grad():
        values = layers(torch.arange(7.0, dtype=torch.float64)[:, None] * x).numpy()
    fourth, fifth = np.diff(values, 4, axis=0), np.diff(values, 5, axis=0)
    assert abs(fourth).min() > 1e-3
    np.testing.assert_allclose(fifth, 0, atol=1e-8 * abs(values).max())


def test_predictions_do_not_depend_on_the_batch(history_data, spread, check_batch_size):
    """Nor on whether the vectors of all items are computed, or those of a small batch's only."""
    data = history_data()
    torch.manual_seed(0)
    check_batch_size(spread(QIN.create(QIN.Config(embedding_dim=4), data)), data.all_rows())


def test_target_and_history_have_attributes_and_given_vectors(history_data, spread):
    data = history_data()
    torch.manual_seed(0)
    model = spread(QIN.create(QIN.Config(embedding_dim=4), data))
    rows, table = data.all_rows(), model.histories.embedding.weight
    _, (history,) = model.histories(rows)
    item = rows.ids[0, 1] - 20
    genres = data.items.rows.multi["genres"].take(item[None]).values
    given = model.histories.item.projection(data.items.vectors[item])
    expected = torch.cat([table[item + 20], table[genres].mean(0), given])
    torch.testing.assert_close(history.target[0], expected)
    same = torch.nonzero(rows.multi["history"].values == item + 20)[0]
    torch.testing.assert_close(history.vectors()[same[0]], expected)


def test_width_is_that_of_context_target_and_interest(history_data):
    model = QIN.create(QIN.Config(embedding_dim=4), history_data())
    # User and price; item, genres and given vector, of the target and read from the history.
    assert model.output.in_features == (2 + 3 + 3) * 4


def test_the_projection_of_given_vectors_is_penalised(history_data):
    model = QIN.create(QIN.Config(embedding_dim=4, embedding_l2=0.5), history_data())
    weights = [model.histories.embedding.weight, model.histories.item.projection.weight]
    torch.testing.assert_close(model.penalty(), 0.25 * sum(weight.square().sum() for weight in weights))


def test_sparse_gradients_are_the_same(history_data, spread):
    for with_items in (True, False):
        data = history_data()
        if not with_items:
            data = CTRData(data.fields, data.all_rows())
        torch.manual_seed(0)
        model = spread(QIN.create(QIN.Config(embedding_dim=4), data))
        table = model.histories.embedding
        gradients = []
        for sparse in (False, True):
            table.sparse, table.weight.grad = sparse, None
            model(data.all_rows()).square().sum().backward()
            gradients.append(table.weight.grad)
        assert gradients[1].is_sparse
        torch.testing.assert_close(gradients[1].to_dense(), gradients[0], rtol=1e-4, atol=1e-4)


def test_a_benchmark_without_histories_is_refused(fields, rows):
    with pytest.raises(UsageError, match=r"qin needs a history.* none among its fields user, genres, item, zip"):
        QIN.create(QIN.Config(), CTRData(fields, rows))


def products_with_history(n_rows, seed):
    """Return rows whose label is the sign of a product: a feature of the target with one of the items that match it.

    Items have four given features. An item of the history counts as much as its product with the target, if positive.
    """
    generator = torch.Generator().manual_seed(seed)
    n_items, length = 200, 5
    item = Field("item", False, n_items, 0)
    history = Field("history", True, n_items, 0, sequence=length, vocabulary="item")
    vectors = torch.randn(n_items, 4, generator=torch.Generator().manual_seed(0))
    target = torch.randint(n_items, (n_rows,), generator=generator)
    seen = torch.randint(n_items, (n_rows, length), generator=generator)
    matches = (vectors[seen] @ vectors[target][:, :, None]).relu().squeeze(2)
    score = vectors[target, 0] * (matches * vectors[seen, 1]).sum(1)
    places = Ragged(seen.flatten(), length * torch.arange(n_rows + 1))
    rows = CTRBatch(target[:, None], {"history": places}, (score > 0).float(), torch.empty(n_rows, 0))
    alone = CTRBatch(torch.arange(n_items)[:, None], {}, torch.empty(n_items, 0))
    items = ItemTable(item, FieldSpace([item]), alone, vectors)
    return CTRData(FieldSpace([item, history]), rows, ("label",), items)


def fitted_auc(model, data, test):
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(15):
        for batch in data.rows(128).epoch(generator):
            optimizer.zero_grad()
            model.loss(batch).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
    with torch.no_grad():
        return roc_auc_score(test.labels, model.eval()(test))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_product_of_target_and_history_is_learned_better_than_by_din(seed):
    """Of equal embeddings. A plain sum of the history is DIN's: ReLU weights cannot read items that do not match."""
    data, test = products_with_history(3000, 1), products_with_history(4000, 2).all_rows()
    aucs = {}
    for model, values in ((QIN, {"num_layers": 2}), (DIN, {})):
        torch.manual_seed(seed)
        aucs[model] = fitted_auc(model.create(model.Config(embedding_dim=8, **values), data), data, test)
    assert aucs[QIN] > 0.95
    assert aucs[QIN] > aucs[DIN] + 0.01
