import pytest
from fake_results import Fake

from recbench.errors import RecbenchError
from recbench.reporting.entries import group_results
from recbench.running.result import find_results, write_result


def test_seeds_of_one_configuration_are_one_entry(write_results):
    out = write_results(Fake("multvae", 0.3, seeds=range(3)), Fake("ease", 0.31, seeds=[0], deterministic=True))
    (group,) = group_results([out])
    assert [(entry.label, len(entry.runs)) for entry in group.entries] == [("ease", 1), ("multvae", 3)]


def test_configurations_are_labelled_by_what_differs(write_results):
    one = write_results(Fake("multvae", 0.3, config={"dropout": 0.5, "hidden": [600]}), root="one")
    two = write_results(Fake("multvae", 0.3, config={"dropout": 0.2, "hidden": [600]}), root="two")
    (group,) = group_results([one, two])
    assert [entry.label for entry in group.entries] == ["multvae dropout=0.2", "multvae dropout=0.5"]


def test_the_same_directory_given_twice_counts_once(write_results):
    out = write_results(Fake("ease", 0.3))
    (group,) = group_results([out, out / "topn"])
    assert len(group.entries[0].runs) == 5
    assert not group.warnings


def test_a_run_that_is_there_twice_counts_once_and_warns(write_results):
    one, two = (write_results(Fake("ease", 0.3, seeds=[1]), root=root) for root in ("one", "two"))
    (group,) = group_results([one, two])
    assert len(group.entries[0].runs) == 1
    assert "ease with seed 1 is there twice" in group.warnings[0]


def test_different_splits_are_apart_with_a_warning(write_results):
    one = write_results(Fake("ease", 0.3), root="one", split="aa" * 32)
    two = write_results(Fake("ials", 0.3), root="two", split="bb" * 32)
    groups = group_results([one, two])
    assert [group.entries[0].label for group in groups] == ["ease", "ials"]
    assert all("2 different splits" in group.warnings[0] for group in groups)


def test_a_failure_without_a_model_record_is_named_by_its_directory(write_results):
    out = write_results(Fake("ease", 0.3), Fake("kgat", 0, seeds=[2], fails="out of memory"))
    (group,) = group_results([out])
    (failure,) = group.failures
    assert (failure.model, failure.seed, failure.error) == ("kgat", 2, "out of memory")


def test_a_finished_result_must_be_whole(write_results):
    out = write_results(Fake("ease", 0.3, seeds=[0]))
    ((directory, result),) = find_results([out])
    write_result(directory, result.model_copy(update={"metrics": None}))
    with pytest.raises(RecbenchError, match="marked finished but lacks"):
        group_results([out])
