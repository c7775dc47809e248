import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from fake_results import Fake

from recbench.errors import RecbenchError
from recbench.reporting.compare import compare
from recbench.reporting.plots import intervals, pareto_front, quality_against_cost, write_plots

MANY = [Fake(f"model{k:02}", 0.30 + 0.0005 * k, fit_s=1.2**k, seeds=range(3)) for k in range(14)]
RANDOM = Fake("random", 0.01, fit_s=0.0)


@pytest.fixture
def comparison(write_results):
    for name in ("ml-100k", "gowalla"):
        out = write_results(*MANY, RANDOM, benchmark=f"topn/{name}")
    return compare([out])


def shapes(path) -> list[str]:
    root = ElementTree.parse(path).getroot()
    assert root.tag.endswith("svg")
    return [element.tag for element in root.iter()]


def test_plots_are_written_in_a_folder_that_is_made(comparison, tmp_path):
    folder = tmp_path / "new" / "plots"
    written = write_plots(comparison, folder)
    assert [path.name for path in written] == [
        "topn-gowalla-ndcg@10-intervals.svg",
        "topn-gowalla-ndcg@10-cost.svg",
        "topn-ml-100k-ndcg@10-intervals.svg",
        "topn-ml-100k-ndcg@10-cost.svg",
        "critical-difference.svg",
    ]
    assert sorted(folder.iterdir()) == sorted(written)  # and nothing temporary beside them
    for path in written:
        assert len([tag for tag in shapes(path) if tag.endswith("path")]) > 30


def test_the_same_comparison_gives_the_same_bytes(write_results, tmp_path):
    comparison = compare([write_results(*MANY[:3])])
    once, again = (write_plots(comparison, tmp_path / name) for name in ("once", "again"))
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]


def test_a_folder_that_cannot_be_written_is_one_sentence(write_results, tmp_path):
    comparison = compare([write_results(*MANY[:2])])
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(RecbenchError, match=r"^cannot write \S+svg: .*; choose a folder that can be written to"):
        write_plots(comparison, file)


def test_no_plot_is_drawn_without_data(write_results, tmp_path):
    scored = [Fake(name, 0.3, seeds=[0], scored=True) for name in ("theirs", "ours")]
    write_results(Fake("kgat", 0, fails="out of memory"), benchmark="kg/ml-100k")
    written = write_plots(compare([write_results(*scored)]), tmp_path / "plots")
    assert [path.name for path in written] == ["topn-ml-100k-ndcg@10-intervals.svg"]


def test_splits_have_files_of_their_own(write_results, tmp_path):
    one, two = (write_results(*MANY[:2], root=name, split=name * 32) for name in ("5a", "6b"))
    names = [path.name for path in write_plots(compare([one, two]), tmp_path / "plots")]
    assert "topn-ml-100k-5a5a5a5a-ndcg@10-intervals.svg" in names
    assert len(set(names)) == 4


def test_intervals_show_every_model_and_leave_room_for_the_good_ones(comparison):
    table = comparison.tables[0]
    (axes,) = intervals(table).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [row.label for row in table.rows]
    assert {row.group for row in table.rows} <= {text.get_text() for text in axes.texts}
    low, high = axes.get_xlim()
    assert 0.28 < low < table.rows[-2].summary.mean < table.rows[0].summary.mean < high  # random is beyond the edge
    assert any(re.fullmatch(r" ◂ 0\.0\d{3}", text.get_text()) for text in axes.texts)


def test_labels_of_fifteen_models_do_not_overlap(comparison):
    for table in comparison.tables:
        figure = quality_against_cost(table)
        (axes,) = figure.axes
        texts = [text for text in axes.texts if text.get_text()]
        assert {text.get_text().split()[0] for text in texts} == {row.label for row in table.rows}
        boxes = [text.get_window_extent() for text in texts]
        frame = axes.get_window_extent().padded(1)
        for i, box in enumerate(boxes):
            assert frame.count_contains(box.corners()) == 4
            assert box.padded(-0.5).count_overlaps(boxes[:i]) == 0


def test_the_pareto_front_has_what_nothing_beats():
    generator = np.random.default_rng(0)
    for _ in range(50):
        cost, quality = generator.integers(0, 6, (2, 12)).astype(float)
        front = pareto_front(cost, quality)
        better = (cost <= cost[:, None]) & (quality >= quality[:, None])
        beaten = (better & ((cost < cost[:, None]) | (quality > quality[:, None]))).any(axis=1)
        assert set(zip(cost[front], quality[front], strict=True)) == set(
            zip(cost[~beaten], quality[~beaten], strict=True)
        )
        assert (np.diff(cost[front]) > 0).all()
        assert (np.diff(quality[front]) > 0).all()


def test_losses_are_better_below(write_results):
    out = write_results(Fake("fm", 0.78, fit_s=9), Fake("lr", 0.70, fit_s=1), benchmark="ctr/ml-100k")
    (table,) = compare([out], metric="logloss").tables
    (axes,) = quality_against_cost(table).axes
    assert axes.get_ylabel() == "logloss (lower is better)"
    front = axes.lines[0].get_xydata()
    assert front[0, 1] == pytest.approx(table.rows[1].summary.mean)  # the quick one first, then the better one below
    assert front[-1, 1] == pytest.approx(table.rows[0].summary.mean)


def test_the_command_says_which_files_it_wrote(write_results, command, tmp_path):
    out, folder = write_results(*MANY[:2]), tmp_path / "plots"
    answer = command("compare", out, "--plots", folder)
    written = re.findall(r"^plot: (.*)$", answer.out, flags=re.MULTILINE)
    assert answer.status == 0
    assert sorted(map(str, folder.iterdir())) == sorted(written)
    assert len(written) == 2
    answer = command("compare", out, "--plots", folder, "--json")
    assert json.loads(answer.out)["tables"][0]["pairs"][0]["within_seeds"]
    assert answer.err.count("plot: ") == 2
