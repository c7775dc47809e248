import torch

from recbench.models.base import parameter_count
from recbench.models.ctr.dnn import DNN
from recbench.models.ctr.lr import LR
from recbench.models.ctr.widedeep import WideDeep


def test_parameter_count_on_frappe(frappe):
    config = WideDeep.Config(embedding_dim=10, hidden=(400, 400, 400), batch_norm=True)
    assert parameter_count(WideDeep(config, frappe)) == 423_280


def test_is_the_sum_of_a_linear_model_and_a_perceptron(make, rows):
    model, lr, dnn = make(WideDeep), make(LR), make(DNN)
    state = model.state_dict()
    lr.load_state_dict({"linear.weight": state.pop("linear.weight"), "bias": torch.tensor(0.0)})
    dnn.load_state_dict(state)
    torch.testing.assert_close(model(rows), lr(rows) + dnn(rows), rtol=1e-4, atol=1e-4)


def test_predictions_do_not_depend_on_the_batch(make, check_batch_size):
    check_batch_size(make(WideDeep, dropout=0.5, batch_norm=True))
