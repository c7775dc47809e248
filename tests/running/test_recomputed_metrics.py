"""Whoever has ``predictions.parquet`` and the test part gets the metrics of ``result.json``, without this package."""

import numpy as np
import polars as pl
import pytest
from scipy.stats import entropy
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, mean_squared_error, roc_auc_score

from recbench.data.cards import load_card
from recbench.data.files.fetch import fetch
from recbench.errors import RecbenchError
from recbench.metrics import names

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
        f"f1@{k}": 2 * sum(hits) / (k + n),
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
    accurate = {name for name in result.metrics.test if names.pattern(name) in names.LISTS and names.gap(name) is None}
    longest = max(int(name.partition("@")[2]) for name in accurate)
    for user, rows in rankings.items():
        assert rows["rank"].to_list() == list(range(1, longest + 1))
        assert (np.diff(rows["score"]) <= 0).all()
        assert rows["item"].n_unique() == longest
        for k in (10, 20, 50, 100):
            for name, value in list_metrics(rows["item"].to_list(), relevant[user], k).items():
                values.setdefault(name, []).append(value)
    for name in accurate:
        assert np.mean(values[name]) == pytest.approx(result.metrics.test[name], **TOLERANCE), name


def test_beyond_accuracy(ranked, parts_of):
    result, folder, _ = ranked
    wanted = {name.partition("@")[0] for name in result.metrics.test if names.pattern(name) in names.BEYOND}
    if not wanted:
        pytest.skip(f"{result.benchmark} measures accuracy alone")
    shared, train = parts_of(result.benchmark, "shared"), parts_of(result.benchmark, "train")
    counts = dict(zip(*np.unique(shared["item_ids"][train["items"]], return_counts=True), strict=True))
    n_users, n_items = len(np.unique(train["users"])), len(shared["item_ids"])
    predictions = pl.read_parquet(folder / "predictions.parquet").filter(pl.col("rank") <= 10)
    exposure = predictions["item"].value_counts()["count"].cast(pl.Int64).sort().to_numpy()
    exposure = np.pad(exposure, (n_items - len(exposure), 0))
    known = np.array([counts.get(item, 0) for item in predictions["item"]])
    expected = {
        "coverage": (exposure > 0).mean(),
        "gini": sum((2 * j - n_items - 1) * c for j, c in enumerate(exposure, 1)) / (n_items * exposure.sum()),
        "novelty": -np.log2(np.maximum(known, 1) / n_users).mean(),
        "popularity": (known / n_users).mean(),
    }
    for kind in wanted & set(expected):
        assert result.metrics.test[f"{kind}@10"] == pytest.approx(expected[kind], **TOLERANCE), kind
    per_user = dict(pl.read_parquet(folder / "per_user.parquet").select("user", "ndcg@10").rows())
    sizes = np.bincount(train["users"], minlength=len(shared["user_ids"]))
    quartile = np.searchsorted(np.quantile(sizes, [0.25, 0.5, 0.75]), sizes)
    groups = [[per_user[u] for u in shared["user_ids"][quartile == q] if u in per_user] for q in range(4)]
    gap = max(map(np.mean, groups)) - min(map(np.mean, groups))
    assert result.metrics.test["gap:activity:ndcg@10"] == pytest.approx(gap, **TOLERANCE)


def test_means_over_users(ranked):
    result, folder, relevant = ranked
    per_user = pl.read_parquet(folder / "per_user.parquet")
    assert set(per_user["user"]) == set(relevant)
    of_all = {"coverage@k", "gini@k", "entropy@k"}
    for name, value in result.metrics.test.items():
        if names.gap(name) is None and names.pattern(name) not in of_all:
            assert per_user[name].fill_nan(None).mean() == pytest.approx(value, **TOLERANCE), name


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
        "prauc": average_precision_score(labels, scores),
        "ne": log_loss(labels, scores) / entropy([labels.mean(), 1 - labels.mean()]),
    }
    parts = {"brier_reliability", "brier_resolution", "gauc"}
    assert {k: v for k, v in result.metrics.test.items() if k not in parts} == pytest.approx(expected, **TOLERANCE)
    murphy = result.metrics.test["brier_reliability"] - result.metrics.test["brier_resolution"]
    assert murphy + labels.mean() * (1 - labels.mean()) == pytest.approx(expected["brier"], **TOLERANCE)
    per_user = pl.read_parquet(folder / "per_user.parquet")
    raw = shared["group_ids"][part["groups"]]
    users, counts = np.unique(raw, return_counts=True)
    assert sorted(per_user["user"]) == users.tolist()
    assert dict(per_user.select("user", "rows").rows()) == dict(zip(users.tolist(), counts.tolist(), strict=True))
    both = per_user.filter(pl.col("auc").is_not_nan())
    assert (both["auc"] * both["rows"]).sum() / both["rows"].sum() == pytest.approx(result.metrics.test["gauc"])
    for user, auc in both.select("user", "auc").head(20).rows():
        assert auc == pytest.approx(roc_auc_score(labels[raw == user], scores[raw == user]), **TOLERANCE)
    mean = (per_user["logloss"] * per_user["rows"]).sum() / per_user["rows"].sum()
    assert mean == pytest.approx(expected["logloss"], **TOLERANCE)
    for name in ("auc", "logloss", "brier", "pcoc", "prauc", "ne"):
        assert per_user[f"{name}~linearised"].mean() == pytest.approx(expected[name], **TOLERANCE), name


def test_every_value_of_a_field_and_the_reliability_diagram(finished_run, parts_of):
    result, folder = finished_run("ctr/ml-100k", "lr", epochs=1)
    part = parts_of("ctr/ml-100k", "test")
    scores, labels = pl.read_parquet(folder / "predictions.parquet")["score"].to_numpy(), np.asarray(part["labels"])
    users = pl.read_csv(fetch(load_card("ml-100k"), ["ml-100k.user"])["ml-100k.user"], separator="\t")
    gender = dict(zip(users["user_id:token"].cast(pl.String), users["gender:token"], strict=True))
    of_row = np.array([gender[user] for user in parts_of("ctr/ml-100k", "shared")["group_ids"][part["groups"]]])
    table = pl.read_parquet(folder / "per_field.parquet").filter(pl.col("field") == "gender")
    assert sorted(table["value"]) == ["F", "M"]
    for row in table.to_dicts():
        mine = of_row == row["value"]
        assert (row["rows"], row["positives"]) == (mine.sum(), labels[mine].sum())
        assert row["auc"] == pytest.approx(roc_auc_score(labels[mine], scores[mine]), **TOLERANCE)
        assert row["logloss"] == pytest.approx(log_loss(labels[mine], scores[mine]), **TOLERANCE)
    diagram = pl.read_parquet(folder / "reliability.parquet")
    assert diagram["rows"].sum() == len(labels)
    error = ((diagram["prediction"] - diagram["label"]).abs() * diagram["rows"]).sum() / len(labels)
    assert error == pytest.approx(result.metrics.test["ece"], **TOLERANCE)


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
