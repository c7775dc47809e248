import pytest
import torch

from recbench.models.base import parameter_count
from recbench.models.ctr.mmoe import MMoE
from recbench.models.ctr.sharedbottom import SharedBottom


@pytest.fixture
def data(history_data):
    return history_data(3)


def build(cls, data, **values):
    torch.manual_seed(0)
    return cls.create(cls.Config(embedding_dim=4, hidden=(6, 5), tower=(3,), **values), data)


def test_parameter_count(data):
    # 36 ids; two experts on five fields of 4 dims; three towers and three gates.
    expected = 36 * 4 + 2 * (20 * 6 + 6 + 6 * 5 + 5) + 3 * (5 * 3 + 3 + 3 + 1) + 3 * 2 * 20
    assert parameter_count(build(MMoE, data, num_experts=2)) == expected


def test_one_expert_is_shared_bottom(data, spread):
    model, shared = spread(build(MMoE, data, num_experts=1)), spread(build(SharedBottom, data))
    state = {name.replace("experts.0.", "bottom."): value for name, value in model.state_dict().items()}
    shared.load_state_dict({name: value for name, value in state.items() if name != "gates"})
    torch.testing.assert_close(model(data.all_rows()), shared(data.all_rows()))


def test_each_task_mixes_the_experts_by_its_own_gate(data, spread):
    model = spread(build(MMoE, data, num_experts=4))
    inputs = model.embedding(data.all_rows()).flatten(1)
    shares = model.shares(inputs)
    assert shares.shape == (200, 3, 4)
    torch.testing.assert_close(shares.sum(2), torch.ones(200, 3))
    logits = []
    for task, tower in enumerate(model.towers.towers):
        gate = (inputs @ model.gates[task].T).softmax(1)
        torch.testing.assert_close(shares[:, task], gate)
        logits.append(tower(sum(gate[:, [number]] * expert(inputs) for number, expert in enumerate(model.experts))))
    torch.testing.assert_close(model(data.all_rows()), torch.cat(logits, 1))


def test_a_gate_that_is_certain_gives_one_expert(data, spread):
    model = spread(build(MMoE, data, num_experts=3))
    inputs = model.embedding(data.all_rows()).flatten(1)
    with torch.no_grad():
        model.gates.zero_()
        model.gates[:, 1] = 1e4 * inputs[0]
    expected = [tower(model.experts[1](inputs[:1])) for tower in model.towers.towers]
    torch.testing.assert_close(model(data.all_rows())[:1], torch.cat(expected, 1))


def test_explanation_is_the_mean_gate(data, spread):
    model = spread(build(MMoE, data, num_experts=4))
    (matrix,) = model.explain(data).parts
    assert matrix.rows == ("click", "like", "share")
    assert len(matrix.columns) == 4
    expected = model.shares(model.embedding(data.all_rows()).flatten(1)).mean(0)
    torch.testing.assert_close(torch.tensor(matrix.values), expected, rtol=1e-4, atol=1e-5)
