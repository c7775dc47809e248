import pytest
import torch

from recbench.errors import UsageError
from recbench.models.base import parameter_count
from recbench.models.ctr.dnn import DNN
from recbench.models.ctr.mmoe import MMoE
from recbench.models.ctr.sharedbottom import SharedBottom

BOTH = pytest.mark.parametrize("cls", [SharedBottom, MMoE])


@pytest.fixture
def data(history_data):
    return history_data(3)


def build(cls, data, **values):
    torch.manual_seed(0)
    return cls.create(cls.Config(embedding_dim=4, hidden=(6, 5), tower=(3,), **values), data)


def test_parameter_count(data):
    # 36 ids; five fields of 4 dims; two shared layers; three towers.
    expected = 36 * 4 + (20 * 6 + 6) + (6 * 5 + 5) + 3 * (5 * 3 + 3 + 3 + 1)
    assert parameter_count(build(SharedBottom, data)) == expected


def test_with_one_task_it_is_one_perceptron(history_data, spread):
    data = history_data()
    model = spread(build(SharedBottom, data))
    single = spread(DNN.create(DNN.Config(embedding_dim=4, hidden=(6, 5, 3)), data))
    single.mlp.load_state_dict(
        dict(
            zip(
                single.mlp.state_dict(),
                [*model.bottom.state_dict().values(), *model.towers.state_dict().values()],
                strict=True,
            )
        )
    )
    torch.testing.assert_close(model(data.all_rows()), single(data.all_rows()))


@BOTH
def test_a_tasks_loss_reaches_its_own_tower_and_what_is_shared(cls, data, spread):
    for task in range(3):
        model = spread(build(cls, data, task_weights=[float(number == task) for number in range(3)], embedding_l2=0))
        model.loss(data.all_rows()).backward()
        for name, parameter in model.named_parameters():
            # A gate is a task's own too: the first axis of the gates is the task.
            gradients = parameter.grad if name == "gates" else [parameter.grad] * 3
            own = "towers" not in name or f"towers.{task}." in name
            for number, gradient in enumerate(gradients):
                reached = bool(gradient.abs().sum() > 0) if gradient is not None else False
                assert reached == (own if name != "gates" else number == task), (name, number)


@BOTH
def test_loss_is_the_weighted_sum_over_tasks(cls, data, spread):
    model = spread(build(cls, data, task_weights=(1, 0.5, 2), embedding_l2=0.1))
    rows = data.all_rows()
    losses = torch.nn.functional.binary_cross_entropy_with_logits(model(rows), rows.labels, reduction="none").mean(0)
    expected = losses[0] + 0.5 * losses[1] + 2 * losses[2] + 0.05 * model.embedding.weight.square().sum()
    torch.testing.assert_close(model.loss(rows), expected)


def test_the_sum_over_tasks_is_not_rounded_to_half_precision(data, spread):
    model = spread(build(SharedBottom, data, task_weights=(1, 0.3, 2), embedding_l2=0))
    rows = data.all_rows()
    with torch.autocast("cpu", torch.bfloat16):
        logits, loss = model(rows), model.loss(rows)
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), rows.labels, reduction="none").mean(0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, losses[0] + 0.3 * losses[1] + 2 * losses[2])


@BOTH
def test_one_label_has_no_axis_of_tasks(cls, history_data, spread):
    data = history_data()
    model = spread(build(cls, data))
    rows = data.all_rows()
    assert model(rows).shape == (200,)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(model(rows), rows.labels) + model.penalty()
    torch.testing.assert_close(model.loss(rows), expected)


@BOTH
def test_weights_of_another_number_of_tasks_are_refused(cls, data):
    with pytest.raises(UsageError, match=r"task_weights: expected 3 numbers, for click, like, share, found 2"):
        build(cls, data, task_weights=(1, 1))


@BOTH
def test_predictions_do_not_depend_on_the_batch(cls, data, spread, check_batch_size):
    check_batch_size(spread(build(cls, data)), data.all_rows())
