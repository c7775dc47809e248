import itertools

import pytest
import torch

from recbench.models.base import parameter_count
from recbench.models.ctr.afm import AFM
from recbench.models.ctr.fm import FM


def test_parameter_count_on_frappe(frappe):
    assert parameter_count(AFM(AFM.Config(embedding_dim=10, attention_dim=128), frappe)) == 60_826


def test_equals_the_formula(make, rows):
    model = make(AFM, embedding_dim=6, attention_dim=5).double()
    hidden = model.attention[0]
    torch.nn.init.normal_(hidden.bias)
    e = model.embedding(rows)
    products = [e[:, i] * e[:, j] for i, j in itertools.combinations(range(4), 2)]
    W, c, h = hidden.weight, hidden.bias, model.attention[-1].weight[0]
    powers = [torch.exp((product @ W.T + c).clamp(min=0) @ h) for product in products]
    pooled = (
        sum(power[:, None] * product for power, product in zip(powers, products, strict=True)) / sum(powers)[:, None]
    )
    expected = model.bias + model.linear(rows).sum((1, 2)) + pooled @ model.output.weight[0]
    torch.testing.assert_close(model(rows), expected)


def test_is_a_factorisation_machine_where_it_attends_to_all_pairs_alike(make, rows):
    """Equal scores make each weight 1 / 6, which an output of all 6 makes up for."""
    model, fm = make(AFM, embedding_dim=6), make(FM, embedding_dim=6)
    model.attention[-1].weight.data.zero_()
    model.output.weight.data.fill_(6.0)
    fm.load_state_dict({name: model.state_dict()[name] for name in fm.state_dict()})
    torch.testing.assert_close(model(rows), fm(rows), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dropout", ["dropout", "attention_dropout"])
def test_dropout_acts_in_training_only(make, rows, dropout):
    model = make(AFM, **({"dropout": 0.0} | {dropout: 0.5}))
    assert torch.equal(model(rows), model(rows))
    model.train()
    assert not torch.equal(model(rows), model(rows))


def test_predictions_do_not_depend_on_the_batch(make, check_batch_size):
    check_batch_size(make(AFM, dropout=0.5, attention_dropout=0.5))
