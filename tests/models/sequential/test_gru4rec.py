"""GRU4Rec: its equations in numpy, what a state depends on, and its losses."""

import numpy as np
import pytest
import torch

from recbench.models.layers.losses import BPRMax
from recbench.models.sequential import gru4rec
from recbench.models.sequential.gru4rec import GRU4Rec
from recbench.tasks.interactions import PairBatch
from recbench.tasks.samplers import make_sampler

ROWS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3], [7]]


def make(data, **config):
    torch.manual_seed(0)
    settings = {"embedding_dim": 6, "max_length": 6, "dropout": 0.0, "embedding_dropout": 0.0, "num_negatives": 7}
    model = GRU4Rec(GRU4Rec.Config(**(settings | config)), data).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.normal_(std=0.3)
    return model


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def expected_states(model, row):
    x = model.item.weight.detach().numpy()[row]
    for layer in model.layers:
        weights = {name: value.detach().numpy() for name, value in layer.named_parameters()}
        h, states = np.zeros(x.shape[1]), []
        for step in x:
            of_input = np.split(weights["weight_ih_l0"] @ step + weights["bias_ih_l0"], 3)
            of_state = np.split(weights["weight_hh_l0"] @ h + weights["bias_hh_l0"], 3)
            reset, update = (sigmoid(of_input[gate] + of_state[gate]) for gate in (0, 1))
            h = (1 - update) * np.tanh(of_input[2] + reset * of_state[2]) + update * h
            states.append(h)
        x = np.stack(states)
    return x


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("rows_at_once", [1, 2, 32])
def test_states_are_the_paper_s(data, make_sequences, monkeypatch, layers, rows_at_once):
    monkeypatch.setattr(gru4rec, "SEQUENCES_AT_ONCE", {"cpu": rows_at_once})
    model = make(data, layers=layers)
    found = model.states(make_sequences(ROWS)).detach().numpy()
    expected = np.concatenate([expected_states(model, row) for row in ROWS])
    np.testing.assert_allclose(found[:, :-1], expected, atol=1e-9)
    assert (found[:, -1] == 1).all()


def test_a_state_knows_nothing_of_what_comes_later(data, make_sequences):
    model = make(data)
    changed = [[3, 1, 4, 8, 0], *ROWS[1:]]
    before, after = (model.states(make_sequences(rows)) for rows in (ROWS, changed))
    assert torch.equal(before[:3], after[:3])
    assert not torch.isclose(before[3:5, :-1], after[3:5, :-1]).all(1).any()
    assert torch.equal(before[5:], after[5:])


def test_scores_have_the_items_biases(data, make_batch):
    model = make(data).eval()
    rows = [[5, 3], [0, 8, 3, 1, 4, 1, 5, 9, 2]]
    table, bias = model.item.weight.detach().numpy(), model.bias.detach().numpy()
    expected = np.stack([expected_states(model, row[-6:])[-1] @ table.T + bias for row in rows])
    np.testing.assert_allclose(model.score(make_batch(rows)).detach().numpy(), expected, atol=1e-9)


def test_the_loss_is_corrected_for_popularity(data):
    model = make(data, popularity_exponent=0.5)
    batch = next(model.batches(data).epoch(torch.Generator().manual_seed(0)))
    counts = np.bincount(data.items, minlength=data.n_items) ** 0.5
    log_expected = np.log(7 * counts / counts.sum())
    logits = (model.states(batch.sequences) @ model.item_vectors().T).detach().numpy()
    drawn = batch.negatives.numpy()
    expected = []
    for row, positive in zip(logits, batch.positives.numpy(), strict=True):
        others = [row[item] - log_expected[item] for item in drawn if item != positive]
        expected.append(np.log(np.exp([row[positive], *others]).sum()) - row[positive])
    assert drawn.shape == (7,)
    assert float(model.loss(batch).detach()) == pytest.approx(np.mean(expected), rel=1e-6)


def test_bpr_max_is_the_paper_s():
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(size=5) * 2, rng.normal(size=(5, 4)) * 2
    mask = rng.random((5, 4)) < 0.8
    expected = []
    for of_positive, row, kept in zip(positive, negative, mask, strict=True):
        r = of_positive if of_positive > 0 else np.expm1(of_positive)
        s = np.where(row > 0, row, np.expm1(row))[kept]
        w = np.exp(s) / np.exp(s).sum()
        expected.append(-np.log((w * sigmoid(r - s)).sum()) + 0.9 * (w * s**2).sum())
    batch = PairBatch(torch.zeros(5), torch.zeros(5), torch.zeros(5, 4), mask=torch.from_numpy(mask))
    found = BPRMax(0.9)(torch.from_numpy(positive), torch.from_numpy(negative), batch)
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-9)


def test_bpr_max_against_one_item_is_bpr():
    positive, negative = torch.randn(6).abs(), torch.randn(6, 1).abs()  # which the linear unit leaves alone
    found = BPRMax(0.0)(positive, negative, PairBatch(positive, positive, negative))
    torch.testing.assert_close(found, torch.nn.functional.softplus(negative[:, 0] - positive).mean())


def test_the_shared_sample_is_drawn_by_popularity(cycles):
    sampler = make_sampler("shared-popularity", cycles, 200_000, exponent=2.0)
    users = positives = torch.tensor([0, 7])
    drawn = sampler.draw(users, positives, torch.Generator().manual_seed(0))
    counts = np.bincount(cycles.items, minlength=30) ** 2.0
    found = np.bincount(drawn.items, minlength=30)
    expected = 200_000 * counts / counts.sum()
    assert np.abs((found - expected) / np.sqrt(expected)).max() < 5
    np.testing.assert_allclose(drawn.log_counts.exp(), expected[drawn.items], rtol=1e-5)
    assert torch.equal(drawn.mask, drawn.items != positives[:, None])


@pytest.mark.parametrize("config", [{}, {"loss": "bpr-max", "negative_penalty": 0.5}], ids=str)
def test_learns_which_item_follows_which(learns_the_cycle, cycles, config):
    torch.manual_seed(0)
    settings = {"embedding_dim": 16, "max_length": 20, "batch_size": 50, "num_negatives": 30} | config
    assert learns_the_cycle(GRU4Rec(GRU4Rec.Config(**settings), cycles), 12) > 0.8
