import pytest
import torch
from torch import nn

from recbench.models.ctr.deepfm import DeepFM
from recbench.models.layers.embedding import table
from recbench.models.procedure import Phase
from recbench.training.checkpoint import Checkpoints
from recbench.training.optimizers import LazyAdam, RowwiseAdagrad, make_optimizer
from recbench.training.trainer import Trainer

N, D = 7, 3


def tables(sparse=True):
    torch.manual_seed(1)
    return nn.Embedding(N, D, sparse=sparse)


def step(embedding, optimizer, rows, scale=1.0):
    optimizer.zero_grad()
    (embedding(torch.tensor(rows)) * torch.arange(1.0, D + 1)).square().sum().mul(scale).backward()
    optimizer.step()


def test_lazy_adam_is_adam_where_every_row_is_looked_up():
    lazy, dense = tables(), tables(sparse=False)
    optimizers = LazyAdam(lazy.parameters(), 0.1, 0.0), torch.optim.Adam(dense.parameters(), 0.1)
    for number in range(5):
        for embedding, optimizer in zip((lazy, dense), optimizers, strict=True):
            step(embedding, optimizer, [*range(N), 2, 2], 1.0 + number)
    torch.testing.assert_close(lazy.weight, dense.weight)


@pytest.mark.parametrize("kind", [LazyAdam, RowwiseAdagrad])
def test_rows_that_are_not_looked_up_stay(kind):
    embedding = tables()
    optimizer = kind(embedding.parameters(), 0.1, 0.01)
    step(embedding, optimizer, list(range(N)))
    before = embedding.weight.detach().clone()
    step(embedding, optimizer, [1, 4, 4])
    moved = (embedding.weight != before).any(1)
    assert moved.tolist() == [row in (1, 4) for row in range(N)]


def test_rowwise_adagrad_divides_by_the_root_of_the_sum_of_mean_squares():
    embedding = tables()
    optimizer = RowwiseAdagrad(embedding.parameters(), 0.1, 0.0)
    expected, total = embedding.weight.detach().clone(), torch.zeros(N)
    for rows in ([0, 1], [1, 1, 3]):
        gradient = torch.zeros(N, D)
        for row in rows:
            gradient[row] += 2 * expected[row] * torch.arange(1.0, D + 1) ** 2
        total += gradient.square().mean(1)
        touched = sorted(set(rows))
        expected[touched] -= 0.1 * gradient[touched] / total[touched, None].sqrt()
        step(embedding, optimizer, rows)
    torch.testing.assert_close(embedding.weight.detach(), expected)


@pytest.mark.parametrize("kind", [LazyAdam, RowwiseAdagrad])
def test_decay_falls_on_rows_looked_up(kind):
    embedding = tables()
    before = embedding.weight.detach().clone()
    step(embedding, kind(embedding.parameters(), 0.1, 5.0), [2], scale=0.0)
    towards_zero = embedding.weight.detach().abs() < before.abs()
    assert towards_zero[2].all()
    assert not towards_zero[[0, 1, 3, 4, 5, 6]].any()


def four_steps(name, interrupted):
    embedding, layer = tables(sparse=name != "adam"), nn.Linear(D, 1)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    lazy = [embedding.weight] if name != "adam" else []
    phase = Phase("train", None, None, [embedding.weight, *layer.parameters()], 0.1, optimizer=name, sparse=lazy)
    optimizer = make_optimizer(phase)
    for number in range(4):
        if interrupted and number == 2:
            states = optimizer.state_dict()
            optimizer = make_optimizer(phase)
            optimizer.load_state_dict(states)
        optimizer.zero_grad()
        layer(embedding(torch.tensor([number, 0, 3]))).square().sum().backward()
        optimizer.step()
    return torch.cat([embedding.weight.flatten(), layer.weight.flatten()])


@pytest.mark.parametrize("name", ["adam", "lazy-adam", "rowwise-adagrad"])
def test_goes_on_from_a_saved_state(name):
    finals = [four_steps(name, interrupted) for interrupted in (False, True)]
    assert torch.equal(*finals)


@pytest.mark.parametrize("name", ["lazy-adam", "rowwise-adagrad"])
def test_a_model_learns_real_clicks_with_it(task_of, name):
    task = task_of("ctr/ml-100k")
    values = {}
    for optimizer in ("adam", name):
        torch.manual_seed(1)
        model = DeepFM.create(
            DeepFM.Config(optimizer=optimizer, embedding_l2=1e-5, epochs=2, learning_rate=5e-3), task.data
        )
        Trainer(
            model,
            task.data,
            lambda model=model: task.watch(model),
            metric="auc",
            device=torch.device("cpu"),
            seed=1,
            checkpoints=Checkpoints(None),
        ).fit()
        values[optimizer] = task.validate(model).metrics["auc"]
        gradient = table(model.embedding).grad
        assert gradient.is_sparse == (optimizer != "adam")
    assert abs(values[name] - values["adam"]) < 0.02
    assert values[name] > 0.74


def test_lazy_optimisers_are_named_as_deviations():
    assert DeepFM.deviations(DeepFM.Config()) == []
    (sentence,) = DeepFM.deviations(DeepFM.Config(optimizer="lazy-adam"))
    assert "lazy-adam" in sentence


def test_lazy_optimisers_take_no_groups():
    """Groups would be left out of training without a word."""
    embedding, layer = tables(), nn.Linear(D, 1)
    groups = [{"params": list(layer.parameters())}, embedding.weight]
    phase = Phase("train", None, None, groups, 0.1, optimizer="lazy-adam", sparse=[embedding.weight])
    with pytest.raises(TypeError, match="phase 'train': a lazy optimiser takes parameters, found groups"):
        make_optimizer(phase)
