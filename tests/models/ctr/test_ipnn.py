import itertools

import torch

from recbench.models.base import parameter_count
from recbench.models.ctr.dnn import DNN
from recbench.models.ctr.ipnn import IPNN


def test_parameter_count_on_frappe(frappe):
    assert parameter_count(IPNN(IPNN.Config(embedding_dim=10, hidden=(400, 400, 400)), frappe)) == 433_491


def test_is_a_perceptron_where_the_products_are_not_read(make, rows):
    model, dnn = make(IPNN, embedding_dim=6), make(DNN, embedding_dim=6)
    weight = model.mlp[0].weight.data
    weight[:, 24:] = 0
    dnn.load_state_dict(model.state_dict() | {"mlp.0.weight": weight[:, :24]})
    torch.testing.assert_close(model(rows), dnn(rows), rtol=1e-4, atol=1e-4)


def test_products_are_those_of_all_pairs_in_order(make, rows):
    model = make(IPNN, embedding_dim=6)
    seen = []
    model.mlp.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(rows)
    embeddings = model.embedding(rows)
    pairs = itertools.combinations(range(4), 2)
    expected = torch.stack([(embeddings[:, i] * embeddings[:, j]).sum(1) for i, j in pairs], 1)
    torch.testing.assert_close(seen[0][:, 24:], expected)


def test_predictions_do_not_depend_on_the_batch(make, check_batch_size):
    check_batch_size(make(IPNN, embedding_dim=6, dropout=0.5, batch_norm=True))
