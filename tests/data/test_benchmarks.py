"""Every benchmark whose data is in the mirror, prepared for real: sizes known from elsewhere, and no leaks."""

from functools import cache
from itertools import combinations

import numpy as np
import pytest

from recbench.data.cards import load_card
from recbench.data.protocols import Facts, Implicit, Labelled, RandomTest
from recbench.data.source import Source
from recbench.errors import RecbenchError
from recbench.tasks.base import benchmark_names, load_benchmark

PARTS = ("train", "valid", "test")
# Rows of train, validation and test: published, or what the counted log leaves after a split that is stated.
SIZES = {
    "topn/ml-100k": (80_808, 9_596, 9_596),
    "topn/gowalla": (719_081, 91_047, 217_242),
    "topn/amazon-nbpo": (31_887, 4_044, 4_044),
    "topn/lastfm": (42_135 - 3_343, 3_343, 10_533),
    "ctr/frappe": (202_027, 57_722, 28_860),
    "ctr/avazu-sample": (8_087, 480, 432),
    "ctr/criteo-sample": (8_000, 1_000, 1_000),
    # Rows of the time of a cut are after it.
    "ctr/ml-100k-history": (79_999, 10_001, 10_000),
    "ctr/ml-100k-tasks": (79_999, 10_001, 10_000),
    # 261,197 of 1,000,209 ratings are 3.
    "ctr/ml-1m": (739_012 - 2 * 73_901, 73_901, 73_901),
    "sequential/ml-1m-sasrec": (999_611 - 2 * 6_040, 6_040, 6_040),
    "sequential/ml-100k": (98_114, 943, 943),
    "sequential/amazon-beauty": (198_502 - 2 * 22_363, 22_363, 22_363),
    "kgc/fb15k-237": (272_115, 17_535, 20_466),
    "kgc/wn18rr": (86_835, 3_034, 3_134),
    "kgc/kinships": (8_544, 1_068, 1_074),
    "kgc/umls": (5_216, 652, 661),
    "kgc/nations": (1_592, 199, 201),
}
META = {
    "kgc/fb15k-237": {"n_entities": 14_541, "n_relations": 237},
    "kgc/wn18rr": {"n_entities": 40_943, "n_relations": 11},
    "topn/gowalla": {"n_users": 29_858, "n_items": 40_981},
    "topn/citeulike-a": {"n_users": 5_551, "n_items": 16_980},
    "kg/lastfm-kg": {"n_users": 1_872, "n_items": 3_846},
    "kg/ml-1m-kg": {"n_users": 6_036, "n_items": 2_254},
    "sequential/ml-1m-sasrec": {"n_users": 6_040, "n_items": 3_416},
    "sequential/diginetica": {"n_users": 186_670 + 60_858, "n_items": 43_097, "fold_in": True},
}
NAMES = [name for name in benchmark_names() if load_card(load_benchmark(name).dataset).verified == "counted"]


@cache
def prepared(name):
    benchmark = load_benchmark(name)
    try:
        return benchmark.protocol.prepare(load_card(benchmark.dataset))
    except RecbenchError as error:
        if "cannot get" in str(error):
            pytest.skip(f"no files of {benchmark.dataset}: set RECBENCH_MIRROR")
        raise


def test_the_benchmarks_that_users_expect_are_there():
    assert {"topn/ml-1m", "topn/ml-1m-strong", "ctr/criteo-x4", "ctr/avazu-x4"} <= set(benchmark_names())
    assert {"rating/coat", "rating/yahoo-r3", "rating/kuairec"} <= set(benchmark_names())
    assert set(SIZES) | set(META) <= set(NAMES)


@pytest.mark.parametrize("name", benchmark_names())
def test_the_dataset_has_what_the_protocol_reads(name):
    benchmark = load_benchmark(name)
    source = Source(load_card(benchmark.dataset))
    columns = {table: set(source.columns(table)) for table in benchmark.protocol.tables(source)}
    if isinstance(benchmark.protocol, Labelled):
        labels = benchmark.protocol.labels or {"label": benchmark.protocol.label}
        assert {label.column for label in labels.values()} <= set.union(*columns.values())
        return
    needed = {"triples": {"head", "relation", "tail"}, "links": {"item", "entity"}, "propensities": {"propensity"}}
    for table, found in columns.items():
        if isinstance(benchmark.protocol, Facts):
            assert needed["triples"] <= found
        elif isinstance(benchmark.protocol, Implicit):
            assert needed.get(table, {benchmark.protocol.user, "item"}) <= found
        elif isinstance(benchmark.protocol, RandomTest):
            assert needed.get(table, {benchmark.protocol.label_column}) | {"user", "item"} <= found
        else:
            assert {"user", "item", "rating"} <= found


@pytest.mark.parametrize("name", sorted(SIZES))
def test_sizes(name):
    data = prepared(name)
    column = {"ctr": "labels", "kgc": "heads"}.get(name.partition("/")[0], "users")
    assert tuple(len(data.part(part)[column]) for part in PARTS) == SIZES[name]


@pytest.mark.parametrize("name", sorted(META))
def test_what_is_in_it(name):
    assert META[name].items() <= prepared(name).meta.items()


def keys(protocol, part, prefix=""):
    columns = ("heads", "relations", "tails") if isinstance(protocol, Facts) else ("users", "items")
    return np.stack([part[f"{prefix}{column}"] for column in columns], 1)


@pytest.mark.parametrize("name", [name for name in NAMES if not isinstance(load_benchmark(name).protocol, Labelled)])
def test_nothing_is_in_two_parts(name):
    protocol, data = load_benchmark(name).protocol, prepared(name)
    if isinstance(protocol, Implicit) and protocol.ordered:
        pytest.skip("a later event may repeat an earlier one")
    rows = {part: {tuple(row) for row in keys(protocol, data.part(part)).tolist()} for part in PARTS}
    for one, other in combinations(PARTS, 2):
        assert not rows[one] & rows[other]


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("sequential/")])
def test_the_target_comes_after_all_that_is_known(name):
    data = prepared(name)
    train = data.part("train")
    latest = np.full(data.meta["n_users"], -np.inf)
    np.maximum.at(latest, train["users"], train["times"])
    for name_of_part in ("valid", "test"):
        part = data.part(name_of_part)
        assert len(np.unique(part["users"])) == len(part["users"]), "one target a user"
        if not data.meta.get("fold_in"):
            # MovieLens-100K has many ratings of one second; the order of the file decides among them.
            later = np.greater_equal if name == "sequential/ml-100k" else np.greater
            assert later(part["times"], latest[part["users"]]).all()
        if "history_users" in part and name_of_part == "valid":
            shown = np.full(data.meta["n_users"], -np.inf)
            np.maximum.at(shown, part["history_users"], part["history_times"])
            assert (part["times"] > shown[part["users"]]).all()


def test_strong_generalisation_folds_in_four_fifths():
    data = prepared("topn/ml-1m-strong")
    train = data.part("train")
    for name in ("valid", "test"):
        part = data.part(name)
        held_out = np.unique(part["users"])
        assert not np.isin(held_out, train["users"]).any()
        shown, asked = np.bincount(part["history_users"])[held_out], np.bincount(part["users"])[held_out]
        assert (asked == np.floor((shown + asked) * 0.2 + 1e-9)).all()
    assert data.meta["fold_in"]
    # 603 of 6,034 users with five ratings of at least 4, for each part.
    assert len(np.unique(data.part("test")["users"])) == 603


def test_the_reconstructed_frappe_has_its_published_positives():
    labels = {part: prepared("ctr/frappe").part(part)["labels"] for part in PARTS}
    assert int(labels["train"].sum()) == 67_604
    assert int(labels["valid"].sum() + labels["test"].sum()) == 28_599
