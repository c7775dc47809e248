import pytest
import torch

from recbench.errors import UsageError
from recbench.models.base import parameter_count
from recbench.models.ctr.mcmlcc import MCMLCC
from recbench.models.ctr.mlcc import MLCC
from recbench.tasks.ctr import CTRData, Field, FieldSpace


@pytest.mark.parametrize(
    ("n_fields", "dynamic", "expected"),
    [
        pytest.param(39, (4, 1), [486_853, 667_813, 848_773], id="Criteo"),
        pytest.param(22, (4, 1), [293_254, 395_334, 497_414], id="Avazu"),
        pytest.param(17, (2, 1), [160_234, 201_034, 241_834], id="TaobaoAds"),
    ],
)
def test_parameter_counts_of_the_released_configurations(n_fields, dynamic, expected):
    """With 2, 3 and 4 channels: the growth is linear."""
    fields = FieldSpace(Field(str(n), False, 2, 2 * n) for n in range(n_fields))
    counts = []
    for channels in (2, 3, 4):
        model = MCMLCC(MCMLCC.Config(channels=channels, dynamic=dynamic), fields)
        counts.append(parameter_count(model) - fields.n_ids * 16 * channels)
    assert counts == expected
    assert counts[2] - counts[1] == counts[1] - counts[0]


@pytest.mark.parametrize("channel", [0, 2])
def test_channels_are_crossed_apart(make, rows, channel):
    model = make(MCMLCC, channels=3, embedding_dim=4)
    embeddings = model.embedding(rows)
    perturbed = embeddings.clone()
    perturbed[:, :, 4 * channel : 4 * channel + 4] += 1
    before, after = model.collect(embeddings), model.collect(perturbed)
    changed = (before != after).any(1).any(0)
    crossed = 4 * (4 + 1)
    expected = torch.zeros(3 * crossed + 12, dtype=torch.bool)
    expected[channel * crossed : (channel + 1) * crossed] = True
    expected[3 * crossed + 4 * channel : 3 * crossed + 4 * channel + 4] = True
    assert torch.equal(changed, expected)


def test_each_channel_is_crossed_as_a_single_one_is(make, rows):
    model, single = make(MCMLCC, channels=2, embedding_dim=4), make(MLCC, embedding_dim=4)
    embeddings = model.embedding(rows)
    single.crossing.compression.data = model.crossing.compression.data[1:]
    torch.testing.assert_close(model.collect(embeddings)[:, :, 20:40], single.collect(embeddings[:, :, 4:])[:, :, :20])


@pytest.mark.parametrize("channels", [1, 0])
def test_rejects_fewer_than_two_channels(channels):
    with pytest.raises(UsageError, match="channels"):
        MCMLCC.Config.parse({"channels": channels}, "the test")


def test_explains_its_sizes(make, rows, fields):
    model = make(MCMLCC, channels=3)
    explanation = model.explain(CTRData(fields, rows))
    assert explanation.figures["channels"] == 3
    assert sum(explanation.parts[0].columns["parameters"]) == parameter_count(model)


def test_predictions_do_not_depend_on_the_batch(make, check_batch_size):
    check_batch_size(make(MCMLCC, embedding_dim=4))
