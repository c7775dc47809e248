"""NeuMF against its equations written out in numpy (float64), pair by pair, and its pre-training."""

import copy
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from recbench.errors import UsageError
from recbench.models.base import parameter_count
from recbench.models.cf import neumf
from recbench.models.cf.neumf import INITIAL_STD, NeuMF
from recbench.tasks.interactions import PairBatch, TopNData
from recbench.training.checkpoint import Checkpoints
from recbench.training.trainer import Trainer

N_USERS, N_ITEMS, DIM, MLP_DIM, HIDDEN = 7, 10, 4, 6, (5, 3)
Array = NDArray[np.float64]


@pytest.fixture
def data() -> TopNData:
    interactions = torch.rand(N_USERS, N_ITEMS, generator=torch.Generator().manual_seed(4)) < 0.4
    users, items = interactions.nonzero().T.contiguous()
    return TopNData(N_USERS, N_ITEMS, users, items)


def make(data: TopNData, **config: object) -> NeuMF:
    torch.manual_seed(3)
    values: dict[str, object] = {"embedding_dim": DIM, "mlp_dim": MLP_DIM, "hidden": HIDDEN, "num_negatives": 2}
    model = NeuMF(NeuMF.Config(**values | config), data).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 2)
    return model


def logits(model: NeuMF, parts: tuple[str, ...] = ("gmf", "mlp")) -> Array:
    """Return the logits of all pairs: one pair at a time, user and item vector side by side."""
    w = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    scores = np.zeros((N_USERS, N_ITEMS))
    for u in range(N_USERS):
        for i in range(N_ITEMS):
            if "gmf" in parts:
                product = w["gmf.user.weight"][u] * w["gmf.item.weight"][i]
                scores[u, i] += w["gmf.output.weight"][0] @ product + w["gmf.output.bias"][0]
            if "mlp" in parts:
                z = np.concatenate([w["mlp.user.weight"][u], w["mlp.item.weight"][i]])
                for layer in ("mlp.first", "mlp.rest.0"):
                    z = np.maximum(w[f"{layer}.weight"] @ z + w[f"{layer}.bias"], 0)
                scores[u, i] += w["mlp.output.weight"][0] @ z + w["mlp.output.bias"][0]
    return scores


@pytest.mark.parametrize("at_once", [1, 2 * N_ITEMS * HIDDEN[0], 2**19])
def test_scores_are_the_paper_s(data: TopNData, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neumf, "HIDDEN_AT_ONCE", at_once)
    model = make(data).eval()
    model.prepare_scoring()
    users = torch.tensor([5, 0, 3, 1])
    np.testing.assert_allclose(model.score(data.user_batch(users)).detach(), logits(model)[users], atol=1e-6)


@pytest.mark.parametrize("rows", [3, 40])
@pytest.mark.parametrize("common", [True, False])
def test_loss_is_binary_cross_entropy(data: TopNData, common: bool, rows: int) -> None:
    """With few rows the vectors looked up are transformed, with many the whole tables."""
    model = make(data)
    rng = np.random.default_rng(0)
    u, i = rng.integers(0, N_USERS, rows), rng.integers(0, N_ITEMS, rows)
    j = rng.integers(0, N_ITEMS, 2 if common else (rows, 2))
    s = logits(model)
    positive, negative = s[u, i], s[u[:, None], j]
    costs = [*-np.log(1 / (1 + np.exp(-positive))), *-np.log(1 / (1 + np.exp(negative.ravel())))]
    batch = PairBatch(*(torch.from_numpy(ids) for ids in (u, i, j)))
    assert float(model.loss(batch).detach()) == pytest.approx(np.mean(costs), rel=1e-6)


def test_without_an_mlp_and_with_weights_of_one_it_is_matrix_factorisation(data: TopNData) -> None:
    model = make(data).eval()
    with torch.no_grad():
        model.gmf.output.weight.fill_(1)
        for parameter in (model.gmf.output.bias, model.mlp.output.weight, model.mlp.output.bias):
            parameter.zero_()
    model.prepare_scoring()
    found = model.score(data.user_batch(torch.arange(N_USERS)))
    torch.testing.assert_close(found, model.gmf.user.weight @ model.gmf.item.weight.T)


def test_pretraining(data: TopNData) -> None:
    """Each part alone with its own parameters and scores, then both, mixed by alpha, by gradient descent."""
    model = make(data, pretraining=True, alpha=0.3, sgd_learning_rate=0.02, learning_rate=0.01).eval()
    names, users = [], data.user_batch(torch.arange(N_USERS))
    before = copy.deepcopy(model.state_dict())
    for stage in model.procedure(data):
        (phase,) = stage.steps
        names.append((stage.name, phase.optimizer, phase.learning_rate))
        parts = (stage.name,) if stage.name != "train" else ("gmf", "mlp")
        own = {name for name, value in model.named_parameters() if any(value is of for of in phase.parameters)}
        assert own == {name for name, _ in model.named_parameters() if name.startswith(parts)}
        model.prepare_scoring()
        np.testing.assert_allclose(model.score(users).detach(), logits(model, parts), atol=1e-6)
    assert names == [("gmf", "adam", 0.01), ("mlp", "adam", 0.01), ("train", "sgd", 0.02)]
    for name, value in model.state_dict().items():
        share = {"gmf.output": 0.3, "mlp.output": 0.7}.get(name.rpartition(".")[0], 1.0)
        torch.testing.assert_close(value, share * before[name])


class KilledError(Exception):
    pass


@pytest.mark.parametrize("epochs_done", [1, 3, 5])
def test_pretraining_goes_on_where_it_was_killed(data: TopNData, epochs_done: int, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("recbench.training.checkpoint.SPACING", 0.0)

    def train(folder, stop_after: int | None = None) -> NeuMF:
        model = make(data, pretraining=True, epochs=2, batch_size=8)
        told: list[object] = []

        def on_epoch(epoch: object) -> None:
            told.append(epoch)
            if len(told) == stop_after:
                raise KilledError

        def validate() -> dict[str, float]:
            model.prepare_scoring()
            return {"auc": float(model.score(data.user_batch(torch.arange(N_USERS))).std())}

        Trainer(
            model,
            data,
            validate,
            metric="auc",
            device=torch.device("cpu"),
            seed=1,
            checkpoints=Checkpoints(folder, ""),
            on_epoch=on_epoch,
        ).fit()
        return model

    whole = train(None).state_dict()
    with pytest.raises(KilledError):
        train(tmp_path, epochs_done)
    again = train(tmp_path).state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_initial_weights(data: TopNData) -> None:
    large = TopNData(900, 900, torch.arange(900), torch.arange(900))
    for pretraining, inputs in ((False, (16, 16)), (True, (8, 8))):
        model = NeuMF(NeuMF.Config(pretraining=pretraining), large)
        for part, fan_in in zip((model.gmf, model.mlp), inputs, strict=True):
            assert float(part.user.weight.detach().std()) == pytest.approx(INITIAL_STD, rel=0.05)
            limit = math.sqrt(3 / fan_in)
            assert limit / 3 < float(part.output.weight.detach().abs().max()) <= limit
            assert not part.output.bias.detach().any()


def test_size_is_the_published_one(data: TopNData) -> None:
    model = NeuMF(NeuMF.Config(), data)
    layers = 64 * 32 + 32 + 32 * 16 + 16 + 16 * 8 + 8
    assert parameter_count(model) == (N_USERS + N_ITEMS) * (8 + 32) + layers + 2 * (8 + 1)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"alpha": 0.2}, "^alpha: expected only with pretraining = true, found pretraining = false .in the test.$"),
        ({"sgd_learning_rate": 0.1}, "^sgd_learning_rate: expected only with pretraining = true"),
        ({"alpha": 1.5, "pretraining": True}, "alpha"),
        ({"hidden": []}, "hidden"),
    ],
)
def test_wrong_requests(values: dict[str, object], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        NeuMF.Config.parse(values, "the test")
