from itertools import chain

import numpy as np
import pytest
import torch

from recbench.models.layers.embedding import EmbeddingModel, FieldEmbedding
from recbench.tasks.batches import Ragged
from recbench.tasks.ctr import CTRBatch, Field, FieldSpace

# A multi-valued field between single-valued ones, so that the order of the output is not the order of the storage.
FIELDS = FieldSpace(
    [Field("user", False, 5, 0), Field("genres", True, 4, 5), Field("item", False, 6, 9), Field("tags", True, 3, 15)]
)
GENRES = [[6, 8], [], [5], [7, 7, 6], []]
TAGS = [[15], [16, 17], [], [], []]


def ragged(rows):
    offsets = np.cumsum([0, *map(len, rows)])
    return Ragged(torch.tensor(list(chain.from_iterable(rows))), torch.tensor(offsets))


@pytest.fixture
def batch():
    ids = torch.tensor([[1, 10], [0, 9], [4, 14], [2, 11], [3, 12]])
    labels = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
    return CTRBatch(ids, {"genres": ragged(GENRES), "tags": ragged(TAGS)}, labels)


@pytest.fixture
def embedding():
    torch.manual_seed(0)
    layer = FieldEmbedding(FIELDS, 3)
    torch.nn.init.normal_(layer.weight)
    return layer


def mean(table, values):
    return table[values].mean(0) if values else np.zeros(table.shape[1])


def test_equals_numpy_in_the_order_of_the_fields(batch, embedding):
    table = embedding.weight.detach().numpy()
    expected = [
        [table[user], mean(table, genres), table[item], mean(table, tags)]
        for (user, item), genres, tags in zip(batch.ids.tolist(), GENRES, TAGS, strict=True)
    ]
    np.testing.assert_allclose(embedding(batch).detach().numpy(), np.array(expected), rtol=1e-6)


def test_single_valued_fields_alone():
    fields = FieldSpace([Field("user", False, 5, 0), Field("item", False, 6, 5)])
    layer = FieldEmbedding(fields, 2)
    ids = torch.tensor([[0, 5], [4, 10]])
    assert torch.equal(layer(CTRBatch(ids, {}, torch.zeros(2))), layer.weight[ids])


def test_the_unseen_id_has_a_vector_of_its_own(batch, embedding):
    unseen = CTRBatch(torch.tensor([[0, 9]] * 5), batch.multi, batch.labels)
    assert torch.equal(embedding(unseen)[:, 0], embedding.weight[0].expand(5, 3))
    assert torch.equal(embedding(unseen)[:, 2], embedding.weight[9].expand(5, 3))


def test_gradient_reaches_each_row_of_the_table_that_occurs_and_no_other(batch, embedding):
    embedding(batch).sum().backward()
    occurring = {*batch.ids.flatten().tolist(), *chain.from_iterable(GENRES + TAGS)}
    touched = embedding.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert set(touched) == occurring
    # Value 7 is two of the three values of a row: it takes two thirds of that row's gradient.
    assert embedding.weight.grad[7].tolist() == pytest.approx([2 / 3] * 3)


def test_initial_weights_have_deviation_1e_4():
    torch.manual_seed(0)
    layer = FieldEmbedding(FieldSpace([Field("user", False, 10_000, 0)]), 10)
    assert layer.weight.std().item() == pytest.approx(1e-4, rel=0.01)
    assert abs(layer.weight.mean().item()) < 2e-6


class TwoTables(EmbeddingModel):
    def __init__(self, config, fields):
        super().__init__(config, fields)
        self.embedding = FieldEmbedding(fields, 3)
        self.linear = FieldEmbedding(fields, 1)
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, batch):
        return self.scale * self.embedding(batch).sum((1, 2)) + self.linear(batch).sum((1, 2))


def test_embedding_l2_adds_lambda_times_the_whole_of_every_table_to_the_gradient(batch):
    gradients = {}
    for embedding_l2 in (0.0, 0.3):
        torch.manual_seed(1)
        model = TwoTables(EmbeddingModel.Config(embedding_l2=embedding_l2), FIELDS)
        for table in (model.embedding, model.linear):
            torch.nn.init.normal_(table.weight)
        model.loss(batch).backward()
        gradients[embedding_l2] = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, table in (("embedding.weight", model.embedding), ("linear.weight", model.linear)):
        added = gradients[0.3][name] - gradients[0.0][name]
        torch.testing.assert_close(added, 0.3 * table.weight.detach())
    assert torch.equal(gradients[0.3]["scale"], gradients[0.0]["scale"])


def test_a_dense_field_is_its_number_times_its_vector():
    fields = FieldSpace(
        [Field("price", False, 1, 0, dense=True), Field("user", False, 4, 1), Field("age", False, 1, 5, True)]
    )
    layer = FieldEmbedding(fields, 2)
    dense = torch.tensor([[2.0, 0.0], [-1.0, 3.0]])
    batch = CTRBatch(torch.tensor([[1], [4]]), {}, torch.zeros(2), dense)
    price, age = layer.weight[0], layer.weight[5]
    expected = torch.stack(
        [torch.stack([2 * price, layer.weight[1], 0 * age]), torch.stack([-price, layer.weight[4], 3 * age])]
    )
    assert torch.equal(layer(batch), expected)
    (first, second) = batch.take(torch.tensor([1, 0])).split(1)
    assert torch.equal(torch.cat([layer(first), layer(second)]), expected.flip(0))


def test_fields_that_share_ids_share_vectors():
    fields = FieldSpace([Field("item", False, 3, 0), Field("past", True, 3, 0)])
    assert fields.n_ids == 3
    layer = FieldEmbedding(fields, 2)
    batch = CTRBatch(torch.tensor([[2]]), {"past": ragged([[2]])}, torch.zeros(1))
    vectors = layer(batch)
    assert torch.equal(vectors[0, 0], vectors[0, 1])
