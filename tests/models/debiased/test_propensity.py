"""Propensities against hand counts, the equations that define them, and a world where they are known."""

from typing import Any

import numpy as np
import pytest
import torch

from recbench.errors import UsageError
from recbench.models.layers.propensity import Propensities, PropensityConfig, known, logistic, naive_bayes
from recbench.tasks.rating import RatingBatch, RatingData


def rating_data(observed: np.ndarray, labels: np.ndarray, positive_share: float = 0.3, **given: Any) -> RatingData:
    """Ratings of the observed pairs of a 0/1 matrix (U, I)."""
    users, items = (torch.from_numpy(ids) for ids in np.nonzero(observed))
    values = torch.tensor(labels[observed.astype(bool)], dtype=torch.float32)
    return RatingData(*observed.shape, users, items, values, given.get("propensities"), positive_share)


@pytest.fixture
def data() -> RatingData:
    rng = np.random.default_rng(4)
    observed, labels = rng.random((2, 30, 40))
    return rating_data(observed < 0.2, labels < 0.6, propensities=torch.from_numpy(rng.random((30, 40))).float())


def batch_of(data: RatingData, rows: slice) -> RatingBatch:
    none = torch.zeros(0, dtype=torch.long)
    return RatingBatch(data.users[rows], data.items[rows], data.labels[rows], none, none)


def test_naive_bayes_by_hand() -> None:
    """4 of 10 pairs observed, 3 of them positive; 30 % of all are: P(o|1) = .75 * .4 / .3, P(o|0) = .25 * .4 / .7."""
    observed = np.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    labels = np.array([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]])
    found = naive_bayes(rating_data(observed, labels, positive_share=0.3))
    assert found.tolist() == pytest.approx([0.25 * 0.4 / 0.7, 1.0])


@pytest.mark.parametrize("positive_share", [0.2, 0.5])
def test_naive_bayes_weights_sum_to_the_number_of_pairs(data: RatingData, positive_share: float) -> None:
    data.positive_share = positive_share
    propensities = Propensities(PropensityConfig(clip=0.0), data)(batch_of(data, slice(None)))
    assert float((1 / propensities).sum()) == pytest.approx(30 * 40, rel=1e-5)


def test_logistic_recovers_a_rasch_world() -> None:
    rng = np.random.default_rng(0)
    users, items = rng.normal(0, 0.7, 400), rng.normal(0, 1, 300)
    truth = 1 / (1 + np.exp(2 - users[:, None] - items))
    observed = rng.random(truth.shape) < truth
    found = logistic(rating_data(observed, observed)).double().numpy()
    logits = np.log(found / (1 - found))
    # The standard error of a user's bias is about 1 / sqrt(sum_i p (1 - p)) = .17; .24 with an item's.
    error = logits - np.log(truth / (1 - truth))
    assert np.sqrt((error**2).mean()) < 0.27
    assert abs(error.mean()) < 0.02


def test_logistic_reproduces_how_often_users_and_items_are_observed(data: RatingData) -> None:
    """The likelihood's equations: expected counts are the observed ones but for the (weak) ridge; in all exactly."""
    found, observed = logistic(data), data.observed()
    for axis in (0, 1):
        assert torch.allclose(found.sum(axis), observed.sum(axis), atol=0.15)
    assert float(found.sum()) == pytest.approx(float(observed.sum()), abs=0.01)


def test_logistic_knows_nothing_else_than_the_counts() -> None:
    observed = np.kron(np.eye(5), np.ones((4, 3)))
    assert torch.allclose(logistic(rating_data(observed, observed)), torch.tensor(0.2), atol=1e-4)


def test_logistic_is_finite_for_a_user_without_ratings() -> None:
    observed = np.ones((6, 5))
    observed[0] = 0
    observed[1, 0] = 0
    found = logistic(rating_data(observed, observed))
    assert bool(((found > 0) & (found < 1)).all())
    assert float(found[0].mean()) < 0.2 < float(found[2].mean())


@pytest.mark.parametrize("method", ["naive-bayes", "logistic", "known"])
def test_lookup_and_clipping(data: RatingData, method: str) -> None:
    config = PropensityConfig.parse({"propensity": method, "clip": 0.25}, "the test")
    rows = slice(3, 50)
    batch = batch_of(data, rows)
    if method == "naive-bayes":
        expected = naive_bayes(data)[batch.labels.long()]
    else:
        expected = (logistic(data) if method == "logistic" else known(data))[batch.users, batch.items]
    assert torch.equal(Propensities(config, data)(batch), expected.clamp(min=0.25))
    assert bool((expected < 0.25).any())


def test_known_ones_must_be_published(data: RatingData) -> None:
    data.propensities = None
    with pytest.raises(UsageError, match="propensity=known: this data set publishes no propensities"):
        Propensities(PropensityConfig(propensity="known"), data)


def test_they_are_made_anew_and_not_saved(data: RatingData) -> None:
    assert Propensities(PropensityConfig(), data).state_dict() == {}
