import itertools

import torch

from recbench.models.base import parameter_count
from recbench.models.ctr.fm import FM
from recbench.models.ctr.lr import LR


def test_equals_the_explicit_sum_over_pairs(make, rows):
    model = make(FM, embedding_dim=6)
    embeddings, weights = model.embedding(rows), model.linear(rows)
    pairs = itertools.combinations(range(4), 2)
    expected = model.bias + weights.sum((1, 2)) + sum((embeddings[:, i] * embeddings[:, j]).sum(1) for i, j in pairs)
    torch.testing.assert_close(model(rows), expected, rtol=1e-4, atol=1e-4)


def test_without_embeddings_it_is_logistic_regression(make, rows):
    fm, lr = make(FM), make(LR)
    fm.embedding.weight.data.zero_()
    lr.load_state_dict({name: value for name, value in fm.state_dict().items() if name != "embedding.weight"})
    assert torch.equal(fm(rows), lr(rows))


def test_parameter_count_on_frappe(frappe):
    assert parameter_count(FM(FM.Config(embedding_dim=10), frappe)) == 59_280


def test_predictions_do_not_depend_on_the_batch(make, check_batch_size):
    check_batch_size(make(FM))
