import torch

from recbench.models.base import parameter_count
from recbench.models.ctr.dcn import DCN
from recbench.models.ctr.dnn import DNN


def test_parameter_count_on_frappe(frappe):
    config = DCN.Config(embedding_dim=10, num_layers=3, hidden=(400, 400, 400), batch_norm=True)
    assert parameter_count(DCN(config, frappe)) == 418_591


def test_parameter_count_of_crossnet_on_frappe(frappe):
    assert parameter_count(DCN(DCN.Config(embedding_dim=10, num_layers=6, hidden=()), frappe)) == 55_191


def test_cross_network_equals_the_layers_of_the_paper(make, rows):
    model = make(DCN, embedding_dim=6, num_layers=4, hidden=()).double()
    torch.nn.init.normal_(model.cross.bias)
    x0 = x = model.embedding(rows).flatten(1)
    for weight, bias in zip(model.cross.weight, model.cross.bias, strict=True):
        outer = x0[:, :, None] * x[:, None, :]  # x_0 x_l^T
        x = outer @ weight + bias + x
    torch.testing.assert_close(model(rows), x @ model.output.weight[0] + model.output.bias)


def test_is_a_perceptron_where_the_cross_network_is_not_read(make, rows):
    model, dnn = make(DCN, embedding_dim=6, hidden=(8, 5)), make(DNN, embedding_dim=6, hidden=(8, 5))
    model.output.weight.data[:, :24] = 0
    dnn.load_state_dict(model.state_dict(), strict=False)  # the embeddings and the hidden layers
    dnn.mlp[-1].weight.data, dnn.mlp[-1].bias.data = model.output.weight.data[:, 24:], model.output.bias.data
    torch.testing.assert_close(model(rows), dnn(rows), rtol=1e-4, atol=1e-4)


def test_predictions_do_not_depend_on_the_batch(make, check_batch_size):
    check_batch_size(make(DCN, dropout=0.5, batch_norm=True))
