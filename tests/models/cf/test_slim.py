"""SLIM: the minimum of the elastic net over all items, by its optimality conditions and by scikit-learn."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.linear_model import ElasticNet

from recbench.errors import UsageError
from recbench.models.cf import slim
from recbench.models.cf.slim import SLIM
from recbench.tasks.batches import Ragged
from recbench.tasks.interactions import TopNData, UserBatch
from recbench.tasks.topn import TopNTask

N_USERS, N_ITEMS = 200, 150


@pytest.fixture(scope="module")
def data(task_of: Callable[[str], TopNTask]) -> TopNData:
    """A corner of MovieLens-100K, with an item that nobody has."""
    whole = task_of("topn/ml-100k").data
    kept = (whole.users < N_USERS) & (whole.items < N_ITEMS) & (whole.items != 7)
    return TopNData(N_USERS, N_ITEMS, whole.users[kept], whole.items[kept])


@pytest.fixture(scope="module")
def x(data: TopNData) -> np.ndarray:
    return data.matrix(np.float64).toarray()


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slim, "TOLERANCE", 1e-9)


def fitted(data: TopNData, **config: float) -> SLIM:
    model = SLIM(SLIM.Config(**config), data)
    model.fit(data)
    return model


def weights(model: SLIM) -> np.ndarray:
    return model.weights.matrix().toarray()


every_penalty = pytest.mark.parametrize(("alpha", "l1_ratio"), [(0.01, 1e-6), (0.1, 0.1), (0.02, 1.0)])


@pytest.mark.usefixtures("exact")
@every_penalty
def test_weights_are_those_of_scikit_learn_for_all_items(
    data: TopNData, x: np.ndarray, alpha: float, l1_ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slim, "BLOCK", 40)
    found = weights(fitted(data, alpha=alpha, l1_ratio=l1_ratio, neighbours=N_ITEMS))
    net = ElasticNet(alpha=alpha, l1_ratio=l1_ratio, positive=True, fit_intercept=False, tol=1e-9, max_iter=10_000)
    for j in range(0, N_ITEMS, 7):
        others = np.arange(N_ITEMS) != j
        np.testing.assert_allclose(found[others, j], net.fit(x[:, others], x[:, j]).coef_, atol=1e-4)


@pytest.mark.usefixtures("exact")
@every_penalty
def test_weights_meet_the_conditions_of_a_minimum(data: TopNData, x: np.ndarray, alpha: float, l1_ratio: float) -> None:
    w = weights(fitted(data, alpha=alpha, l1_ratio=l1_ratio, neighbours=N_ITEMS))
    slope = x.T @ (x @ w - x) / N_USERS + alpha * l1_ratio + alpha * (1 - l1_ratio) * w
    np.fill_diagonal(slope, 0)
    assert (w >= 0).all()
    assert not w.diagonal().any()
    assert 0.01 < (w > 0).mean() < 0.7
    assert np.abs(slope[w > 0]).max() < 1e-5
    assert slope[w == 0].min() > -1e-5


@every_penalty
def test_a_looser_tolerance_changes_little(data: TopNData, alpha: float, l1_ratio: float, x: np.ndarray) -> None:
    w = weights(fitted(data, alpha=alpha, l1_ratio=l1_ratio, neighbours=N_ITEMS))
    slope = x.T @ (x @ w - x) / N_USERS + alpha * l1_ratio + alpha * (1 - l1_ratio) * w
    assert np.abs(slope[w > 0]).max() < 1e-3


def test_the_largest_weights_of_every_item_are_kept(data: TopNData) -> None:
    every = weights(fitted(data, neighbours=N_ITEMS))
    model = fitted(data, neighbours=5)
    smallest_kept = np.sort(every, axis=0)[-5]
    np.testing.assert_array_equal(weights(model), np.where(every >= smallest_kept, every, 0))
    assert sum(buffer.numel() for buffer in model.buffers()) == N_ITEMS * 5 * 2 + N_ITEMS + 1


def test_scores_rows_of_users_never_seen(data: TopNData) -> None:
    model = fitted(data)
    w = weights(model)
    strangers = UserBatch(
        torch.tensor([10**6, 10**6 + 1]), Ragged(torch.tensor([2, 5]), torch.tensor([0, 0, 2])), N_ITEMS
    )
    np.testing.assert_allclose(model.score(strangers).numpy(), [np.zeros(N_ITEMS), w[2] + w[5]], atol=1e-6)


def test_an_item_that_nobody_has_gets_and_gives_no_weight(data: TopNData) -> None:
    w = weights(fitted(data))
    assert not w[7].any()
    assert not w[:, 7].any()


@pytest.mark.parametrize("value", [0.0, 1.1])
def test_the_share_of_the_l1_penalty_is_one(value: float) -> None:
    with pytest.raises(UsageError, match=r"l1_ratio: .*found"):
        SLIM.Config.parse({"l1_ratio": value}, "the test")


def test_unfinished_weights_are_told_in_one_sentence(
    data: TopNData, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    fitted(data)
    assert not caplog.messages
    monkeypatch.setattr(slim, "SWEEPS", 1)
    fitted(data, alpha=1e-4)
    (message,) = caplog.messages
    assert message.startswith("slim: the weights of ")
    assert message.endswith("after 1 sweeps; raise alpha")
    assert not recwarn.list
