"""SimGCL: its mean without layer 0, its views, its contrast."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from recbench.models.cf.lightgcn import LightGCN
from recbench.models.cf.simgcl import SimGCL
from recbench.models.layers.graph import LayerMean, info_nce
from recbench.tasks.interactions import PairBatch, TopNData

N_USERS, N_ITEMS, DIM = 20, 15, 6


@pytest.fixture
def batch() -> PairBatch:
    ids = torch.randint(N_ITEMS, (3, 8), generator=torch.Generator().manual_seed(4))
    return PairBatch(ids[0], ids[1], ids[2][:, None])


def make(data: TopNData, **config: object) -> SimGCL:
    torch.manual_seed(1)
    return SimGCL(SimGCL.Config(embedding_dim=DIM, **config), data)


def test_scores_leave_layer_0_out(data):
    model = make(data, n_layers=2)
    matrix = data.matrix(np.float64).toarray()
    normalised = matrix / np.sqrt(np.outer(matrix.sum(1), matrix.sum(0)))
    users, items = (embedding.weight.detach().double().numpy() for embedding in (model.user, model.item))
    first = normalised @ items, normalised.T @ users
    second = normalised @ first[1], normalised.T @ first[0]
    model.prepare_scoring()
    scores = model.score(data.user_batch(torch.arange(N_USERS)))
    np.testing.assert_allclose(scores, (first[0] + second[0]) @ (first[1] + second[1]).T / 4, atol=1e-6)


def test_without_noise_the_contrast_is_of_identical_views(data, batch):
    model = make(data, noise=0.0, contrast_weight=0.7, contrast_temperature=0.3, l2=0.01)
    users, items = model.outputs()
    u, i = batch.users, batch.positives
    contrast = info_nce(users[u], users[u], u, 0.3) + info_nce(items[i], items[i], i, 0.3)
    plain = make(data, noise=0.0, contrast_weight=0.0, l2=0.01)
    torch.testing.assert_close(model.loss(batch), plain.loss(batch) + 0.7 * contrast)


def test_without_a_contrast_it_is_lightgcn_less_layer_0(data, batch):
    model = make(data, contrast_weight=0.0, n_layers=2, l2=0.01)
    plain = LightGCN(LightGCN.Config(embedding_dim=DIM, n_layers=2, l2=0.01), data)
    plain.load_state_dict(model.state_dict())
    plain.mean = LayerMean(plain.mean.graph, 2, with_first=False)
    torch.testing.assert_close(model.loss(batch), plain.loss(batch))
    gradients = [torch.autograd.grad(one.loss(batch), list(one.parameters())) for one in (model, plain)]
    torch.testing.assert_close(*gradients)


def test_views_of_one_layer_differ_from_the_mean_by_the_noise(data):
    """Of the given length, in the orthant of the vector, another one in each view."""
    model = make(data, n_layers=1, noise=0.2)
    nodes = torch.arange(N_USERS), torch.arange(N_ITEMS)
    looked_up = model.mean.at((model.user.weight, model.item.weight), *nodes)[2:]
    for kind in (0, 1):
        mean, *views = (rows.detach() for rows in looked_up[kind::2])
        for view in views:
            torch.testing.assert_close((view - mean).norm(dim=1), torch.full((len(mean),), 0.2))
            assert torch.equal((view - mean).sign(), mean.sign())
        assert not torch.allclose(*views)


def test_scoring_has_no_noise(data):
    model = make(data).eval()
    everyone = data.user_batch(torch.arange(N_USERS))
    scores = []
    for _ in range(2):
        model.prepare_scoring()
        scores.append(model.score(everyone))
    assert torch.equal(*scores)


@pytest.mark.parametrize("wrong", [{"n_layers": 0}, {"noise": -0.1}, {"contrast_temperature": 0.0}])
def test_bad_values(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        SimGCL.Config(**wrong)
