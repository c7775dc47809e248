import json

import pytest
from fake_results import Fake

from recbench.errors import RecbenchError, UsageError
from recbench.reporting.boards import build_pages, build_records, collect_records, read_records
from recbench.running.result import ReferenceRecord
from recbench.running.suite import Entry, Suite


def reference(**changes) -> ReferenceRecord:
    return ReferenceRecord(
        **{
            "source": "Some 2020",
            "benchmark": "topn/ml-100k",
            "metric": "ndcg@10",
            "value": 0.33,
            "tolerance": 0.01,
            **changes,
        }
    )


def test_a_record_holds_what_the_contract_names(write_results, tmp_path):
    out = write_results(Fake("ials", 0.33, reference=reference()))
    (record,) = build_records([out], tmp_path / "boards", "recbench suite ml-100k")
    written = json.loads((tmp_path / "boards/topn/ml-100k/ials.json").read_text())
    contract = "schema_version task benchmark model config dataset protocol metrics timing memory budget environment"
    assert set(written) == {*contract.split(), "status", "reason", "command", "primary_metric", "seeds"}
    assert {"name", "version", "parameters", "reference"} <= set(written["model"])
    ndcg = written["metrics"]["test"]["ndcg@10"]
    assert set(ndcg) == {"mean", "sd", "ci95", "seeds"}
    assert list(ndcg["seeds"]) == ["0", "1", "2", "3", "4"]
    assert ndcg["mean"] == pytest.approx(sum(ndcg["seeds"].values()) / 5)
    assert ndcg["ci95"][0] < ndcg["mean"] < ndcg["ci95"][1]
    assert written["timing"]["fit_s"] == pytest.approx(4.4)
    assert written["memory"]["peak_rss_mb"] == 616.0
    assert (record.status, record.command) == ("verified", "recbench suite ml-100k")
    assert read_records(tmp_path / "boards") == [record]


@pytest.mark.parametrize(
    ("fakes", "status", "reason"),
    [
        ([Fake("ials", 0.33)], "unverified", "no published reference"),
        ([Fake("ials", 0.33, reference=reference(value=0.36))], "unverified", "is outside the published 0.36 ± 0.01"),
        ([Fake("ials", 0.33, reference=reference(benchmark="topn/ml-1m"))], "unverified", "ndcg@10 on topn/ml-1m"),
        ([Fake("ials", 0.33, reference=reference(metric="ndcg@100"))], "unverified", "ndcg@100 on topn/ml-100k"),
        ([Fake("ials", 0.33, seeds=range(3), reference=reference())], "partial", "3 of 5 seeds"),
        ([Fake("ials", 0.33), Fake("ials", 0, seeds=[5], fails="out of memory")], "partial", "seed 5 failed: out of"),
        ([Fake("ials", 0, fails="out of memory")], "failed", "out of memory"),
        ([Fake("ease", 0.33, seeds=[0], deterministic=True, reference=reference())], "verified", None),
    ],
)
def test_status(write_results, fakes, status, reason):
    (record,) = collect_records([write_results(*fakes)], "command")
    assert record.status == status
    assert (record.reason is None) if reason is None else (reason in record.reason)


def test_validation_chooses_among_configurations_and_test_does_not(write_results):
    lucky = write_results(Fake("ials", 0.40, config={"reg": 1}, valid=0.30), root="lucky")
    sound = write_results(Fake("ials", 0.33, config={"reg": 2}, valid=0.34), root="sound")
    (record,) = collect_records([lucky, sound], "command")
    assert record.config == {"reg": 2}


def test_different_splits_and_doubled_runs_make_no_board(write_results, tmp_path):
    one = write_results(Fake("ease", 0.3), root="one", split="aa" * 32)
    two = write_results(Fake("ials", 0.3), root="two", split="bb" * 32)
    with pytest.raises(UsageError, match="different splits"):
        collect_records([one, two], "command")
    with pytest.raises(UsageError, match="is there twice"):
        collect_records([one, write_results(Fake("ease", 0.3), root="again", split="aa" * 32)], "command")
    build_records([one], tmp_path / "boards", "command")
    with pytest.raises(UsageError, match=r"ease\.json stems from another split"):
        build_records([two], tmp_path / "boards", "command")
    assert not (tmp_path / "boards/topn/ml-100k/ials.json").exists()


def test_an_edited_record_is_refused(write_results, tmp_path):
    build_records([write_results(Fake("ease", 0.3))], tmp_path, "command")
    file = tmp_path / "topn/ml-100k/ease.json"
    file.write_text(file.read_text().replace('"status"', '"stature"'))
    with pytest.raises(RecbenchError, match=r"ease\.json: \w+: .*build the record again"):
        build_pages(tmp_path)


def test_pages_are_the_same_bytes_when_built_twice(write_results, tmp_path):
    out = write_results(Fake("ease", 0.3), Fake("ials", 0.31, reference=reference()), Fake("cke", 0, fails="<|>"))
    build_records([out], tmp_path / "boards", "command")
    first = [path.read_bytes() for path in build_pages(tmp_path / "boards")]
    build_records([out], tmp_path / "boards", "command")
    assert [path.read_bytes() for path in build_pages(tmp_path / "boards")] == first


def test_pages_need_records(tmp_path):
    with pytest.raises(UsageError, match="no records under"):
        build_pages(tmp_path)


def test_models_of_a_suite_without_results_say_so(write_results, tmp_path):
    results = write_results(Fake("ease", 0.5))
    suite = Suite(title="two", seeds=(1,), runs=(Entry(benchmark="topn/ml-100k", models=("ease", "slim")),))
    build_records([results], tmp_path / "boards", "recbench suite two", suite)
    build_pages(tmp_path / "boards")
    ran, missing = (record for record in read_records(tmp_path / "boards"))
    assert (ran.model.name, missing.model.name) == ("ease", "slim")
    assert ran.metrics.test
    assert (missing.status, missing.reason) == ("partial", "not run: 0 of 5 seeds")
    assert "not run: 0 of 5 seeds" in (tmp_path / "boards" / "README.md").read_text()
    # Built again without the suite, and then with it, nothing that was run is lost.
    build_records([results], tmp_path / "boards", "recbench suite two")
    build_records([results], tmp_path / "boards", "recbench suite two", suite)
    assert [record.model.name for record in read_records(tmp_path / "boards")] == ["ease", "slim"]
