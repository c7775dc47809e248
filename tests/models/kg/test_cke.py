"""CKE: its parts against BPR-MF and TransR alone."""

import pytest
import torch

from recbench.models.base import parameter_count
from recbench.models.cf.bprmf import BPRMF
from recbench.models.kg.cke import CKE

DIM = 4


@pytest.fixture
def model(data):
    torch.manual_seed(0)
    return CKE(CKE.Config(embedding_dim=DIM, batch_size=6, l2=0.1, graph_l2=0.01), data)


@pytest.fixture
def batch(model, data):
    return next(model.batches(data).epoch(torch.Generator().manual_seed(0)))


@pytest.fixture
def bprmf(model, data):
    made = BPRMF(BPRMF.Config(embedding_dim=DIM, l2=0.1), data)
    made.user.load_state_dict(model.user.state_dict())
    made.item.load_state_dict(model.item.state_dict())
    return made


def test_zero_entities_score_as_bprmf(model, bprmf, data):
    users = data.user_batch(torch.arange(8))
    bprmf.prepare_scoring()
    assert not torch.allclose(model.score(users), bprmf.score(users))
    torch.nn.init.zeros_(model.entity.weight)
    assert torch.equal(model.score(users), bprmf.score(users))


def test_loss_is_that_of_bprmf_and_transr(model, bprmf, batch):
    with torch.no_grad():
        bprmf.item.weight.copy_(model.items())
    loss, penalty = model.transr.loss(model.entity.weight, batch.facts, unit=True)
    torch.testing.assert_close(model.loss(batch), bprmf.loss(batch.pairs) + loss + 0.01 * penalty)


def test_an_item_and_its_entity_share_a_number(model, data):
    users = data.user_batch(torch.arange(8))
    before = model.score(users)
    with torch.no_grad():
        model.entity.weight[2] += 1
        model.entity.weight[6:] += 1  # entities that are no items
    changed = (model.score(users) != before).any(0)
    assert changed.tolist() == [False, False, True, False, False, False]


def test_one_step_moves_interactions_and_facts(model, batch):
    model.loss(batch).backward()
    for parameter in model.parameters():
        assert parameter.grad.any()


def test_every_interaction_once_an_epoch(model, data):
    batches = list(model.batches(data).epoch(torch.Generator().manual_seed(0)))
    pairs = torch.cat([torch.stack([batch.pairs.users, batch.pairs.positives]) for batch in batches], 1)
    assert sorted(map(tuple, pairs.T.tolist())) == list(zip(data.users.tolist(), data.items.tolist(), strict=True))
    assert len(batches) == 4


def test_parameter_count(model):
    assert parameter_count(model) == (8 + 6 + 20) * DIM + 3 * (DIM + DIM * DIM)
