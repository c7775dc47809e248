import itertools

import pytest
import torch

from recbench.models.base import parameter_count
from recbench.models.ctr.fm import FM
from recbench.models.ctr.fwfm import FwFM

TERMS = ["LW", "FeLV", "FiLV"]


@pytest.mark.parametrize(("term", "count"), [("LW", 59_325), ("FeLV", 107_826), ("FiLV", 54_036)])
def test_parameter_count_on_frappe(frappe, term, count):
    """FeLV's is logged; FM's 59,280 and 45 pairs; one vector for each of 10 fields."""
    assert parameter_count(FwFM(FwFM.Config(embedding_dim=10, linear_term=term), frappe)) == count


def test_is_a_factorisation_machine_where_all_pairs_weigh_one(make, rows):
    model, fm = make(FwFM, embedding_dim=6, linear_term="LW"), make(FM, embedding_dim=6)
    model.strength.weight.data.fill_(1.0)
    model.strength.bias.data.fill_(0.3)
    shared = {name: model.state_dict()[name] for name in ("embedding.weight", "linear.weight")}
    fm.load_state_dict(shared | {"bias": torch.tensor(0.3)})
    torch.testing.assert_close(model(rows), fm(rows), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("term", TERMS)
def test_equals_the_formula(make, rows, term):
    model = make(FwFM, embedding_dim=6, linear_term=term).double()
    torch.nn.init.normal_(model.strength.bias)
    e, r = model.embedding(rows), model.strength.weight[0]
    if term == "LW":
        first_order = model.linear(rows).sum((1, 2))
    else:
        v = model.linear(rows) if term == "FeLV" else model.linear.weight.view(4, 6)
        first_order = sum((e[:, i] * (v[:, i] if term == "FeLV" else v[i])).sum(1) for i in range(4))
    pairs = itertools.combinations(range(4), 2)
    second_order = sum(r[n] * (e[:, i] * e[:, j]).sum(1) for n, (i, j) in enumerate(pairs))
    torch.testing.assert_close(model(rows), model.strength.bias + first_order + second_order)


@pytest.mark.parametrize("term", TERMS)
def test_vectors_of_fields_are_not_penalised_and_those_of_values_are(make, term):
    model = make(FwFM, embedding_l2=0.02, linear_term=term)
    tables = [model.embedding.weight] + ([] if term == "FiLV" else [model.linear.weight])
    expected = 0.01 * sum(weight.double().square().sum() for weight in tables)
    torch.testing.assert_close(model.penalty().double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("term", TERMS)
def test_predictions_do_not_depend_on_the_batch(make, check_batch_size, term):
    check_batch_size(make(FwFM, linear_term=term))
