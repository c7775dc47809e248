import torch

from recbench.models.base import parameter_count
from recbench.models.ctr.dnn import DNN


def test_parameter_count_on_frappe(frappe):
    config = DNN.Config(embedding_dim=10, hidden=(400, 400, 400), batch_norm=True)
    assert parameter_count(DNN(config, frappe)) == 417_891


def test_one_hidden_layer_written_out(make, rows):
    model = make(DNN, embedding_dim=6, hidden=(8,), dropout=0.5)
    first, last = model.mlp[0], model.mlp[-1]
    x = torch.cat(model.embedding(rows).unbind(1), 1)
    hidden = (x @ first.weight.T + first.bias).clamp(min=0)
    torch.testing.assert_close(model(rows), hidden @ last.weight[0] + last.bias, rtol=1e-4, atol=1e-4)


def test_penalty_is_on_the_whole_table_alone(make, rows):
    model, free = make(DNN, embedding_l2=0.02), make(DNN, embedding_l2=0.0)
    added = (model.loss(rows) - free.loss(rows)).double()
    torch.testing.assert_close(added, 0.01 * model.embedding.weight.double().square().sum(), rtol=1e-4, atol=1e-6)


def test_predictions_do_not_depend_on_the_batch(make, check_batch_size):
    check_batch_size(make(DNN, dropout=0.5, batch_norm=True))
