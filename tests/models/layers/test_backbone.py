import pytest
import torch

from recbench.errors import UsageError
from recbench.models.ctr.fm import FM
from recbench.models.ctr.optfs import OptFS
from recbench.models.layers.backbone import (
    BackboneConfig,
    BackboneModel,
    embedding_parameters,
    embeddings,
    largest,
    rewind,
    snapshot,
)
from recbench.tasks.ctr import CTRBatch, CTRData, Field, FieldSpace


@pytest.fixture
def data():
    """Twenty rows of two fields with 5 and 4 ids."""
    fields = FieldSpace([Field("a", False, 5, 0), Field("b", False, 4, 5)])
    generator = torch.Generator().manual_seed(0)
    ids = torch.stack(
        [torch.randint(5, (20,), generator=generator), torch.randint(5, 9, (20,), generator=generator)], 1
    )
    return CTRData(fields, CTRBatch(ids, {}, torch.randint(2, (20,), generator=generator).float()))


def around(backbone, data, **values):
    torch.manual_seed(0)
    config = BackboneConfig.parse({"backbone": backbone, "backbone_config": values}, "the test")
    return BackboneModel.create(config, data)


def test_scores_and_learns_as_its_backbone(data):
    model = around("fm", data, embedding_dim=3, batch_size=8)
    torch.manual_seed(0)
    alone = FM(FM.Config(embedding_dim=3, batch_size=8), data.fields)
    rows = data.all_rows()
    assert torch.equal(model(rows), alone(rows))
    assert torch.equal(model.loss(rows), alone.loss(rows))


def test_own_stage_is_the_backbones(data):
    model = around("fm", data, learning_rate=0.03, epochs=7, patience=3, lr_decay=0.5, max_norm=2.0)
    stage, phase = model.own_stage(data)
    assert (stage.epochs, stage.patience, stage.lr_decay) == (7, 3, 0.5)
    assert (phase.learning_rate, phase.max_norm, phase.batches.n_samples) == (0.03, 2.0, 20)


def test_gated_tables_have_no_lazy_optimiser(data):
    config = OptFS.Config(backbone="fm", backbone_config={"optimizer": "lazy-adam"})
    with pytest.raises(UsageError, match="optfs needs optimizer 'adam', found 'lazy-adam'"):
        next(OptFS.create(config, data).procedure(data))


def test_deviations_are_the_backbones():
    assert BackboneModel.deviations(BackboneConfig(backbone="fm")) == []
    (deviation,) = BackboneModel.deviations(BackboneConfig(backbone="fm", backbone_config={"optimizer": "lazy-adam"}))
    assert deviation.startswith("optimizer lazy-adam: ")


@pytest.mark.parametrize(("name", "values"), [("optfs", {}), ("outrank", {"keep": 1})])
def test_a_procedure_of_its_own_is_no_backbone(data, name, values):
    with pytest.raises(UsageError, match=f"trained in one phase, found '{name}'"):
        around(name, data, **values).own_stage(data)


def test_backbone_is_of_the_task_of_the_data(data):
    with pytest.raises(UsageError, match="a model of the task 'ctr', found 'naivemf'"):
        around("naivemf", data)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backbone": "deepfn"}, "unknown model 'deepfn'; did you mean deepfm"),
        ({"backbone_config": {"hiden": [8]}}, "unknown key 'hiden'; did you mean hidden. .in backbone_config"),
        ({"backbone_config": {"dropout": 2}}, r"dropout.*\(in backbone_config\)"),
    ],
)
def test_wrong_backbones_are_one_sentence(values, message):
    with pytest.raises(UsageError, match=message):
        BackboneConfig.parse(values, "the command line")


def test_tables_are_counted_after_their_gates(data):
    model = around("fm", data, embedding_dim=3)
    assert embeddings(model.backbone) == [model.backbone.embedding, model.backbone.linear]
    assert embedding_parameters(model) == (9 * 4, 9 * 4)
    model.backbone.embedding.weight.data[2] = 0
    model.backbone.linear.weight.data[4:] = 0
    assert embedding_parameters(model) == (9 * 4, 9 * 4 - 3 - 5)


def test_largest_share_is_of_all_tensors_together():
    values = [torch.tensor([[1.0, -9.0], [0.0, 3.0]]), torch.tensor([-4.0, 2.0, 8.0, 0.5])]
    masks = largest(values, 0.5)
    assert masks[0].tolist() == [[False, True], [False, True]]
    assert masks[1].tolist() == [True, False, True, False]


@pytest.mark.parametrize(("share", "kept"), [(0.001, 0), (0.3, 4), (1.0, 12)])
def test_largest_share_is_exact_also_among_ties(share, kept):
    assert sum(int(mask.sum()) for mask in largest([torch.zeros(3, 2), torch.ones(6)], share)) == kept


def test_rewinds_all_but_the_selection(data):
    model = around("fm", data)
    earlier = snapshot(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    later = snapshot(model)
    rewind(model, earlier, selection=model.backbone.linear)
    expected = {**earlier, "backbone.linear.weight": later["backbone.linear.weight"]}
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert not torch.equal(earlier["backbone.linear.weight"], later["backbone.linear.weight"])
