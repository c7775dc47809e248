"""Cases at the edge, end to end through tasks: what is not defined, not there or not usable is never silent."""

import logging
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from recbench.errors import RecbenchError, UsageError
from recbench.tasks import attributes
from recbench.tasks.base import Development, load_benchmark
from recbench.tasks.topn import TopNTask

RANKING, CTR, RATING = "topn/ml-100k", "ctr/ml-100k", "rating/ml-100k-semisynthetic"
# Raw ids of MovieLens-100K: its users 1, 4 and 7 are men, 2 and 5 women.
USERS, ITEMS = ["1", "2", "4", "5", "7", "nobody"], ["1", "50", "98", "267", "nothing"]
CPU = torch.device("cpu")


class Scores:
    """A model that is a table of scores (U, I)."""

    def __init__(self, table):
        self.table = table

    def prepare_scoring(self):
        pass

    def score(self, batch):
        return self.table[batch.users]


def part(*pairs):
    users, items = np.array(pairs, dtype=np.int32).reshape(-1, 2).T
    return {"users": users, "items": items}


TRAIN = part((0, 0), (1, 0), (1, 1), (2, 2), (3, 0), (3, 1), (3, 2))
TEST = part((0, 1), (0, 3), (1, 2), (2, 0), (3, 3), (3, 4), (5, 1))
"""User 4 has no test item; of user 3 every candidate is relevant; user 5 has no training item."""


def small(metrics, *, users=USERS, items=ITEMS, train=TRAIN, fold_in=False, **changes):
    benchmark = load_benchmark(RANKING).model_copy(
        update={"metrics": tuple(metrics), "primary_metric": metrics[0]} | changes
    )
    shared = {"user_ids": np.array(users), "item_ids": np.array(items)}
    meta = {"n_users": len(users), "n_items": len(items), "fold_in": fold_in}
    return TopNTask(benchmark, Development(shared, train, part(), meta, "", pl.Series), CPU)


def falling():
    """Scores by which everybody likes item 0 best, then item 1, and so on."""
    return -torch.arange(float(len(ITEMS))).repeat(len(USERS), 1)


def per_user(evaluation):
    return {row["user"]: row for row in evaluation.tables().per_user.to_dicts()}


def test_users_without_test_items_are_not_judged_and_counted():
    evaluation = small(["ndcg@2", "uauc"]).evaluate(Scores(falling()), TEST)
    assert list(per_user(evaluation)) == ["1", "2", "4", "5", "nobody"]
    assert evaluation.diagnostics["users_without_truth"] == 1
    assert "7" not in evaluation.tables().predictions["user"]


def test_fewer_candidates_than_k_make_short_lists():
    """No user has more than five candidates; k is larger than the number of items, too."""
    evaluation = small(["recall@1000", "precision@1000", "ndcg@2"]).evaluate(Scores(falling()), TEST)
    assert evaluation.diagnostics["short_lists"] == 5
    assert evaluation.metrics["recall@1000"] == 1.0
    values = per_user(evaluation)
    assert values["1"]["precision@1000"] == pytest.approx(2 / 1000)
    predictions = evaluation.tables().predictions
    listed = predictions.group_by("user", maintain_order=True).agg("item", "rank")
    assert listed["item"].to_list()[0] == ["50", "98", "267", "nothing"]
    assert listed["rank"].list.len().to_list() == [4, 3, 4, 2, 5]
    assert predictions["score"].is_finite().all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_score_that_is_nan_or_infinite_is_refused(value, dtype):
    table = falling().to(dtype)
    table[2, 4] = value
    with pytest.raises(RecbenchError, match=r"scores of 1 of 5 users contain NaN or \+inf"):
        small(["ndcg@2"]).evaluate(Scores(table), TEST)
    table = falling().to(dtype)
    table[2, 2] = value  # an item of training, which is not ranked
    assert small(["ndcg@2"]).evaluate(Scores(table), TEST).metrics["ndcg@2"] > 0


def test_minus_infinity_is_not_recommended():
    table = falling()
    table[0, 1], table[2] = -torch.inf, -torch.inf
    evaluation = small(["recall@3", "popularity@3", "uauc"]).evaluate(Scores(table), TEST)
    values = per_user(evaluation)
    assert values["1"]["recall@3"] == 0.5
    assert values["4"]["recall@3"] == 0.0
    assert np.isnan(values["4"]["popularity@3"])
    assert evaluation.diagnostics["short_lists"] == 2  # user 4, and user 5 with two candidates
    assert evaluation.diagnostics["undefined"] == {"popularity@3": 1, "uauc": 2}
    predictions = evaluation.tables().predictions
    assert "4" not in predictions["user"]
    assert "50" not in predictions.filter(pl.col("user") == "1")["item"]


def test_users_without_training_items_are_ranked_and_counted():
    evaluation = small(["recall@2", "miscalibration@2"]).evaluate(Scores(falling()), TEST)
    assert evaluation.diagnostics["users_without_history"] == 1
    values = per_user(evaluation)
    assert values["nobody"]["recall@2"] == 1.0
    assert np.isnan(values["nobody"]["miscalibration@2"])
    assert evaluation.diagnostics["undefined"] == {"miscalibration@2": 1}


def test_a_user_whose_every_candidate_is_relevant():
    evaluation = small(["ndcg@2", "recall@2", "rprecision", "uauc"]).evaluate(Scores(falling()), TEST)
    values = per_user(evaluation)
    assert [values["5"][name] for name in ("ndcg@2", "recall@2", "rprecision")] == [1.0] * 3
    assert np.isnan(values["5"]["uauc"])
    assert evaluation.diagnostics["undefined"] == {"uauc": 1}
    # By hand: of user 1, relevant 1 and 3 among 1, 2, 3, 4: three of four pairs; of the others
    # 2 among 2, 3, 4; 0 among 0, 1, 3, 4; and 1 among all five, three of four pairs.
    assert evaluation.metrics["uauc"] == pytest.approx((3 / 4 + 1 + 1 + 3 / 4) / 4)


def test_equal_scores_are_ordered_at_random_and_counted():
    evaluation = small(["ndcg@2", "uauc"]).evaluate(Scores(torch.zeros(6, 5)), TEST)
    assert evaluation.metrics["uauc"] == 0.5
    assert evaluation.diagnostics["tie_rate"] == 1.0


def test_a_repeated_test_pair_counts_once():
    task = small(["ndcg@2", "recall@2", "uauc", "rprecision"])
    twice = {name: np.concatenate([values, values[::-1]]) for name, values in TEST.items()}
    once, repeated = (task.evaluate(Scores(falling()), found) for found in (TEST, twice))
    assert once.metrics == repeated.metrics
    assert once.tables().per_user.equals(repeated.tables().per_user)


def test_what_is_defined_for_nobody_is_left_out_with_a_warning(caplog):
    """All users are men, so there is no gap between groups."""
    men = {"users": ["1", "4", "7", "6", "8", "9"], "user_groups": {"gender": "users.gender"}}
    task = small(["ndcg@2", "gap:gender:ndcg@2"], **men)
    with caplog.at_level(logging.WARNING, logger="recbench"):
        evaluation = task.evaluate(Scores(falling()), TEST)
    assert list(evaluation.metrics) == ["ndcg@2"]
    assert evaluation.diagnostics["undefined"] == {"gap:gender:ndcg@2": 5}
    assert "not defined for any of 5 users, and left out: gap:gender:ndcg@2" in caplog.text
    with pytest.raises(RecbenchError, match="gap:gender:ndcg@2 is not defined for any of 5 users"):
        small(["gap:gender:ndcg@2"], **men).evaluate(Scores(falling()), TEST)


def test_users_of_no_known_group_are_left_out_of_a_gap_and_counted():
    evaluation = small(["recall@1", "gap:gender:recall@1"]).evaluate(Scores(falling()), TEST)
    values = {user: row["recall@1"] for user, row in per_user(evaluation).items()}
    assert values == {"1": 0.5, "2": 1.0, "4": 1.0, "5": 0.5, "nobody": 0.0}
    assert evaluation.metrics["gap:gender:recall@1"] == 0.0
    assert evaluation.diagnostics["undefined"] == {"gap:gender:recall@1": 1}


def test_activity_is_of_the_history_that_is_shown():
    """Where unseen users are judged, nobody among them has training items."""
    shown = {
        "history_users": np.repeat([0, 1, 2, 3], [1, 1, 3, 3]),
        "history_items": np.array([0, 0, 1, 2, 3, 1, 2, 3]),
    }
    judged = part((0, 1), (1, 2), (2, 4), (3, 4)) | shown
    task = small(["recall@1", "gap:activity:recall@1"], train=part((4, 0), (5, 0), (5, 1)), fold_in=True)
    table = falling()
    table[:, 4] = 1.0
    # Users with one item find the last item first, those with three look for it.
    assert task.evaluate(Scores(table), judged).metrics["gap:activity:recall@1"] == 1.0


def test_an_item_without_features_does_not_count_in_diversity():
    task = small(["ndcg@5", "ild@5"])
    evaluation = task.evaluate(Scores(falling()), TEST)
    vectors = attributes.item_vectors("ml-100k", "items.genres", np.array(ITEMS)).numpy()
    assert vectors.sum(1).tolist()[-1] == 0
    known = np.flatnonzero(vectors.any(1))
    left = [item for item in known if item != 0]  # user 1 has item 0
    units = vectors[left] / np.linalg.norm(vectors[left], axis=1, keepdims=True)
    distances = (1 - units @ units.T)[np.triu_indices(len(left), 1)]
    assert per_user(evaluation)["1"]["ild@5"] == pytest.approx(distances.mean(), abs=1e-6)
    n_known = np.array([sum(item in known for item in candidates) for candidates in ([1, 2, 3, 4], [2, 3, 4], [3, 4])])
    assert evaluation.diagnostics["undefined"]["ild@5"] == (n_known < 2).sum()


def test_all_rows_of_an_item_describe_it_and_a_user_has_one_group():
    interactions = pl.DataFrame({"item": ["1", "1", "2", "none"], "user": ["1", "1", "2", "3"], "value": [4, 5, 4, 3]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recbench.data.source.Source.table", lambda self, name: interactions)
        patch.setattr("recbench.data.source.Source.columns", lambda self, name: interactions.columns)
        vectors = attributes.item_vectors("ml-100k", "interactions.value", np.array(["2", "1", "9"]))
        assert vectors.tolist() == [[1, 0], [1, 1], [0, 0]]
        with pytest.raises(UsageError, match=r"interactions\.value has more than one value for 1 users"):
            attributes.user_groups("ml-100k", "interactions.value", np.array(["1", "2"]))
        assert attributes.user_groups("ml-100k", "interactions.value", np.array(["3", "9", "2"])).tolist() == [0, -1, 1]
        for made in (attributes.user_groups, attributes.item_vectors):
            with pytest.raises(UsageError, match=r"ml-100k: interactions\.value has no value for any of 1 "):
                made("ml-100k", "interactions.value", np.array(["9"]))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"user_groups": {"gender": "users.sex"}},
            "ml-100k: table users has no column 'sex'; it has user, age, gender",
        ),
        (
            {"user_groups": {"gender": "people.gender"}},
            r"ml-100k: people.gender is in no table; tables are interactions",
        ),
        ({"user_groups": {"genre": "items.genres"}}, "table items has no column 'user'"),
        ({"item_features": "items.genre"}, "table items has no column 'genre'; it has item"),
        ({"item_features": "users.gender"}, "table users has no column 'item'"),
    ],
)
def test_a_column_that_does_not_exist_fails_before_training(changes, sentence):
    with pytest.raises(UsageError, match=sentence):
        small(["ndcg@2"], **changes)


@pytest.mark.parametrize(
    ("name", "old", "new", "sentence"),
    [
        (RANKING, "recall@20", "logloss", "unknown metric 'logloss'.*of task topn"),
        (RANKING, "recall@20", "recall@0", "unknown metric 'recall@0'"),
        (
            RANKING,
            "recall@20",
            "gap:age:ndcg@10",
            "'gap:age:ndcg@10' needs groups of users by 'age', there are: gender, ",
        ),
        (RANKING, "recall@20", "gap:gender:gini@10", "'gap:gender:gini@10' is no gap between groups of users"),
        (RANKING, "item_features: items.genres", "", "'ild@10' needs item_features"),
        (RANKING, "items.genres", "genres", "item_features: String should match"),
        (RANKING, "{gender: users.gender}", "{gender: users.gender, activity: users.age}", "'activity' is the name of"),
        (RANKING, "primary_metric: ndcg@10", "primary_metric: tail@10", "'tail@10' has no better direction"),
        (RANKING, "primary_metric: ndcg@10", "primary_metric: map@3", "'map@3' is not among metrics"),
        (RATING, "title:", "item_features: items.genres\ntitle:", "describe lists of items, which task rating has not"),
        ("ctr/avazu-sample", "[auc,", "[auc, gauc,", "'gauc' needs groups of rows, and the protocol has group: null"),
        ("ctr/avazu-sample", "[auc,", "[auc, ndcg@10,", "unknown metric 'ndcg@10'.*of task ctr"),
        (RATING, "[auc,", "[auc, ild@10,", "unknown metric 'ild@10'.*of task rating"),
        (RATING, "[auc,", "[auc, gap:activity:ndcg@5,", "unknown metric 'gap:activity:ndcg@5'.*of task rating"),
    ],
)
def test_a_benchmark_that_cannot_be_measured_is_one_sentence(name, old, new, sentence, tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "configs" / "benchmarks" / f"{name}.yaml").read_text()
    assert old in text
    monkeypatch.chdir(tmp_path)
    file = Path("configs", "benchmarks", name.partition("/")[0], "mine.yaml")
    file.parent.mkdir(parents=True)
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(UsageError, match=rf"^{file}: .*{sentence}"):
        load_benchmark(f"{file.parent.name}/mine")


# Every metric of lists, of whole rankings and beyond accuracy, on the real data.
EVERY = [
    *load_benchmark(RANKING).metrics,
    *("uauc", "rprecision", "entropy@10", "map_n@10", "map_hits@10", "rbp.80@10"),
    *("gap:gender:uauc", "gap:activity:rprecision", "gap:gender:map@20"),
]


@pytest.fixture(scope="module")
def ranked(task_of, parts_of):
    task = task_of(RANKING)
    factors = torch.randn(task.data.n_users + task.data.n_items, 6, generator=torch.Generator().manual_seed(2))
    table = (factors[: task.data.n_users] @ factors[task.data.n_users :].T).mul(20).round()
    return task, table, parts_of(RANKING, "test"), parts_of(RANKING, "valid")


@pytest.mark.parametrize("rows", [1, 61])
def test_no_metric_depends_on_the_block_size(ranked, rows, monkeypatch):
    task, table, test, valid = ranked
    whole = task.evaluate(Scores(table), test, seen=valid, metrics=EVERY)
    assert list(whole.metrics) == EVERY
    assert np.isfinite(list(whole.metrics.values())).all()
    monkeypatch.setattr("recbench.tasks.ranking.SCORES_AT_ONCE", {"cpu": rows * task.data.n_items})
    blocked = task.evaluate(Scores(table), test, seen=valid, metrics=EVERY)
    assert blocked.metrics == whole.metrics
    assert blocked.diagnostics == whole.diagnostics
    assert blocked.tables().per_user.equals(whole.tables().per_user)


def test_no_metric_depends_on_the_order_of_the_test_pairs(ranked):
    task, table, test, valid = ranked
    order = np.random.default_rng(0).permutation(len(test["users"]))
    mixed = {name: values[order] for name, values in test.items()}
    here, there = (task.evaluate(Scores(table), found, seen=valid, metrics=EVERY) for found in (test, mixed))
    assert here.metrics == there.metrics


def test_no_metric_depends_on_the_type_of_the_scores(ranked):
    """Numbers that each type can hold make the same lists; beyond float32 scores are ties."""
    task, table, test, valid = ranked
    held = table.clamp(-255, 255)
    as_float, *others = (
        task.evaluate(Scores(held.to(dtype)), test, seen=valid, metrics=EVERY)
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    )
    assert all(other.metrics == as_float.metrics for other in others)
    fine = 1 + torch.arange(task.data.n_items, dtype=torch.float64).mul(1e-12).expand(task.data.n_users, -1)
    assert task.evaluate(Scores(fine), test, seen=valid, metrics=["ndcg@10"]).diagnostics["tie_rate"] == 1.0


def test_labels_of_one_class(task_of, parts_of):
    task, test = task_of(CTR), parts_of(CTR, "test")
    negative = test | {"labels": np.zeros_like(test["labels"])}
    with pytest.raises(
        RecbenchError, match="auc is not defined: expected labels of both classes, found 0 positive and"
    ):
        task.evaluate(lambda batch: torch.zeros(len(batch)), negative)
    evaluation = task.evaluate(lambda batch: torch.zeros(len(batch)), negative, metrics=["logloss", "brier"])
    assert evaluation.metrics == pytest.approx({"logloss": np.log(2), "brier": 0.25})
    assert evaluation.tables().per_user["logloss~linearised"].mean() == pytest.approx(np.log(2))


def test_constant_probabilities(task_of, parts_of):
    """Known values in every metric of the benchmark, and tables without gaps that nobody counts."""
    task, test = task_of(CTR), parts_of(CTR, "test")
    share = test["labels"].mean(dtype=np.float64)
    names = ["auc", "pauc.10", "prauc", "ne", "brier", "ece", "pcoc", "gauc", "uauc"]
    logit = np.log(share / (1 - share))
    evaluation = task.evaluate(lambda batch: torch.full((len(batch),), logit, dtype=torch.float64), test, metrics=names)
    expected = {"auc": 0.5, "pauc.10": 0.5, "prauc": share, "ne": 1, "brier": share * (1 - share), "ece": 0, "pcoc": 1}
    assert evaluation.metrics == pytest.approx(expected | {"gauc": 0.5, "uauc": 0.5}, abs=1e-9)
    tables = evaluation.tables()
    values = tables.per_user
    one_class = int(values["auc"].is_nan().sum())
    assert 0 < one_class < len(values)
    assert evaluation.diagnostics["undefined"] == {"gauc": one_class, "uauc": one_class}
    assert values["uauc~linearised"].is_nan().sum() == one_class
    assert len(tables.others["reliability"]) >= 1
    assert len(tables.others["per_field"]) > 100


def test_rating_users_without_positives(task_of, parts_of):
    task, test = task_of(RATING), parts_of(RATING, "test")
    table = torch.rand(task.data.n_users, task.data.n_items, generator=torch.Generator().manual_seed(0))

    class Table:
        def predict(self, users, items):
            return table[users, items]

    users, labels = np.unique(test["users"]), test["labels"].copy()
    none, every = users[:3], users[3:5]
    labels[np.isin(test["users"], none)] = 0.0
    labels[np.isin(test["users"], every)] = 1.0
    judged = test | {"labels": labels}
    evaluation = task.evaluate(Table(), judged, metrics=["auc", "ndcg@5", "uauc"])
    values = evaluation.tables().per_user
    undefined = values["ndcg@5"].is_nan()
    assert set(parts_of(RATING, "shared")["user_ids"][none]) <= set(values.filter(undefined)["user"])
    assert evaluation.diagnostics["users_without_truth"] == undefined.sum()
    assert evaluation.metrics["ndcg@5"] == pytest.approx(values["ndcg@5"].drop_nans().mean())
    assert evaluation.diagnostics["undefined"] == {"uauc": values["uauc~linearised"].is_nan().sum()}
    assert evaluation.diagnostics["undefined"]["uauc"] >= undefined.sum() + len(every)
    nothing = test | {"labels": np.zeros_like(labels)}
    with pytest.raises(RecbenchError, match=r"ndcg@5 is not defined: none of the \d+ users has a positive row"):
        task.evaluate(Table(), nothing, metrics=["mse", "ndcg@5"])
    assert np.isfinite(task.evaluate(Table(), nothing, metrics=["mse"]).metrics["mse"])
