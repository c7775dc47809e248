"""Completion of a rating matrix: it generalises on MovieLens-100K, and finds a planted low-rank world again."""

import numpy as np
import pytest

from recbench.data.cards import load_card
from recbench.data.protocols import SemiSynthetic
from recbench.data.protocols.base import index
from recbench.data.protocols.completion import complete
from recbench.data.source import Source


def rmse(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean((predicted - truth) ** 2)))


def test_predicts_held_out_ratings() -> None:
    """Biased matrix factorisation is known to reach about 0.92 on random tenths of MovieLens-100K."""
    log = Source(load_card("ml-100k")).table("interactions")
    (user_ids, users), (item_ids, items) = index(log["user"]), index(log["item"])
    ratings = log["rating"].to_numpy()
    rank, ridge = (SemiSynthetic.model_fields[name].default for name in ("rank", "ridge"))
    held_out = np.random.default_rng(0).random(len(ratings)) < 0.1
    known = ~held_out
    errors = {}
    for tried in (0, rank):
        shape = len(user_ids), len(item_ids)
        found = complete(users[known], items[known], ratings[known], shape, tried, ridge, seed=1)
        errors[tried] = rmse(found[users[held_out], items[held_out]], ratings[held_out])
    assert 0.90 < errors[rank] < 0.93
    assert errors[rank] < errors[0] - 0.01, "factors say no more than biases alone"


def test_finds_a_planted_world() -> None:
    rng = np.random.default_rng(3)
    truth = 3 + rng.normal(size=(60, 1)) + rng.normal(size=50) + rng.normal(size=(60, 2)) @ rng.normal(size=(2, 50))
    users, items = (ids.astype(np.int32) for ids in np.nonzero(rng.random(truth.shape) < 0.5))
    found = complete(users, items, truth[users, items], truth.shape, rank=2, ridge=1e-3, seed=0, sweeps=100)
    assert rmse(found, truth) < 0.01


def test_a_strong_ridge_leaves_the_mean() -> None:
    users, items = np.array([0, 0, 1], dtype=np.int32), np.array([0, 1, 1], dtype=np.int32)
    found = complete(users, items, np.array([1.0, 2.0, 6.0]), (3, 2), rank=1, ridge=1e9, seed=0)
    assert found == pytest.approx(np.full((3, 2), 3.0), abs=1e-6)


def test_a_user_without_ratings_is_predicted_as_the_items_are() -> None:
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((20, 10)) < 0.6)
    ratings = rng.integers(1, 6, len(users)).astype(float)
    found = complete(users.astype(np.int32), items.astype(np.int32), ratings, (22, 10), rank=2, ridge=5.0, seed=0)
    assert np.array_equal(found[20], found[21])
    assert np.isfinite(found).all()
    means = np.bincount(items, ratings) / np.bincount(items)
    assert np.corrcoef(found[20], means)[0, 1] > 0.7
