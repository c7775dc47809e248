"""Whoever has ``predictions.parquet`` and the test part gets the metrics of ``result.json``, without this package."""

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import brier_score_loss, log_loss, mean_squared_error, roc_auc_score

from recbench.errors import RecbenchError

TOLERANCE = {"abs": 1e-6, "rel": 0}


@pytest.fixture(params=["topn/ml-100k ease", "kg/ml-100k popularity", "topn/ml-1m-strong ease"])
def ranked(request, finished_run, parts_of):
    """Return a ranking run's result, its tables, and each user's relevant items."""
    benchmark, model = request.param.split()
    try:
        result, folder = finished_run(benchmark, model)
    except RecbenchError as error:
        if "cannot get" in str(error):
            pytest.skip(f"no files for {benchmark}: set RECBENCH_MIRROR")
        raise
    shared, test = parts_of(benchmark, "shared"), parts_of(benchmark, "test")
    relevant: dict[str, set[str]] = {}
    for user, item in zip(shared["user_ids"][test["users"]], shared["item_ids"][test["items"]], strict=True):
        relevant.setdefault(user, set()).add(item)
    return result, folder, relevant


def list_metrics(ranking: list[str], relevant: set[str], k: int) -> dict[str, float]:
    hits = [item in relevant for item in ranking[:k]]
    n = len(relevant)
    gain = sum(hit / np.log2(rank + 2) for rank, hit in enumerate(hits))
    ideal = sum(1 / np.log2(rank + 2) for rank in range(min(k, n)))
    precisions = [sum(hits[: rank + 1]) / (rank + 1) for rank in range(len(hits)) if hits[rank]]
    return {
        f"ndcg@{k}": gain / ideal,
        f"recall@{k}": sum(hits) / n,
        f"recall_min@{k}": sum(hits) / min(k, n),
        f"precision@{k}": sum(hits) / k,
        f"hit@{k}": float(any(hits)),
        f"mrr@{k}": 1 / (hits.index(True) + 1) if any(hits) else 0.0,
        f"map@{k}": sum(precisions) / min(k, n),
    }


def test_ranking(ranked):
    result, folder, relevant = ranked
    predictions = pl.read_parquet(folder / "predictions.parquet")
    assert predictions.columns == ["user", "item", "rank", "score"]
    rankings = {user: rows.sort("rank") for (user,), rows in predictions.group_by("user")}
    assert set(rankings) == set(relevant)
    values: dict[str, list[float]] = {}
    longest = max(int(name.partition("@")[2]) for name in result.metrics.test)
    for user, rows in rankings.items():
        assert rows["rank"].to_list() == list(range(1, longest + 1))
        assert (np.diff(rows["score"]) <= 0).all()
        assert rows["item"].n_unique() == longest
        for k in (10, 20, 50, 100):
            for name, value in list_metrics(rows["item"].to_list(), relevant[user], k).items():
                values.setdefault(name, []).append(value)
    for name, value in result.metrics.test.items():
        assert np.mean(values[name]) == pytest.approx(value, **TOLERANCE), name


def test_means_over_users(ranked):
    result, folder, relevant = ranked
    per_user = pl.read_parquet(folder / "per_user.parquet")
    assert set(per_user["user"]) == set(relevant)
    for name, value in result.metrics.test.items():
        assert per_user[name].mean() == pytest.approx(value, **TOLERANCE), name


def test_click_through_rate(finished_run, parts_of):
    result, folder = finished_run("ctr/ml-100k", "lr", epochs=1)
    part, shared = parts_of("ctr/ml-100k", "test"), parts_of("ctr/ml-100k", "shared")
    predictions = pl.read_parquet(folder / "predictions.parquet")
    assert predictions.columns == ["row", "score"]
    assert predictions["row"].to_list() == list(range(len(part["labels"])))
    scores, labels = predictions["score"].to_numpy(), np.asarray(part["labels"])
    order = scores.argsort()
    bins = np.array_split(order, np.arange(1, 20) * len(order) // 20)
    errors = [abs(scores[rows].mean() - labels[rows].mean()) * len(rows) / len(order) for rows in bins]
    expected = {
        "auc": roc_auc_score(labels, scores),
        "logloss": log_loss(labels, scores),
        "brier": brier_score_loss(labels, scores),
        "ece": sum(errors),
        "pcoc": scores.sum() / labels.sum(),
    }
    assert result.metrics.test == pytest.approx(expected, **TOLERANCE)
    per_user = pl.read_parquet(folder / "per_user.parquet")
    users, counts = np.unique(shared["group_ids"][part["groups"]], return_counts=True)
    assert per_user["user"].to_list() == users.tolist()
    assert (per_user["logloss"] * counts).sum() / counts.sum() == pytest.approx(expected["logloss"], **TOLERANCE)


def test_rating(finished_run, parts_of):
    benchmark = "rating/ml-100k-semisynthetic"
    result, folder = finished_run(benchmark, "naivemf", epochs=2)
    part, shared = parts_of(benchmark, "test"), parts_of(benchmark, "shared")
    predictions = pl.read_parquet(folder / "predictions.parquet")
    assert predictions.columns == ["user", "item", "score"]
    users = shared["user_ids"][part["users"]]
    assert predictions["user"].to_list() == users.tolist()
    assert predictions["item"].to_list() == shared["item_ids"][part["items"]].tolist()
    scores, labels = predictions["score"].to_numpy(), np.asarray(part["labels"], dtype=float)
    expected = {
        "auc": roc_auc_score(labels, scores),
        "mse": mean_squared_error(labels, scores),
        "logloss": log_loss(labels, scores),
    }
    per_user = pl.read_parquet(folder / "per_user.parquet")
    for k in (5, 10):
        values = {}
        for user in np.unique(users):
            mine = users == user
            ordered, best = labels[mine][np.argsort(-scores[mine])][:k], np.sort(labels[mine])[::-1][:k]
            discount = 1 / np.log2(np.arange(2, len(best) + 2))
            values[user] = ordered @ discount / (best @ discount) if best.any() else np.nan
        expected[f"ndcg@{k}"] = np.nanmean(list(values.values()))
        stored = dict(per_user.select("user", f"ndcg@{k}").rows())
        assert stored == pytest.approx(values, **TOLERANCE, nan_ok=True)
    assert result.metrics.test == pytest.approx(expected, **TOLERANCE)
    without = sum(not labels[users == user].any() for user in np.unique(users))
    assert result.diagnostics["users_without_truth"] == without
