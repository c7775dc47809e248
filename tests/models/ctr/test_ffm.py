import itertools

import torch

from recbench.models.base import parameter_count
from recbench.models.ctr.ffm import FFM
from recbench.models.ctr.fm import FM


def test_parameter_count_on_frappe(frappe):
    assert parameter_count(FFM(FFM.Config(embedding_dim=10), frappe)) == 490_400


def test_equals_the_explicit_sum_over_pairs(make, rows):
    model = make(FFM, embedding_dim=5)
    vectors = model.embedding(rows).view(300, 4, 3, 5)
    others = {i: [j for j in range(4) if j != i] for i in range(4)}
    expected = model.bias + model.linear(rows).sum((1, 2))
    for i, j in itertools.combinations(range(4), 2):
        expected = expected + (vectors[:, i, others[i].index(j)] * vectors[:, j, others[j].index(i)]).sum(1)
    torch.testing.assert_close(model(rows), expected, rtol=1e-4, atol=1e-4)


def test_is_a_factorisation_machine_where_a_values_vectors_are_equal(make, rows):
    model, fm = make(FFM, embedding_dim=5), make(FM, embedding_dim=5)
    model.load_state_dict(fm.state_dict() | {"embedding.weight": fm.embedding.weight.repeat(1, 3)})
    torch.testing.assert_close(model(rows), fm(rows), rtol=1e-4, atol=1e-4)


def test_predictions_do_not_depend_on_the_batch(make, check_batch_size):
    check_batch_size(make(FFM))
