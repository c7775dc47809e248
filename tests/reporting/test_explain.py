import json
from xml.etree import ElementTree

import pytest
from fake_results import Fake, write_fake

from recbench.errors import RecbenchError, UsageError
from recbench.models.explanation import Explanation, Matrix, Table
from recbench.reporting import explain
from recbench.running.explanation import EXPLANATION, read_explanation, write_explanation

FIELDS = [f"field{number}" for number in range(12)]
WHOLE = Explanation(
    figures={"kept share": 0.4375, "embedding parameters": 53_890.0},
    parts=[
        Matrix("attention, layer 1", FIELDS[:3], FIELDS[:3], [[1, 0, 0], [0.25, 0.5, 0.25], [0, 0.125, 0.875]]),
        Matrix("a wide one", FIELDS, FIELDS, [[float(x == 11 - y) for x in range(12)] for y in range(12)]),
        Table("kept (%)", {"field": FIELDS, "size": [10.0] * 12, "kept": [number / 12 for number in range(12)]}),
        Table("choices", {"pair": ["a x b"] * 70, "choice": ["memorise"] * 70}),
    ],
)


@pytest.fixture
def directory(tmp_path):
    write_fake(tmp_path, Fake("optfs", 0.5), 1, "topn/ml-100k", "split")
    (record,) = tmp_path.rglob("result.json")
    return record.parent


def test_what_is_written_is_what_is_read(directory):
    write_explanation(directory, WHOLE)
    assert read_explanation(directory) == read_explanation(directory / "result.json") == WHOLE


def test_fits_a_terminal_of_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    explain.print_explanation(WHOLE)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for expected in ("0.4375", "53,890", "attention, layer 1", "0.875", "largest entries", "40 more rows: --json"):
        assert expected in text
    # Of the wide matrix the twelve ones come first.
    lines = text[text.index("largest entries") :].splitlines()
    assert all(f"field{11 - number}" in " ".join(lines) for number in range(12))


def test_a_matrix_that_is_too_wide_is_turned_or_else_listed(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    names = [f"a_long_name_{number}" for number in range(8)]
    explain.print_explanation(Explanation(parts=[Matrix("kept", ["cluster 0"], names, [[1.5, *range(7)]])]))
    text = capsys.readouterr().out
    assert all(name in text for name in names)
    assert ["a_long_name_0", "1.5"] in [line.split() for line in text.splitlines()]
    explain.print_explanation(Explanation(parts=[Matrix("square", names, names, [[0.1234] * 8] * 8)]))
    text = capsys.readouterr().out
    assert "square: largest entries" in text
    assert "…" not in text


def test_plots_are_drawn_of_matrices_and_of_tables_with_numbers(tmp_path):
    paths = explain.write_plots(WHOLE, tmp_path / "plots")
    assert [path.name for path in paths] == ["1-attention-layer-1.svg", "2-a-wide-one.svg", "3-kept.svg"]
    for path in paths:
        ElementTree.parse(path)
    again = explain.write_plots(WHOLE, tmp_path / "again")
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]


def test_a_model_that_tells_nothing_is_named(directory):
    with pytest.raises(UsageError, match="model optfs selects nothing"):
        read_explanation(directory)


def test_a_failed_run_has_nothing_to_tell(tmp_path):
    write_fake(tmp_path, Fake("optfs", 0.5, fails="the loss is nan"), 1, "topn/ml-100k", "split")
    (record,) = tmp_path.rglob("result.json")
    with pytest.raises(UsageError, match="the loss is nan"):
        read_explanation(record)


@pytest.mark.parametrize(
    ("content", "sentence"), [("{", "Invalid JSON"), (json.dumps({"figures": {"a": "b"}}), "figures.a: ")]
)
def test_a_broken_file_is_named(directory, content, sentence):
    (directory / EXPLANATION).write_text(content)
    with pytest.raises(RecbenchError, match=f"(?s)explanation.json: .*{sentence}|explanation.json: {sentence}"):
        read_explanation(directory)
