"""SGL: views on edge-dropped graphs, drawn before every epoch, and their contrast."""

import pytest
import torch
from pydantic import ValidationError

from recbench.models.cf.lightgcn import LightGCN
from recbench.models.cf.sgl import SGL
from recbench.models.layers.graph import info_nce
from recbench.models.procedure import Phase, Sweep
from recbench.tasks.interactions import PairBatch, TopNData

N_USERS, N_ITEMS, DIM = 20, 15, 6


@pytest.fixture
def batch() -> PairBatch:
    ids = torch.randint(N_ITEMS, (3, 8), generator=torch.Generator().manual_seed(4))
    return PairBatch(ids[0], ids[1], ids[2][:, None])


def make(data: TopNData, **config: object) -> SGL:
    torch.manual_seed(1)
    return SGL(SGL.Config(embedding_dim=DIM, **config), data)


def edges(model):
    return [
        list(zip(rows.repeat_interleave(block.offsets.diff()).tolist(), block.columns.tolist(), strict=True))
        for block in (view.graph.of_users for view in model.views)
        for rows in [torch.arange(N_USERS)]
    ]


def test_nothing_dropped_gives_lightgcn_s_outputs_as_both_views(data):
    model = make(data, edge_dropout=0.0)
    expected = model.outputs()
    tables = model.user.weight, model.item.weight
    for view in model.views:
        for rows, of_all in zip(view.everywhere(*tables), expected, strict=True):
            assert torch.equal(rows, of_all)


def test_loss_is_lightgcn_s_and_the_contrast_of_the_views(data, batch):
    model = make(data, contrast_weight=0.7, contrast_temperature=0.3, l2=0.01)
    plain = LightGCN(LightGCN.Config(embedding_dim=DIM, l2=0.01), data)
    plain.load_state_dict(model.state_dict())
    tables = model.user.weight, model.item.weight
    one, other = (view.everywhere(*tables) for view in model.views)
    contrast = sum(
        info_nce(one[kind][nodes], other[kind][nodes], nodes, 0.3)
        for kind, nodes in enumerate((batch.users, batch.positives))
    )
    torch.testing.assert_close(model.loss(batch), plain.loss(batch) + 0.7 * contrast)


def test_a_view_lacks_its_share_of_the_edges_and_has_no_others(data):
    model = make(data, edge_dropout=0.2)
    all_of_them = set(zip(data.users.tolist(), data.items.tolist(), strict=True))
    for kept in edges(model):
        assert len(kept) == len(set(kept)) == int(0.8 * len(data.users))
        assert set(kept) < all_of_them
    assert edges(model)[0] != edges(model)[1]


def test_views_are_drawn_before_every_epoch_from_the_global_generator(data):
    model = make(data)
    (stage,) = model.procedure(data)
    sweep, phase = stage.steps
    assert isinstance(sweep, Sweep)
    assert isinstance(phase, Phase)
    state = torch.get_rng_state()
    before = edges(model)
    sweep.run()
    drawn = edges(model)
    assert drawn != before
    torch.set_rng_state(state)
    sweep.run()
    assert edges(model) == drawn


def test_views_are_no_state(data):
    assert sorted(make(data).state_dict()) == ["item.weight", "user.weight"]


@pytest.mark.parametrize("wrong", [{"edge_dropout": 1.0}, {"contrast_weight": -1.0}, {"contrast_temperature": 0.0}])
def test_bad_values(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        SGL.Config(**wrong)
