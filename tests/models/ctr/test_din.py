from itertools import pairwise

import pytest
import torch

from recbench.errors import UsageError
from recbench.models.base import parameter_count
from recbench.models.ctr.din import DIN, Dice
from recbench.tasks.batches import Ragged
from recbench.tasks.ctr import CTRBatch, CTRData, Field, FieldSpace, ItemTable


@pytest.fixture
def data(history_data):
    return history_data()


@pytest.fixture
def build(data, spread):
    def build(**values):
        torch.manual_seed(0)
        return spread(DIN.create(DIN.Config(embedding_dim=4, **values), data))

    return build


def test_parameter_count_of_bars():
    """5,403,522 on amazonelectronics_x1: 63,001 items and 801 categories, each with two ids more."""
    item, category = Field("item", False, 63_003, 0), Field("category", False, 803, 63_003)
    history = Field("history", True, 63_003, 0, sequence=100, vocabulary="item")
    config = DIN.Config(
        embedding_dim=64, attention_hidden=(512, 256), hidden=(1024, 512, 256), batch_norm=True, softmax=True
    )
    with torch.device("meta"):
        rows = CTRBatch(torch.empty(63_003, 2, dtype=torch.int64), {}, torch.empty(63_003, 0))
        items = ItemTable(item, FieldSpace([item, category]), rows)
        model = DIN(config, FieldSpace([item, category, history]), items)
    assert parameter_count(model) == 5_403_522


@pytest.mark.parametrize("softmax", [False, True])
def test_interest_is_the_weighted_sum_of_each_history(build, data, softmax):
    model = build(softmax=softmax)
    rows = data.all_rows()
    _, (history,) = model.histories(rows)
    interest = history.sum(model.weights([history])[0])
    starts = history.places.offsets.tolist()
    for row, (start, end) in enumerate(pairwise(starts[:21])):
        target, seen = history.target[row], history.vectors()[start:end]
        inputs = [torch.cat([target, vector, target - vector, target * vector]) for vector in seen]
        expected = torch.zeros(12)
        if inputs:
            weights = model.attention[0](torch.stack(inputs))
            expected = ((weights.softmax(0) if softmax else weights) * seen).sum(0)
        torch.testing.assert_close(interest[row], expected)
    assert 0 in rows.multi["history"].lengths[:20]


def test_softmax_is_of_each_history(build, data):
    model = build(softmax=True)
    _, (history,) = model.histories(data.all_rows())
    weights = model.weights([history])[0]
    sums = torch.zeros(len(data)).index_add(0, history.rows, weights)
    torch.testing.assert_close(sums, (history.places.lengths > 0).float())


def test_order_does_not_count(build, data):
    model = build()
    rows = data.all_rows()
    history = rows.multi["history"]
    ends = history.offsets[1:][history.rows()]
    starts = history.offsets[:-1][history.rows()]
    backwards = history.values[starts + ends - 1 - torch.arange(len(ends))]
    turned = CTRBatch(rows.ids, rows.multi | {"history": Ragged(backwards, history.offsets)}, rows.labels, rows.dense)
    assert not torch.equal(backwards, history.values)
    torch.testing.assert_close(model(turned), model(rows))


def test_each_sequence_is_read_by_the_field_whose_vocabulary_it_has(spread):
    """One of items, one of shops; that of words has ids of its own, and is pooled like any multi-valued field."""
    fields = FieldSpace(
        [
            Field("words", True, 5, 20, sequence=3),
            Field("item", False, 10, 0),
            Field("shops seen", True, 10, 10, sequence=3, vocabulary="shop"),
            Field("shop", False, 10, 10),
            Field("items seen", True, 10, 0, sequence=3, vocabulary="item"),
        ]
    )
    offsets = torch.tensor([0, 2, 3])
    multi = {
        "words": Ragged(torch.tensor([20, 21, 24]), offsets),
        "shops seen": Ragged(torch.tensor([11, 12, 13]), offsets),
        "items seen": Ragged(torch.tensor([1, 2, 3]), offsets),
    }
    rows = CTRBatch(torch.tensor([[4, 14], [5, 15]]), multi, torch.zeros(2))
    model = spread(DIN.create(DIN.Config(embedding_dim=4), CTRData(fields, rows)))
    features, (items, shops) = model.histories(rows)
    table = model.histories.embedding.weight
    assert torch.equal(items.target, table[[4, 5]])
    assert torch.equal(items.vectors(), table[[1, 2, 3]])
    assert torch.equal(shops.target, table[[14, 15]])
    assert torch.equal(shops.vectors(), table[[11, 12, 13]])
    words = torch.stack([table[[20, 21]].mean(0), table[24]])
    torch.testing.assert_close(features, torch.cat([words, items.target, shops.target], 1))
    assert model(rows).shape == (2,)


def test_dice_is_a_line_a_swish_or_between():
    torch.manual_seed(0)
    dice, x = Dice(3), torch.randn(50, 3) * 2 + 1
    normalised = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-8).sqrt()
    torch.testing.assert_close(dice(x), x * normalised.sigmoid())
    dice.alpha.data = torch.tensor([1.0, 0.25, -1.0])
    p = normalised.sigmoid()
    torch.testing.assert_close(dice(x), p * x + (1 - p) * dice.alpha * x)
    torch.testing.assert_close(dice(x)[:, 0], x[:, 0])


def test_dice_learns_its_statistics_in_training_only():
    torch.manual_seed(0)
    dice, x = Dice(2), torch.randn(5000, 2) * 3 - 1
    for _ in range(100):
        dice(x)
    state = {key: value.clone() for key, value in dice.state_dict().items()}
    torch.testing.assert_close(dice.running_mean, x.mean(0), rtol=1e-3, atol=1e-3)
    trained = dice(x)
    torch.testing.assert_close(dice.eval()(x), trained, rtol=1e-2, atol=1e-2)
    dice(x[:1])
    dice.train()(x[:1])
    assert all(torch.equal(value, state[key]) for key, value in dice.state_dict().items() if "running" not in key)
    assert dice.train()(x[:0]).shape == (0, 2)
    assert torch.isfinite(dice.running_mean).all()


def test_predictions_do_not_depend_on_the_batch(build, data, check_batch_size):
    check_batch_size(build(softmax=True, batch_norm=True), data.all_rows())


def test_explanation_is_the_mean_weight_by_position(build, data):
    model = build(softmax=True)
    model.attention[0][-1].weight.data.zero_()
    (table,) = model.explain(data).parts
    lengths = data.all_rows().multi["history"].lengths.double()
    assert table.title == "attention to history"
    assert table.columns["items back"] == ["1", "2", "3", "4", "5", "6"]
    assert table.columns["histories"] == [float((lengths >= back).sum()) for back in range(1, 7)]
    expected = [float((1 / lengths[lengths >= back]).mean()) for back in range(1, 7)]
    assert table.columns["mean weight"] == pytest.approx(expected, rel=1e-5)


def test_a_benchmark_without_histories_is_refused(fields, rows):
    with pytest.raises(UsageError, match=r"din needs a history.* none among its fields user, genres, item, zip"):
        DIN.create(DIN.Config(), CTRData(fields, rows))


def test_a_benchmark_of_several_labels_is_refused(history_data):
    with pytest.raises(UsageError, match="din learns one label"):
        DIN.create(DIN.Config(), history_data(2))
