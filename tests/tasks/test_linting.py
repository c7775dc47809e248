"""Leaks planted into real parts are found, each by its check, and the benchmarks as they are have none."""

import numpy as np
import pytest

from recbench.data.protocols.splits import LeaveKOut, RandomByUser, Sliding, Temporal
from recbench.tasks.base import load_benchmark
from recbench.tasks.ctr import Field
from recbench.tasks.linting import (
    Finding,
    Report,
    lint_graph,
    lint_pairs,
    lint_rows,
    lint_times,
    promised_order,
)

TOPN, CTR, KG = "topn/ml-100k", "ctr/ml-100k", "kg/ml-100k"


def with_rows(part, more):
    """Return the part with the rows of another at its end."""
    return {name: np.concatenate([part[name], values]) for name, values in more.items()}


def first(part, n):
    return {name: values[:n] for name, values in part.items()}


def only(report):
    (finding,) = report.findings
    return finding


@pytest.fixture
def parts(parts_of):
    return lambda benchmark, *names: [parts_of(benchmark, name) for name in names]


@pytest.fixture
def fields_of(task_of):
    return lambda benchmark: list(task_of(benchmark).fields)


def known(train, valid):
    return {"training": train, "validation": valid}


@pytest.mark.parametrize("benchmark", [TOPN, "rating/coat", KG])
def test_benchmarks_of_pairs_are_clean(request, parts, benchmark):
    if benchmark == "rating/coat":
        request.getfixturevalue("mirrored")
    train, valid, test, shared = parts(benchmark, "train", "valid", "test", "shared")
    report = lint_pairs(test, known(train, valid))
    assert report == Report(("pairs-in-training", "pairs-in-validation"), ())
    if "heads" in shared:
        assert lint_graph(test, shared) == Report(("pairs-in-graph",), ())


@pytest.mark.parametrize("benchmark", [CTR, "ctr/frappe"])
def test_benchmarks_of_rows_have_nothing_severe(request, parts, fields_of, benchmark):
    if benchmark == "ctr/frappe":
        request.getfixturevalue("mirrored")
    report = lint_rows(*parts(benchmark, "train", "test"), fields_of(benchmark))
    assert report.checks == ("repeated-rows", "field-gives-label", "field-identifies-row")
    assert report.severe == ()


@pytest.mark.parametrize("place", ["training", "validation", "history"])
def test_pairs_planted_in_a_part(parts, place):
    train, valid, test = parts(TOPN, "train", "valid", "test")
    others = known(train, valid)
    planted = first(test, 7)
    if place == "history":
        test = test | {f"history_{name}": values for name, values in with_rows(first(valid, 50), planted).items()}
    else:
        others[place] = with_rows(others[place], planted)
    report = lint_pairs(test, others)
    assert f"pairs-in-{place}" in report.checks
    assert only(report) == Finding(f"pairs-in-{place}", 7, f"7 test pairs are also in the {place} part", True)
    assert lint_pairs(test, others, may_return=True).findings[0].severe is False


def test_other_pairs_of_known_users_and_items_are_no_leak():
    """The last item of one user and the first of the next must not make one key."""
    part = {"users": np.array([0, 1]), "items": np.array([3, 0])}
    assert not lint_pairs({"users": np.array([1, 0]), "items": np.array([3, 0])}, {"training": part}).findings
    nothing = {"users": np.zeros(0, np.int32), "items": np.zeros(0, np.int32)}
    assert not lint_pairs(part, {"training": nothing}).findings


def timed(users, times):
    return {"users": np.array(users), "times": np.array(times, dtype=float)}


def test_what_splits_promise():
    assert promised_order(Temporal(test=0.1)) == "global"
    assert promised_order(Sliding(windows=2, window=1)) == "global"
    assert promised_order(LeaveKOut()) == "by-user"
    assert promised_order(LeaveKOut(by="random")) is None
    assert promised_order(RandomByUser()) is None
    assert promised_order(load_benchmark(CTR).protocol.split) is None


def test_times_over_all_users():
    train, test = timed([0, 1, 1], [1, 2, 6]), timed([0, 2], [5, 7])
    report = lint_times(test, {"training": train}, "global")
    assert report.checks == ("time-global", "time-by-user")
    assert only(report).check == "time-global"
    assert only(report).count == 1
    assert only(report).message == "1 rows of training are not before the first test target, of time 5"
    assert only(report).severe
    assert not lint_times(test, {"training": train}, "by-user").severe
    assert lint_times(test, {"training": timed([0, 1], [1, 2])}, "global").findings == ()
    # A row of the very time of the first target is not before it.
    assert lint_times(test, {"training": timed([1], [5])}, "global").severe[0].count == 1


@pytest.mark.parametrize("promised", ["global", "by-user"])
def test_times_of_a_user(promised):
    test = timed([0, 1], [5, 9]) | {"history_users": np.array([1, 0]), "history_times": np.array([8.0, 4.0])}
    others = {"training": timed([0, 1], [1, 2]), "validation": timed([0], [3])}
    assert lint_times(test, others, promised).findings == ()
    late = test | {"history_times": np.array([9.5, 4.0])}
    finding = only(lint_times(late, others, promised))
    assert finding == Finding(
        "time-by-user", 1, "1 users have a known row that is later than their first test target", True
    )
    # Of two targets the first counts.
    earlier = timed([0, 0], [5, 2])
    assert "time-by-user" in [finding.check for finding in lint_times(earlier, others, promised).findings]


def test_times_that_are_missing_or_promise_nothing_are_not_checked(parts):
    train, test = parts(TOPN, "train", "test")
    assert lint_times(test, {"training": train}, "global") == Report()
    assert lint_times(timed([0], [1]), {"training": timed([0], [2])}, None) == Report()


def test_leave_last_out_keeps_the_order_of_each_user(mirrored, parts):
    """The literature's split: no user's targets come before what is known of him, but others' training rows do."""
    name = "sequential/ml-1m-sasrec"
    train, valid, test = parts(name, "train", "valid", "test")
    promised = promised_order(load_benchmark(name).protocol.split)
    report = lint_times(test, known(train, valid), promised)
    assert report.severe == ()
    assert [finding.check for finding in report.findings] == ["time-global"]
    swapped = train | {"times": train["times"].copy()}
    swapped["times"][0] = 1e12
    assert lint_times(test, known(swapped, valid), promised).severe[0].count == 1
    repeats = lint_pairs(test, known(train, valid), may_return=True)
    assert repeats.severe == ()
    # The last target is no validation row of its user, which the test part shows as history.
    assert repeats.checks == ("pairs-in-training", "pairs-in-validation", "pairs-in-history")


def test_repeated_rows(parts, fields_of):
    (train,) = parts(CTR, "train")
    fields = fields_of(CTR)
    genres = {"genres_values": train["genres_values"][: train["genres_offsets"][3]]}
    planted = {name: train[name][:3] for name in ("ids", "labels")} | genres
    planted["genres_offsets"] = train["genres_offsets"][:4]
    finding = only(lint_rows(train, planted, fields))
    assert finding.check == "repeated-rows"
    assert finding.message == "3 of 3 test rows have the same fields as a training row"
    assert not finding.severe
    # Without the genres of the third row it is another row; ids and numbers count likewise.
    planted["genres_offsets"] = np.array([*planted["genres_offsets"][:3], planted["genres_offsets"][2]])
    assert only(lint_rows(train, planted, fields)).count == 2
    planted["ids"] = planted["ids"] + np.array([[0], [1], [0]], dtype=np.int32) * (np.arange(7) == 1)
    assert only(lint_rows(train, planted, fields)).count == 1


def test_a_dense_number_makes_another_row():
    fields = [Field("item", False, 3, 0), Field("price", False, 1, 3, dense=True)]
    train = {"ids": np.array([[1], [2]]), "labels": np.ones(2), "dense": np.array([[0.5], [1.5]], dtype=np.float32)}
    assert lint_rows(train, train, fields).findings[0].count == 2
    other = train | {"dense": np.array([[0.5], [1.25]], dtype=np.float32)}
    assert lint_rows(train, other, fields).findings[0].count == 1


@pytest.mark.parametrize("strength", [1.0, 0.9])
def test_a_field_that_gives_the_label_away(parts, fields_of, strength):
    """In the place of the gender: the label itself, or one that is right nine times of ten."""
    train, test = (dict(part) for part in parts(CTR, "train", "test"))
    fields = fields_of(CTR)
    column = [field.name for field in fields if not field.multi].index("gender")
    offset = next(field.offset for field in fields if field.name == "gender")
    for seed, part in enumerate((train, test)):
        right = np.random.default_rng(seed).random(len(part["labels"])) < strength
        part["ids"] = np.array(part["ids"])
        part["ids"][:, column] = offset + 1 + np.where(right, part["labels"], 1 - part["labels"])
    report = lint_rows(train, test, fields)
    if strength < 1:
        assert report.severe == ()
    else:
        assert [finding.check for finding in report.severe] == ["field-gives-label"]
        assert report.severe[0].message == "feature gender predicts the label, with an AUC of 1.0000"
        few = {"ids": test["ids"][:40], "labels": test["labels"][:40], "genres_values": test["genres_values"]}
        few["genres_offsets"] = test["genres_offsets"][:41]
        assert "field-gives-label" not in lint_rows(train, few, fields).checks


def test_a_field_that_gives_one_of_several_labels_away(parts, fields_of):
    """In the place of the gender: the second label. The test part has too few positive rows of a third."""
    train, test = (dict(part) for part in parts(CTR, "train", "test"))
    fields = fields_of(CTR)
    column = [field.name for field in fields if not field.multi].index("gender")
    offset = next(field.offset for field in fields if field.name == "gender")
    for seed, part in enumerate((train, test)):
        coin = np.random.default_rng(seed).integers(2, size=len(part["labels"]))
        rare = np.arange(len(coin)) < 40
        part["ids"] = np.array(part["ids"])
        part["ids"][:, column] = offset + 1 + coin
        part["labels"] = np.stack([part["labels"], coin, rare], axis=1).astype(np.float32)
    (finding,) = lint_rows(train, test, fields, ["click", "bought", "rare"]).severe
    assert finding.message == "feature gender predicts the label bought, with an AUC of 1.0000"
    assert finding.count == 1


def test_the_linter_reads_histories(task_of, parts_of):
    name = "ctr/ml-100k-history"
    assert task_of(name).lint(parts_of(name, "test")).findings == ()
    assert task_of(name).lint(parts_of(name, "train")).findings[0].check == "repeated-rows"


@pytest.mark.parametrize("sign", [1, -1])
def test_a_number_that_gives_the_label_away(parts, sign):
    train, test = parts(CTR, "train", "test")
    user = Field("user", False, 1000, 0)
    fields = [user, Field("price", False, 1, 1000, dense=True), Field("delay", False, 1, 1001, dense=True)]

    def dense(part, seed):
        noise = np.random.default_rng(seed).random((len(part["labels"]), 2), dtype=np.float32)
        noise[:, 1] += sign * 2 * part["labels"]
        return {"ids": part["ids"][:, :1], "labels": part["labels"], "dense": noise}

    severe = lint_rows(dense(train, 0), dense(test, 1), fields).severe
    assert [finding.message for finding in severe] == ["feature delay predicts the label, with an AUC of 1.0000"]


def test_the_auc_of_a_field_is_that_of_its_mean_labels(parts, fields_of, monkeypatch):
    """At the AUC that scikit-learn finds the field is just not suspect; a hair below it, it is."""
    from sklearn.metrics import roc_auc_score

    train, test = parts(CTR, "train", "test")
    column = [field.name for field in fields_of(CTR) if not field.multi].index("item")
    positives = np.bincount(train["ids"][:, column], train["labels"], minlength=10**4)
    rows = np.bincount(train["ids"][:, column], minlength=10**4)
    means = np.where(rows > 0, positives / np.maximum(rows, 1), train["labels"].mean())
    auc = roc_auc_score(test["labels"], means[test["ids"][:, column]])
    for threshold, severe in ((auc + 1e-9, 0), (auc - 1e-9, 1)):
        monkeypatch.setattr("recbench.tasks.linting.SUSPECT_AUC", threshold)
        assert len(lint_rows(train, test, fields_of(CTR)).severe) == severe


def test_a_field_that_identifies_the_row(parts):
    train, test = parts(CTR, "train", "test")

    def numbered(part, start):
        numbers = 1000 + start + np.arange(len(part["labels"]), dtype=np.int32)
        return {"ids": np.stack([part["ids"][:, 0], numbers], axis=1), "labels": part["labels"]}

    fields = [Field("user", False, 1000, 0), Field("impression", False, 100_000, 1000)]
    finding = only(lint_rows(numbered(train, 0), numbered(test, len(train["labels"])), fields))
    assert finding == Finding(
        "field-identifies-row", 1, "nearly every training row has its own value of impression", False
    )


@pytest.mark.parametrize("backwards", [False, True])
def test_test_pairs_in_the_graph(parts, backwards):
    """Users made entities by their raw ids, and linked to their test items."""
    test, shared = parts(KG, "test", "shared")
    n_entities, users = len(shared["entity_ids"]), np.unique(test["users"][:40])
    entity_of = {user: n_entities + number for number, user in enumerate(users)}
    ends = [test["items"][:40], np.array([entity_of[user] for user in test["users"][:40]])]
    heads, tails = ends[::-1] if backwards else ends
    planted = shared | {
        "entity_ids": np.concatenate([shared["entity_ids"], shared["user_ids"][users]]),
        "heads": np.concatenate([shared["heads"], heads]),
        "tails": np.concatenate([shared["tails"], tails]),
    }
    finding = only(lint_graph(test, planted))
    assert (finding.check, finding.count, finding.severe) == ("pairs-in-graph", 40, True)


def test_ids_that_are_numbers_meet_by_chance(mirrored, parts):
    """Entities and users of this graph are both called by numbers, and about 100 test pairs are facts by chance."""
    finding = only(lint_graph(*parts("kg/ml-1m-kg", "test", "shared")))
    assert 50 < finding.count < 200
    assert not finding.severe


def test_reports_join():
    leak, note = Finding("a", 1, "one", True), Finding("b", 2, "two", False)
    report = Report(("a",), (leak,)) + Report(("b", "c"), (note,))
    assert report == Report(("a", "b", "c"), (leak, note))
    assert report.severe == (leak,)
