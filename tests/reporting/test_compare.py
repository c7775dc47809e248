import io
import json
import math
import re

import numpy as np
import polars as pl
import pytest
from fake_results import Fake
from rich.console import Console

from recbench.errors import RecbenchError, UsageError
from recbench.metrics.names import LINEARISED_SUFFIX
from recbench.reporting.compare import compare
from recbench.reporting.compare_text import render
from recbench.running.result import PER_USER, FindingRecord, LeakageRecord

CLOSE = (
    Fake("ease", 0.330, seeds=[0], deterministic=True),
    Fake("multvae", 0.331),
    Fake("bprmf", 0.27),
    Fake("random", 0.02),
)


def text(comparison, width=80) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(render(comparison))
    return console.file.getvalue()


def words(comparison) -> str:
    """Return the text without its line breaks."""
    return " ".join(text(comparison).split())


def test_known_truth_is_found(write_results):
    (table,) = compare([write_results(*CLOSE)]).tables
    assert (table.benchmark, table.metric) == ("topn/ml-100k", "ndcg@10")
    assert {row.label for row in table.rows[:2]} == {"ease", "multvae"}
    assert [row.rank for row in table.rows] == [1, 2, 3, 4]
    assert [row.rank_interval for row in table.rows] == [(1, 2), (1, 2), (3, 3), (4, 4)]
    assert [row.group for row in table.rows] == ["a", "a", "b", "c"]
    assert "cannot be told apart from" in table.verdict
    against_random = next(pair for pair in table.pairs if {"bprmf", "random"} == {pair.first, pair.second})
    assert against_random.estimate == pytest.approx(0.25, abs=0.01)
    assert against_random.ci95[0] < 0.25 < against_random.ci95[1]
    assert against_random.n_users == 300
    assert against_random.superiority > 0.99
    assert against_random.effect > 3
    assert against_random.p_holm >= against_random.p


def test_a_winner_is_named_with_its_margin(write_results):
    (table,) = compare([write_results(Fake("ials", 0.33), Fake("bprmf", 0.30))]).tables
    assert table.verdict.startswith("ials wins on ndcg@10: 0.0")
    assert "above the runner-up bprmf (p < 0.001, Holm-corrected over 1 pair; bootstrap over" in table.verdict


def test_per_user_means_give_the_difference_of_the_table(write_results):
    (table,) = compare([write_results(Fake("ials", 0.33, seeds=range(3)), Fake("bprmf", 0.30))]).tables
    first, second = table.rows
    assert table.pairs[0].estimate == pytest.approx(first.summary.mean - second.summary.mean)


def test_metrics_without_per_user_values_are_tested_over_seeds(write_results):
    out = write_results(Fake("fm", 0.780), Fake("lr", 0.75, seeds=[0], deterministic=True), benchmark="ctr/ml-100k")
    (table,) = compare([out]).tables
    (pair,) = table.pairs
    assert (pair.method, pair.n_users, pair.effect, pair.superiority) == ("Welch t over seeds", 0, None, None)
    assert table.warnings == []
    assert table.verdict.startswith("fm wins on auc")


def test_a_metric_that_is_no_mean_over_users_uses_its_linearised_values(write_results):
    out = write_results(Fake("fm", 0.78), Fake("lr", 0.70), benchmark="ctr/ml-100k")
    chance = np.random.default_rng(0)
    for record in out.rglob("result.json"):
        test = json.loads(record.read_text())["metrics"]["test"]
        scatter = chance.normal(0, 0.1, 200)
        values = {name + LINEARISED_SUFFIX: test[name] + scatter - scatter.mean() for name in ("auc", "logloss")}
        pl.DataFrame({"user": np.arange(200).astype(str), "auc": scatter, **values}).write_parquet(
            record.with_name(PER_USER)
        )
    for metric, sign in (("auc", 1), ("logloss", -1)):
        (table,) = compare([out], metric=metric, within_seeds=True).tables
        (pair,) = table.pairs
        assert table.warnings == []
        assert pair.n_users == 200
        for tests in (pair, *pair.within_seeds):
            assert tests.superiority > 0.6  # fm is the better one for most
            assert sign * tests.effect > 0  # an effect has the sign of the difference


def test_per_user_values_that_do_not_mean_the_metric_are_not_used(write_results):
    out = write_results(Fake("ials", 0.33), Fake("bprmf", 0.30), Fake("ease", 0.31))
    file = out / "topn/ml-100k/ials/seed-2" / PER_USER
    pl.read_parquet(file).with_columns(pl.col("ndcg@10") + 1e-3).write_parquet(file)
    (table,) = compare([out]).tables
    assert table.warnings == [
        "the mean over users is not the recorded ndcg@10 for ials, so these are compared over seeds only"
    ]
    assert [pair.n_users for pair in table.pairs] == [0, 0, 300]  # ials against both, then the other two


def test_a_missing_per_user_file_is_said(write_results):
    out = write_results(Fake("ials", 0.33), Fake("bprmf", 0.30, per_user=False))
    (table,) = compare([out]).tables
    assert table.warnings == [
        "there are no per-user values of ndcg@10 for bprmf, so these are compared over seeds only"
    ]
    assert table.pairs[0].method == "Welch t over seeds"


BROKEN = {
    "no users": (lambda values: values.drop("user"), "there is no column 'user'; found: ndcg@10"),
    "a user twice": (lambda values: pl.concat([values, values.head(1)]), "user '.*' has more rows than one"),
    "no numbers": (lambda values: values.cast({"ndcg@10": pl.String}), "'ndcg@10' is of type String, expected numbers"),
}


@pytest.mark.parametrize(("spoil", "sentence"), BROKEN.values(), ids=BROKEN)
def test_broken_per_user_values_are_one_sentence(spoil, sentence, write_results):
    out = write_results(Fake("ials", 0.33), Fake("bprmf", 0.30))
    file = out / "topn/ml-100k/ials/seed-2" / PER_USER
    spoil(pl.read_parquet(file)).write_parquet(file)
    with pytest.raises(RecbenchError, match=rf"seed-2/{PER_USER}: .*{sentence}"):
        compare([out])


def test_a_damaged_per_user_file_is_one_sentence(write_results):
    out = write_results(Fake("ials", 0.33), Fake("bprmf", 0.30))
    file = out / "topn/ml-100k/ials/seed-2" / PER_USER
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(RecbenchError, match=rf"{PER_USER}: cannot be read as Parquet"):
        compare([out])


def test_a_user_that_one_model_lacks_is_left_out(write_results):
    out = write_results(Fake("ials", 0.33, seeds=[1]), Fake("bprmf", 0.30, seeds=[1]))
    file = out / "topn/ml-100k/ials/seed-1" / PER_USER
    values = pl.read_parquet(file)
    others = values.filter(user="0")["ndcg@10"].mean() - values["ndcg@10"].mean()
    # The recorded mean stays that of the others.
    kept = pl.when(pl.col("user") != "0").then(pl.col("ndcg@10") + others / (len(values) - 1))
    values.with_columns(kept.otherwise(math.nan).alias("ndcg@10")).write_parquet(file)
    (table,) = compare([out], within_seeds=True).tables
    assert table.pairs[0].n_users == 299
    assert table.pairs[0].within_seeds[0].n_users == 299


def test_one_seed_is_no_evidence(write_results):
    out = write_results(Fake("fm", 0.78, seeds=[1]), Fake("lr", 0.70, seeds=[1]), benchmark="ctr/ml-100k")
    (table,) = compare([out]).tables
    assert [row.rank_interval for row in table.rows] == [(1, 2), (1, 2)]
    assert "no test is possible against lr (one seed of a stochastic model)" in table.verdict
    assert table.pairs[0].p is table.pairs[0].p_holm is table.pairs[0].ci95 is None


def test_lower_is_better_for_losses(write_results):
    out = write_results(Fake("fm", 0.78), Fake("lr", 0.70), benchmark="ctr/ml-100k")
    (table,) = compare([out], metric="logloss").tables
    assert [row.label for row in table.rows] == ["fm", "lr"]
    assert [row.rank_interval for row in table.rows] == [(1, 1), (2, 2)]
    assert table.pairs[0].estimate < 0
    assert "below the runner-up" in table.verdict


def test_tests_within_seeds(write_results):
    out = write_results(*CLOSE[:2], Fake("bprmf", 0.27, seeds=[1, 2, 9]))
    (table,) = compare([out], within_seeds=True).tables
    found = {frozenset((pair.first, pair.second)): pair for pair in table.pairs}
    assert [tests.seeds for tests in found[frozenset(("multvae", "bprmf"))].within_seeds] == [(1, 1), (2, 2)]
    pair = found[frozenset(("ease", "bprmf"))]
    assert [tests.seeds for tests in pair.within_seeds] == [(0, 1), (0, 2), (0, 9)]
    for tests in pair.within_seeds:
        assert max(tests.t, tests.wilcoxon, tests.permutation, tests.bootstrap) < 0.01
        assert tests.effect > 0.5
        assert tests.superiority > 0.6
    assert all(not pair.within_seeds for pair in compare([out]).tables[0].pairs)


def test_the_table_fits_80_columns(write_results):
    long = Fake("multvae", 0.30, config={"embedding_dim": 64, "anneal_cap": 0.2}, seeds=range(2))
    more = write_results(long, Fake("kgat", 0, seeds=[3], fails="loss became [nan] in epoch 2"), root="more")
    shown = text(compare([write_results(*CLOSE), more], baseline="ease"))
    assert max(map(len, shown.splitlines())) <= 80
    assert "exact" in shown
    assert "±" in shown
    assert "FAILED kgat seed 3: loss became [nan] in epoch 2" in shown
    assert "minus ease" in shown
    assert "125k" in shown
    assert "…" not in shown  # nothing cut off


def test_many_models_fit_80_columns_with_every_number_whole(write_results):
    costs = {"fit_s": 12345.6, "parameters": 10**9}
    fakes = [Fake(f"model_of_a_long_name_{k}", 0.30 + 0.0005 * k, **costs) for k in range(15)]
    comparison = compare([write_results(*fakes)], baseline="model_of_a_long_name_0")
    shown = text(comparison)
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    (table,) = comparison.tables
    for row in table.rows:
        assert f"{row.summary.mean:.4f} ±" in shown
    for pair in table.versus:
        assert f"{pair.estimate:+.4f}" in shown
    assert shown.count("12346") == 15
    assert "others" in table.verdict


def test_a_long_metric_name_is_folded_not_cut(write_results):
    out = write_results(*CLOSE)
    for record in out.rglob("result.json"):
        content = json.loads(record.read_text())
        for part in ("valid", "test"):
            content["metrics"][part]["gap:occupation:recall_min@10"] = content["metrics"][part]["ndcg@10"]
        record.write_text(json.dumps(content))
    comparison = compare([out], metric="gap:occupation:recall_min@10")
    shown = text(comparison)
    assert max(map(len, shown.splitlines())) <= 80
    assert "occupation:" in shown
    assert comparison.tables[0].rows[0].label == "random"  # the smallest gap


def test_baseline_differences(write_results):
    (table,) = compare([write_results(*CLOSE)], baseline="multvae").tables
    assert {pair.first for pair in table.versus} == {"ease", "bprmf", "random"}
    assert all(pair.second == "multvae" for pair in table.versus)
    last = table.versus[-1]
    assert last.first == "random"
    assert last.ci95[0] < last.estimate < last.ci95[1] < 0
    assert last.effect < 0
    assert last.superiority < 0.1
    same = next(pair for pair in table.pairs if {pair.first, pair.second} == {"random", "multvae"})
    assert (last.p, last.p_holm, last.estimate) == (same.p, same.p_holm, -same.estimate)


def test_scored_files_have_no_cost(write_results):
    out = write_results(Fake("theirs", 0.33, seeds=[0], scored=True), Fake("ease", 0.30))
    comparison = compare([out])
    row = comparison.tables[0].rows[0]
    assert (row.model, row.parameters, row.fit_s, row.evaluate_s, row.peak_rss_mb) == ("theirs", None, None, None, None)
    (line,) = [line for line in text(comparison).splitlines() if " theirs " in line and "± ?" in line]
    assert line.split()[-4:] == ["-"] * 4


def test_severe_leaks_are_warned_of_once(write_results):
    severe = FindingRecord(check="seen-items", count=7, message="7 items of lists are in training", severe=True)
    mild = FindingRecord(check="popular", count=1, message="no matter", severe=False)
    leakage = LeakageRecord(checks=["seen-items", "popular"], findings=[severe, mild])
    comparison = compare([write_results(*CLOSE, Fake("cheat", 0.9, leakage=leakage))])
    assert comparison.tables[0].warnings == ["cheat: seen-items: 7 items of lists are in training"]
    assert "warning: cheat: seen-items: 7 items of lists are in training" in words(comparison)


def test_json_holds_the_same(write_results):
    comparison = compare([write_results(*CLOSE)], within_seeds=True)
    (table,) = json.loads(comparison.to_json())["tables"]
    assert table["rows"][-1]["label"] == "random"
    assert table["rows"][-1]["summary"]["mean"] == comparison.tables[0].rows[-1].summary.mean
    assert len(table["pairs"]) == 6
    assert set(table["pairs"][0]["within_seeds"][0]) >= {"t", "wilcoxon", "permutation", "bootstrap", "superiority"}


def test_json_has_no_nan(write_results):
    equal = [Fake("fm", 0.78, seeds=[1]), Fake("lr", 0.70, seeds=[1])]
    out = write_results(*equal, benchmark="ctr/ml-100k")
    assert "NaN" not in compare([out], within_seeds=True).to_json()


def test_the_same_model_twice_is_told_apart_nowhere(write_results):
    out = write_results(Fake("ease", 0.33, seeds=[0], deterministic=True, config={"l2": 1}))
    twin = write_results(Fake("ease", 0.33, seeds=[0], deterministic=True, config={"l2": 2}), root="twin")
    comparison = compare([out, twin], within_seeds=True)
    (table,) = comparison.tables
    assert [row.rank for row in table.rows] == [1, 1]
    assert [row.rank_interval for row in table.rows] == [(1, 2), (1, 2)]
    assert table.pairs[0].effect is None
    assert table.pairs[0].superiority == 0.5
    assert "cannot be told apart" in table.verdict
    json.loads(comparison.to_json())


def test_only_failures(write_results):
    (table,) = compare([write_results(Fake("kgat", 0, fails="out of memory"))]).tables
    assert table.verdict == "No run has finished."
    assert "FAILED kgat seed 4: out of memory" in text(compare([write_results(Fake("cke", 0, fails="x"))]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"metric": "ndcg@11"}, "did you mean ndcg@10"), ({"baseline": "multvea"}, "did you mean multvae")],
)
def test_unknown_names(write_results, arguments, message):
    with pytest.raises(UsageError, match=message):
        compare([write_results(*CLOSE)], **arguments)


def test_a_baseline_must_be_one_configuration(write_results):
    one = write_results(Fake("multvae", 0.3, config={"dropout": 0.5}), root="one")
    two = write_results(Fake("multvae", 0.31, config={"dropout": 0.2}), root="two")
    with pytest.raises(UsageError, match=r"choose one: multvae dropout=0\.2; multvae dropout=0\.5"):
        compare([one, two], baseline="multvae")
    (table,) = compare([one, two], baseline="multvae dropout=0.5").tables
    assert [pair.first for pair in table.versus] == ["multvae dropout=0.2"]


@pytest.fixture
def three_benchmarks(write_results):
    """Five models on three benchmarks, always in the same order; one is not on the third, another on one only."""
    for shift, name in enumerate(("ml-100k", "gowalla", "yelp2018")):
        fakes = [Fake(f"m{k}", 0.3 - 0.05 * k + 0.01 * shift) for k in range(4 if shift < 2 else 3)]
        out = write_results(*fakes, *([Fake("once", 0.1)] if shift == 0 else []), benchmark=f"topn/{name}")
    return out


def test_models_across_benchmarks(three_benchmarks):
    comparison = compare([three_benchmarks])
    (across,) = comparison.across
    assert across.benchmarks == dict.fromkeys(("topn/gowalla", "topn/ml-100k", "topn/yelp2018"), "ndcg@10")
    assert across.ranked == ["topn/gowalla", "topn/ml-100k", "topn/yelp2018"]  # 3 x 3 rather than 2 x 4
    assert [row.label for row in across.rows] == ["m0", "m1", "m2", "m3"]
    assert [row.rank for row in across.rows] == [1, 2, 3, None]
    assert [row.borda for row in across.rows] == [6, 3, 0, None]
    assert [row.n for row in across.rows] == [3, 3, 3, 2]
    assert [row.win_rate for row in across.rows] == pytest.approx([1, 5 / 8, 2 / 8, 0])
    assert across.rows[1].wins == {"m0": 0, "m2": 1, "m3": 1}
    # Nemenyi, three models: q = 2.343 of Demšar's table 5.
    assert across.critical_difference == pytest.approx(2.343 * (3 * 4 / (6 * 3)) ** 0.5, abs=1e-3)
    assert across.groups == [["m0", "m1"], ["m1", "m2"]]
    assert [row.group for row in across.rows] == ["a", "ab", "b", ""]
    shown = words(comparison)
    assert "across 3 benchmarks" in shown
    assert "benchmarks: topn/gowalla, topn/ml-100k, topn/yelp2018 by ndcg@10" in shown
    assert json.loads(comparison.to_json())["across"][0]["rows"][3]["borda"] is None


def test_an_order_that_never_changes_is_seen_across_benchmarks(write_results):
    for name in "abcdef":
        out = write_results(*(Fake(f"m{k}", 0.3 - 0.05 * k) for k in range(3)), benchmark=f"topn/{name}")
    comparison = compare([out])
    (across,) = comparison.across
    assert across.friedman_p < 0.01
    assert re.search(r"m0 has the best average rank but cannot be told apart from m1 \(Friedman p", words(comparison))


def test_benchmarks_without_common_models_are_not_compared(write_results):
    write_results(Fake("fm", 0.78), Fake("lr", 0.7), benchmark="ctr/ml-100k")
    out = write_results(*CLOSE)
    assert compare([out]).across == []
    write_results(Fake("fm", 0.78), Fake("lr", 0.7), benchmark="ctr/frappe")
    (across,) = compare([out]).across
    assert across.benchmarks == {"ctr/frappe": "auc", "ctr/ml-100k": "auc"}


def test_losses_and_gains_are_ranked_alike_across_benchmarks(write_results):
    out = write_results(Fake("fm", 0.78), Fake("lr", 0.7), benchmark="ctr/ml-100k")
    write_results(Fake("fm", 0.78), Fake("lr", 0.7), benchmark="ctr/frappe")
    (across,) = compare([out], metric="logloss").across
    assert [(row.label, row.rank) for row in across.rows] == [("fm", 1), ("lr", 2)]


def test_a_benchmark_on_two_splits_does_not_count_twice(write_results, three_benchmarks):
    other = write_results(Fake("m0", 0.1), Fake("m1", 0.2), root="other", split="6b" * 32)
    (across,) = compare([three_benchmarks, other]).across
    assert list(across.benchmarks) == ["topn/gowalla", "topn/yelp2018"]
    assert across.warnings == ["topn/ml-100k was run on several splits and is left out"]


def test_no_average_ranks_without_common_benchmarks(write_results):
    pairs = (("a", "m0 m1"), ("b", "m1 m2"), ("c", "m2 m0"))
    for name, models in pairs:
        out = write_results(*(Fake(model, 0.3) for model in models.split()), benchmark=f"topn/{name}")
    comparison = compare([out])
    (across,) = comparison.across
    assert {row.rank for row in across.rows} == {None}
    assert "no average ranks" in words(comparison)
    json.loads(comparison.to_json())
