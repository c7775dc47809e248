"""SimpleX against its equations written out in numpy (float64)."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from recbench.errors import UsageError
from recbench.models.cf import simplex
from recbench.models.cf.simplex import SimpleX
from recbench.tasks.interactions import PairBatch, TopNData

N_USERS, N_ITEMS, DIM, GAMMA = 8, 12, 5, 0.7
AGGREGATORS = ["mean", "user-attention", "self-attention"]
Array = NDArray[np.float64]


@pytest.fixture
def data() -> TopNData:
    interactions = torch.rand(N_USERS, N_ITEMS, generator=torch.Generator().manual_seed(6)) < 0.5
    interactions[2], interactions[N_USERS - 1] = False, False  # users without interactions
    users, items = interactions.nonzero().T.contiguous()
    return TopNData(N_USERS, N_ITEMS, users, items)


def make(data: TopNData, **config: object) -> SimpleX:
    torch.manual_seed(3)
    values: dict[str, object] = {"embedding_dim": DIM, "gamma": GAMMA, "dropout": 0.0, "num_negatives": 4}
    model = SimpleX(SimpleX.Config(**values | config), data).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return model


def unit(x: Array) -> Array:
    rows: Array = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return rows


def cosines(model: SimpleX, data: TopNData, aggregator: str, gamma: float = GAMMA) -> Array:
    w = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    users = np.zeros((N_USERS, DIM))
    for u in range(N_USERS):
        p, v = w["user.weight"][u], w["history_item.weight"][data.items[data.users == u].numpy()]
        pooled = np.zeros(DIM)
        if len(v) and aggregator == "mean":
            pooled = v.mean(0)
        elif len(v):
            keys = np.tanh(v @ w["key.0.weight"].T + w["key.0.bias"])
            exponentials = np.exp(keys @ (p if aggregator == "user-attention" else w["query.weight"][0]))
            pooled = exponentials @ v / exponentials.sum()
        users[u] = gamma * p + (1 - gamma) * w["pooled.weight"] @ pooled
    scores: Array = unit(users) @ unit(w["item.weight"]).T
    return scores


@pytest.mark.parametrize("aggregator", AGGREGATORS)
@pytest.mark.parametrize("at_once", [3, 1024])
def test_scores_are_the_paper_s(data: TopNData, aggregator: str, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplex, "USERS_AT_ONCE", at_once)
    model = make(data, aggregator=aggregator).eval()
    model.prepare_scoring()
    users = torch.tensor([7, 0, 2, 5])
    found = model.score(data.user_batch(users)).detach()
    np.testing.assert_allclose(found, cosines(model, data, aggregator)[users], atol=1e-6)


@pytest.mark.parametrize("aggregator", AGGREGATORS)
@pytest.mark.parametrize("common", [True, False])
def test_loss_is_the_paper_s(data: TopNData, aggregator: str, common: bool) -> None:
    model = make(data, aggregator=aggregator, margin=0.2, negative_weight=7.0)
    rng = np.random.default_rng(0)
    u, i = rng.integers(0, N_USERS, 6), rng.integers(0, N_ITEMS, 6)
    j = rng.integers(0, N_ITEMS, 4 if common else (6, 4))
    s = cosines(model, data, aggregator)
    expected = np.mean(1 - s[u, i] + 7 * np.maximum(0, s[u[:, None], j] - 0.2).mean(1))
    batch = PairBatch(*(torch.from_numpy(ids) for ids in (u, i, j)))
    assert float(model.loss(batch).detach()) == pytest.approx(expected, rel=1e-6)


def test_gamma_1_is_matrix_factorisation_by_cosines(data: TopNData) -> None:
    model = make(data, gamma=1.0).eval()
    model.prepare_scoring()
    expected = unit(model.user.weight.detach().numpy()) @ unit(model.item.weight.detach().numpy()).T
    found = model.score(data.user_batch(torch.arange(N_USERS))).detach()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_attention_of_equal_logits_is_the_mean(data: TopNData) -> None:
    attention, mean = make(data, aggregator="self-attention").eval(), make(data, aggregator="mean").eval()
    with torch.no_grad():
        attention.query.weight.zero_()
    mean.load_state_dict({name: value for name, value in attention.state_dict().items() if name in mean.state_dict()})
    torch.testing.assert_close(attention.outputs(), mean.outputs())


def test_the_positive_is_in_the_history(data: TopNData) -> None:
    model = make(data)
    items, there = model.histories(data.users)
    assert bool(((items == data.items[:, None]) & there).any(1).all())


def test_long_histories_are_thinned_evenly() -> None:
    lengths = torch.tensor([0, 3, 4, 5, 9])
    users = torch.repeat_interleave(torch.arange(5), lengths)
    items = torch.cat([torch.arange(int(length)) for length in lengths])
    model = make(TopNData(5, 10, users, items), max_history=4)
    found, there = model.histories(torch.tensor([4, 3, 2, 1, 0]))
    rows = [row[mask].tolist() for row, mask in zip(found, there, strict=True)]
    assert rows == [[0, 2, 4, 6], [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2], []]


def test_dropout_falls_on_users_in_training_alone(data: TopNData) -> None:
    model = make(data, dropout=0.5)
    batch = PairBatch(data.users, data.items, torch.arange(4))
    first, second = model.scored(batch), model.scored(batch)
    assert not torch.equal(first.positive, second.positive)
    model.eval()
    assert torch.equal(model.scored(batch).positive, model.scored(batch).positive)


def test_the_learning_rate_falls_and_only_embeddings_decay(data: TopNData) -> None:
    model = make(data, learning_rate=0.01, weight_decay=1e-3, lr_drops=2)
    stages = list(model.procedure(data))
    assert [stage.steps[0].learning_rate for stage in stages] == pytest.approx([1e-2, 1e-3, 1e-4])
    assert len({stage.name for stage in stages}) == 3
    embeddings, others = stages[0].steps[0].parameters
    assert (embeddings["weight_decay"], others["weight_decay"]) == (1e-3, 0)
    assert sum(parameter.numel() for parameter in embeddings["params"]) == (N_USERS + 2 * N_ITEMS) * DIM
    names = {name for name, value in model.named_parameters() if any(value is of for of in others["params"])}
    assert names == {"pooled.weight", "key.0.weight", "key.0.bias"}


@pytest.mark.parametrize("values", [{"gamma": 1.2}, {"margin": -0.1}, {"aggregator": "sum"}, {"max_history": 0}])
def test_wrong_requests(values: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(values))):
        SimpleX.Config.parse(values, "the test")
