import pytest
import torch

from recbench.errors import UsageError
from recbench.models.base import parameter_count
from recbench.models.ctr.deepfm import DeepFM
from recbench.models.ctr.fm import FM
from recbench.models.ctr.outrank import OutRank
from recbench.models.layers.subspace import Subspace
from recbench.tasks.batches import Ragged
from recbench.tasks.ctr import CTRBatch, CTRData, Field, FieldSpace, ItemTable


@pytest.fixture
def data(fields, rows):
    """The rows with labels that follow from item and genres."""
    genres = rows.multi["genres"].lengths
    labels = ((rows.ids[:, 1] + genres) % 2).float()
    return CTRData(fields, CTRBatch(rows.ids, rows.multi, labels))


def create(data, seed=0, **values):
    torch.manual_seed(seed)
    return OutRank.create(OutRank.Config(**values), data)


def names(fields):
    return [field.name for field in fields]


def test_keeps_the_best_fields_in_their_order(data):
    model = create(data, keep=2, ranking="3mr", backbone="fm")
    assert len(model.ranking) == 4
    assert names(model.subspace.fields) == sorted(
        (each.fields[0] for each in model.ranking[:2]), key=names(data.fields).index
    )
    assert names(model.backbone.fields) == names(model.subspace.fields)


def test_is_the_backbone_on_the_data_without_the_other_fields(data, rows):
    model = create(data, keep=2, backbone_config={"embedding_dim": 3})
    model.subspace = Subspace(data.fields, {"user", "genres"})
    cut = FieldSpace([Field("user", False, 12, 0), Field("genres", True, 8, 12)])
    model.backbone = alone = DeepFM(DeepFM.Config(embedding_dim=3), cut).eval()
    torch.nn.init.normal_(alone.embedding.weight)
    part = CTRBatch(rows.ids[:, :1], rows.multi, rows.labels)
    assert torch.equal(model(rows), alone(part))
    assert torch.equal(model.loss(rows), alone.loss(part))


def test_all_fields_are_the_backbone(data, rows):
    model = create(data, keep=4, backbone="fm", backbone_config={"embedding_dim": 3})
    torch.manual_seed(0)
    alone = FM(FM.Config(embedding_dim=3), data.fields)
    assert torch.equal(model(rows), alone(rows))
    assert parameter_count(model) == parameter_count(alone)


def test_trains_on_the_kept_fields_only(data, check_batch_size):
    model = create(data, keep=1, backbone="fm", backbone_config={"batch_size": 100})
    (stage,) = model.procedure(data)
    batch = next(iter(stage.steps[0].batches.epoch(torch.Generator().manual_seed(0))))
    assert batch.ids.shape[1] + len(batch.multi) == 1
    assert len(batch) == 100
    check_batch_size(model.eval())


def test_explains_its_ranking(data):
    model = create(data, keep=3)
    explanation = model.explain(data)
    assert explanation.figures == {"fields": 4, "fields kept": 3}
    (table,) = explanation.parts
    assert table.columns["kept"] == ["yes", "yes", "yes", "no"]
    assert sorted(table.columns["field"]) == ["genres", "item", "user", "zip"]
    assert table.columns["score"] == sorted(table.columns["score"], reverse=True)


def test_refuses_to_keep_more_than_there_is(data):
    with pytest.raises(UsageError, match="keep: expected at most 4, the number of fields, found 5"):
        create(data, keep=5)


def test_subspace_of_every_kind_of_field():
    space = FieldSpace(
        [
            Field("age", False, 1, 0, dense=True),
            Field("user", False, 3, 1),
            Field("clicks", True, 4, 4, sequence=5, vocabulary="item"),
            Field("item", False, 4, 4),
            Field("views", True, 4, 4, sequence=5, vocabulary="item"),
            Field("price", False, 1, 8, dense=True),
        ]
    )
    clicks = Ragged(torch.tensor([4, 7]), torch.tensor([0, 2, 2]))
    views = Ragged(torch.tensor([6]), torch.tensor([0, 0, 1]))
    batch = CTRBatch(
        torch.tensor([[1, 5], [3, 7]]),
        {"clicks": clicks, "views": views},
        torch.zeros(2),
        torch.tensor([[0.1, 0.2], [0.3, 0.4]]),
    )
    items = ItemTable(
        space[3], FieldSpace([space[3]]), CTRBatch(torch.arange(4, 8)[:, None], {}, torch.zeros(0)), torch.ones(4, 2)
    )
    data = CTRData(space, batch, items=items)

    kept = Subspace(space, {"clicks", "item", "views", "price"}).data(data)
    assert [(field.name, field.offset, field.vocabulary) for field in kept.fields] == [
        ("clicks", 0, "item"),
        ("item", 0, None),
        ("views", 0, "item"),
        ("price", 4, None),
    ]
    rows = kept.all_rows()
    assert rows.ids.tolist() == [[1], [3]]
    assert rows.multi["clicks"].values.tolist() == [0, 3]
    torch.testing.assert_close(rows.dense, torch.tensor([[0.2], [0.4]]))
    assert kept.items.item == kept.fields[1]
    assert kept.items.rows.ids.flatten().tolist() == [0, 1, 2, 3]
    assert kept.items.vectors is items.vectors

    # Histories stay of one vocabulary without the field that owned it.
    histories = Subspace(space, {"clicks", "views"}).data(data)
    assert [(field.name, field.vocabulary) for field in histories.fields] == [("clicks", None), ("views", "clicks")]
    assert histories.items is None
    assert histories.all_rows().ids.shape == (2, 0)
    assert histories.all_rows().dense is None


def test_a_backbone_of_another_task_is_refused(data):
    with pytest.raises(UsageError, match="backbone: expected a model of the task 'ctr', found 'ipsmf'"):
        create(data, keep=2, backbone="ipsmf")


def test_without_single_valued_fields_a_batch_has_no_columns_of_ids():
    space = FieldSpace([Field("user", False, 4, 0), Field("price", False, 1, 4, dense=True)])
    rows = CTRBatch(torch.tensor([[1], [3]]), {}, torch.zeros(2), torch.tensor([[0.5], [2.0]]))
    kept = Subspace(space, {"price"}).batch(rows, space)
    assert kept.ids.shape == (2, 0)
    assert torch.equal(kept.dense, rows.dense)
