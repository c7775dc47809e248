import io
import json

import pytest
from fake_results import Fake
from rich.console import Console

from recbench.errors import UsageError
from recbench.reporting.compare import compare, render

CLOSE = (
    Fake("ease", 0.330, seeds=[0], deterministic=True),
    Fake("multvae", 0.331),
    Fake("bprmf", 0.27),
    Fake("random", 0.02),
)


def text(comparison) -> str:
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    console.print(render(comparison))
    return console.file.getvalue()


def test_known_truth_is_found(write_results):
    (table,) = compare([write_results(*CLOSE)]).tables
    assert (table.benchmark, table.metric) == ("topn/ml-100k", "ndcg@10")
    assert {row.label for row in table.rows[:2]} == {"ease", "multvae"}
    assert [row.rank for row in table.rows] == [1, 1, 3, 4]
    assert [row.group for row in table.rows] == ["a", "a", "b", "c"]
    assert "cannot be told apart from" in table.verdict
    against_random = next(pair for pair in table.pairs if {"bprmf", "random"} == {pair.first, pair.second})
    assert against_random.difference.estimate == pytest.approx(0.25, abs=0.01)
    assert against_random.difference.n == 300
    assert against_random.p_holm >= against_random.difference.p


def test_a_winner_is_named_with_its_margin(write_results):
    (table,) = compare([write_results(Fake("ials", 0.33), Fake("bprmf", 0.30))]).tables
    assert table.verdict.startswith("ials wins on ndcg@10: 0.0")
    assert "above the runner-up bprmf (p < 0.001, Holm-corrected over 1 pair; larger p of" in table.verdict


def test_per_user_means_give_the_difference_of_the_table(write_results):
    (table,) = compare([write_results(Fake("ials", 0.33, seeds=range(3)), Fake("bprmf", 0.30))]).tables
    first, second = table.rows
    assert table.pairs[0].difference.estimate == pytest.approx(first.summary.mean - second.summary.mean)


def test_metrics_without_per_user_values_are_tested_over_seeds(write_results):
    out = write_results(Fake("fm", 0.780), Fake("lr", 0.75, seeds=[0], deterministic=True), benchmark="ctr/ml-100k")
    (table,) = compare([out]).tables
    assert table.pairs[0].difference.method == "Welch t over seeds"
    assert table.verdict.startswith("fm wins on auc")


def test_one_seed_is_no_evidence(write_results):
    out = write_results(Fake("fm", 0.78, seeds=[1]), Fake("lr", 0.70, seeds=[1]), benchmark="ctr/ml-100k")
    (table,) = compare([out]).tables
    assert [row.rank for row in table.rows] == [1, 1]
    assert "no test is possible against lr (run more seeds)" in table.verdict


def test_lower_is_better_for_losses(write_results):
    out = write_results(Fake("fm", 0.78), Fake("lr", 0.70), benchmark="ctr/ml-100k")
    (table,) = compare([out], metric="logloss").tables
    assert [row.label for row in table.rows] == ["fm", "lr"]
    assert [row.rank for row in table.rows] == [1, 2]
    assert "below the runner-up" in table.verdict


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


def test_baseline_differences(write_results):
    (table,) = compare([write_results(*CLOSE)], baseline="multvae").tables
    assert {pair.first for pair in table.versus} == {"ease", "bprmf", "random"}
    assert all(pair.second == "multvae" for pair in table.versus)
    last = table.versus[-1]
    assert last.first == "random"
    assert last.difference.ci95[0] < last.difference.estimate < last.difference.ci95[1] < 0


def test_json_holds_the_same(write_results):
    comparison = compare([write_results(*CLOSE)])
    (table,) = json.loads(comparison.to_json())["tables"]
    assert table["rows"][-1]["label"] == "random"
    assert table["rows"][-1]["summary"]["mean"] == comparison.tables[0].rows[-1].summary.mean
    assert len(table["pairs"]) == 6


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
