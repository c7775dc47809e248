"""The protocols on the real MovieLens-100K and Coat: who is where, and nothing from where it must not be."""

import tempfile
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import TypeAdapter, ValidationError

from recbench.data.cards import load_card
from recbench.data.protocols import AnyProtocol, Labelled, Protocol, SemiSynthetic, splits
from recbench.data.protocols.base import index
from recbench.data.source import Source
from recbench.data.store import Arrays, prepared
from recbench.errors import RecbenchError
from recbench.tasks.base import load_benchmark

PARTS = ("train", "valid", "test")
IMPLICIT, LABELLED, GRAPH = "topn/ml-100k", "ctr/ml-100k", "kg/ml-100k"
RANDOM_TEST, SEMISYNTHETIC = "rating/coat", "rating/ml-100k-semisynthetic"


class Tables(Source):
    """A dataset whose tables are read once."""

    def __init__(self, name: str) -> None:
        super().__init__(load_card(name))
        self.read = cache(super().table)

    def table(self, name: str) -> pl.DataFrame:
        return self.read(name)


@cache
def raw(dataset: str) -> Tables:
    tables = Tables(dataset)
    try:
        tables.table("interactions")
    except RecbenchError as error:
        pytest.skip(f"no files of {dataset}: {error}")
    return tables


@dataclass(frozen=True)
class Arrayed:
    parts: dict[str, Arrays]
    meta: dict[str, Any]
    split_sha256: str


def arrayed(protocol: Protocol, source: Source) -> Arrayed:
    """Everything a protocol writes, read back into memory."""
    with tempfile.TemporaryDirectory() as folder:
        data = prepared(Path(folder) / "it", lambda out: protocol.build(source, out))
        parts = {name: data.part(name) for name in ("shared", *PARTS, "truth")}
        copies = {part: {name: np.array(values) for name, values in arrays.items()} for part, arrays in parts.items()}
        return Arrayed(copies, dict(data.meta), data.split_sha256)


def build(name: str, **changed: Any) -> Arrayed:
    benchmark = load_benchmark(name)
    return arrayed(benchmark.protocol.model_copy(update=changed), raw(benchmark.dataset))


built = cache(build)


def keys(part: Arrays, n_items: int) -> np.ndarray:
    """One number for each pair."""
    return part["users"].astype(np.int64) * n_items + part["items"]


def floor_share(counts: np.ndarray, share: float) -> np.ndarray:
    return np.floor(counts * share + 1e-9).astype(int)


# implicit


def test_implicit_holds_out_a_tenth_of_every_user_rounded_down() -> None:
    log, parts = raw("ml-100k").table("interactions"), built(IMPLICIT).parts
    sizes = log.group_by("user").len().sort(pl.col("user").cast(int))["len"].to_numpy()
    for name in ("valid", "test"):
        assert np.array_equal(np.bincount(parts[name]["users"], minlength=943), floor_share(sizes, 0.1))
    assert [len(parts[name]["users"]) for name in PARTS] == [80_808, 9_596, 9_596]


def test_implicit_parts_are_the_log_each_interaction_once() -> None:
    parts, log = built(IMPLICIT).parts, raw("ml-100k").table("interactions")
    ids = parts["shared"]
    pairs = [
        np.char.add(np.char.add(ids["user_ids"][parts[name]["users"]], "|"), ids["item_ids"][parts[name]["items"]])
        for name in PARTS
    ]
    expected = (log["user"] + "|" + log["item"]).to_numpy().astype(str)
    assert np.array_equal(np.sort(np.concatenate(pairs)), np.sort(expected))


def test_implicit_rows_are_sorted_by_user_and_item() -> None:
    for name in PARTS:
        assert (np.diff(keys(built(IMPLICIT).parts[name], 1682)) > 0).all()


def test_the_graph_benchmark_has_the_same_split_and_the_items_first() -> None:
    alone, graph = built(IMPLICIT).parts, built(GRAPH).parts
    for name in PARTS:
        assert np.array_equal(keys(alone[name], 1682), keys(graph[name], 1682))
    shared, triples, links = graph["shared"], raw("ml-100k").table("triples"), raw("ml-100k").table("links")
    n_entities = len(shared["entity_ids"])
    assert np.array_equal(shared["entity_ids"][:1682], np.char.add("item:", shared["item_ids"]))
    assert len(np.unique(shared["entity_ids"])) == n_entities
    # A linked entity is its item; all others keep their name.
    item_of = dict(zip(links["entity"], "item:" + links["item"], strict=True))
    for side, numbers in (("head", shared["heads"]), ("tail", shared["tails"])):
        names = triples[side].replace(item_of).to_numpy().astype(str)
        assert np.array_equal(shared["entity_ids"][numbers], names)
    assert np.array_equal(shared["relation_ids"][shared["relations"]], triples["relation"].to_numpy().astype(str))


# labelled


def test_labelled_parts_keep_the_order_of_the_log() -> None:
    log, parts = raw("ml-100k").table("interactions"), built(LABELLED).parts
    of = splits.random_rows(len(log), 0.1, 0.1, load_benchmark(LABELLED).protocol.seed)
    for number, (name, size) in enumerate(zip(PARTS, (80_000, 10_000, 10_000), strict=True)):
        rows = log.filter(pl.Series(of == number))
        assert len(rows) == size
        assert np.array_equal(parts[name]["labels"], rows["rating"].to_numpy() >= 4)
        groups = parts["shared"]["group_ids"][parts[name]["groups"]]
        assert np.array_equal(groups, rows["user"].to_numpy().astype(str))


def test_labelled_vocabularies_are_those_of_training() -> None:
    data, log = built(LABELLED), raw("ml-100k").table("interactions")
    fields = data.meta["fields"]
    assert [field["offset"] for field in fields] == np.cumsum([0, *(field["size"] for field in fields[:-1])]).tolist()
    of = splits.random_rows(len(log), 0.1, 0.1, load_benchmark(LABELLED).protocol.seed)
    single = [field for field in fields if not field["multi"]]
    for column, field in enumerate(single):
        codes = {name: data.parts[name]["ids"][:, column] - field["offset"] for name in PARTS}
        # In training every id but the first (0: not seen in training) occurs; elsewhere all lie in the field.
        assert np.array_equal(np.unique(codes["train"]), np.arange(1, field["size"]))
        for name in ("valid", "test"):
            assert codes[name].min() >= 0
            assert codes[name].max() < field["size"]
        if field["name"] == "item":
            seen = log["item"].filter(pl.Series(of == splits.TRAIN)).unique().implode()
            unseen = ~log["item"].filter(pl.Series(of == splits.TEST)).is_in(seen)
            assert unseen.sum() > 0
            assert np.array_equal(codes["test"] == 0, unseen.to_numpy())


def test_labelled_multi_valued_field() -> None:
    data, tables = built(LABELLED), raw("ml-100k").table
    genres = tables("interactions").join(tables("items"), on="item", how="left", maintain_order="left")["genres"]
    of = splits.random_rows(len(genres), 0.1, 0.1, load_benchmark(LABELLED).protocol.seed)
    (field,) = (field for field in data.meta["fields"] if field["multi"])
    names = genres.filter(pl.Series(of == splits.TRAIN)).explode().drop_nulls().unique().sort().to_numpy()
    assert field["size"] == len(names) + 1
    for number, name in enumerate(PARTS):
        part, rows = data.parts[name], genres.filter(pl.Series(of == number))
        offsets, values = part["genres_offsets"], part["genres_values"] - field["offset"]
        assert np.array_equal(np.diff(offsets), rows.list.len().fill_null(0).to_numpy())
        assert np.array_equal(names[values - 1], rows.explode().drop_nulls().to_numpy())


def test_labelled_names_a_missing_column() -> None:
    protocol = load_benchmark(LABELLED).protocol
    assert isinstance(protocol, Labelled)
    wrong = Labelled.model_validate(protocol.model_dump() | {"fields": [{"name": "price"}]})
    with pytest.raises(RecbenchError, match="field 'price' needs the column 'price', and the dataset has user"):
        arrayed(wrong, raw("ml-100k"))


# random-test


def test_random_test_counts() -> None:
    """16 random ratings a user, 1,862 positive, a quarter for validation; 366 of 6,960 chosen ones are among them."""
    parts = built(RANDOM_TEST).parts
    assert len(parts["train"]["users"]) == 6_960 - 366
    assert np.array_equal(np.bincount(parts["valid"]["users"]), np.full(290, 4))
    assert np.array_equal(np.bincount(parts["test"]["users"]), np.full(290, 12))
    assert parts["valid"]["labels"].sum() + parts["test"]["labels"].sum() == 1_862


def test_random_test_pairs_labels_and_propensities_belong_together() -> None:
    parts, tables = built(RANDOM_TEST).parts, raw("coat").table
    assert np.array_equal(parts["shared"]["user_ids"], np.arange(290).astype(str))
    assert np.array_equal(parts["shared"]["item_ids"], np.arange(300).astype(str))
    published = tables("propensities")["propensity"].to_numpy().reshape(290, 300)
    assert np.allclose(parts["shared"]["propensities"], published * (1 - 16 / 300))
    for table, names in (("interactions", ("train",)), ("random", ("valid", "test"))):
        ratings = np.zeros((290, 300))
        rows = tables(table)
        ratings[rows["user"].cast(int), rows["item"].cast(int)] = rows["rating"]
        for name in names:
            found = ratings[parts[name]["users"], parts[name]["items"]]
            assert (found > 0).all()
            assert np.array_equal(parts[name]["labels"], found >= 3)


# semisynthetic


def within_sampling_error(found: np.ndarray, expected: float) -> bool:
    """Whether the share of ones among draws is the expected one, within four standard errors."""
    return bool(abs(found.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / found.size))


@cache
def world() -> tuple[SemiSynthetic, dict[str, Arrays], np.ndarray, np.ndarray]:
    """The protocol, its arrays, each pair's class, each pair's part (-1: in none)."""
    protocol, parts = load_benchmark(SEMISYNTHETIC).protocol, dict(built(SEMISYNTHETIC).parts)
    assert isinstance(protocol, SemiSynthetic)
    classes = np.searchsorted(np.asarray(protocol.relevance, dtype=np.float32), parts["truth"]["relevance"])
    of = np.full(classes.shape, -1)
    for number, name in enumerate(PARTS):
        assert (of[parts[name]["users"], parts[name]["items"]] == -1).all(), "a pair is in two parts"
        of[parts[name]["users"], parts[name]["items"]] = number
    return protocol, parts, classes, of


def test_classes_have_their_shares_and_propensities() -> None:
    protocol, parts, classes, of = world()
    counts = np.bincount(classes.ravel())
    assert np.abs(counts - np.asarray(protocol.shares) * classes.size).max() <= 1
    kept = 1 - (floor_share(np.array(1682), 0.04) + floor_share(np.array(1682), 0.01)) / 1682
    expected = np.asarray(protocol.exposure)[classes] * kept
    assert np.allclose(parts["shared"]["propensities"], expected, rtol=1e-6)
    for number, exposure in enumerate(protocol.exposure):
        assert within_sampling_error(of[classes == number] == 0, exposure * kept)
        assert within_sampling_error(of[(classes == number) & (of != 1) & (of != 2)] == 0, exposure)


def test_labels_have_the_relevance_of_their_class_in_every_part() -> None:
    """Given the class neither exposure nor the split may know the label."""
    protocol, parts, classes, of = world()
    for number, relevance in enumerate(protocol.relevance):
        for part in (-1, 0, 1, 2):
            assert within_sampling_error(parts["truth"]["labels"][(classes == number) & (of == part)], relevance)
    for name in PARTS:
        truth = parts["truth"]["labels"][parts[name]["users"], parts[name]["items"]]
        assert np.array_equal(parts[name]["labels"], truth)


def test_held_out_pairs_are_missing_at_random() -> None:
    protocol, _, classes, of = world()
    for part, size in ((1, 16), (2, 67)):
        assert (np.count_nonzero(of == part, axis=1) == size).all()
        for number, share in enumerate(protocol.shares):
            assert within_sampling_error(classes[of == part] == number, share)
        # Items: binomial counts of 943 users, so the chi-square statistic has mean 1682 and deviation sqrt(2 * 1682).
        p = size / 1682
        chi_square = ((np.count_nonzero(of == part, axis=0) - 943 * p) ** 2).sum() / (943 * p * (1 - p))
        assert abs(chi_square - 1682) < 4 * np.sqrt(2 * 1682)


def test_the_log_is_not_missing_at_random() -> None:
    _, parts, _, _ = world()
    assert parts["train"]["labels"].mean() > 1.4 * parts["test"]["labels"].mean()


def test_classes_must_agree() -> None:
    with pytest.raises(ValidationError, match=r"found 5, 2 and 5 values and the sum 0\.9"):
        SemiSynthetic(name="x", version="1", shares=(0.5, 0.4))


# all


@pytest.mark.parametrize("name", [IMPLICIT, LABELLED, GRAPH, RANDOM_TEST, SEMISYNTHETIC])
def test_the_seed_alone_decides_the_split(name: str) -> None:
    seed = load_benchmark(name).protocol.seed
    digests = [data.split_sha256 for data in (built(name), build(name), build(name, seed=seed + 1))]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


@pytest.mark.parametrize("name", [IMPLICIT, LABELLED, RANDOM_TEST, SEMISYNTHETIC])
def test_no_pair_is_in_two_parts(name: str) -> None:
    parts = built(name).parts
    if "ids" in parts["train"]:
        ids = {part: parts[part]["ids"][:, :2].astype(np.int64) @ [2**20, 1] for part in PARTS}
        # Ids of unseen users and items are shared; a pair of two known ones is in the log once.
        unknown = {0, built(name).meta["fields"][1]["offset"]}
        found = {part: ids[part][~np.isin(parts[part]["ids"][:, 1], list(unknown))] for part in PARTS}
    else:
        found = {part: keys(parts[part], built(name).meta["n_items"]) for part in PARTS}
    for one, other in combinations(PARTS, 2):
        assert not np.isin(found[one], found[other]).any()


def test_index_is_in_numeric_order_with_other_text_last() -> None:
    column = pl.Series(["10", "b", "9", "10", "a", "-1"] + [str(number) for number in range(100, 2000)])
    ids, codes = index(column)
    assert ids.tolist() == ["-1", "9", "10", *(str(number) for number in range(100, 2000)), "a", "b"]
    assert np.array_equal(ids[codes], column.to_numpy())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"kind": "implicit", "valdi": 0.1}, "valdi"),
        ({"kind": "implicit", "split": {"kind": "random-by-user", "valid": 1.0}}, "less than 1"),
        ({"kind": "implicit", "split": {"kind": "leave-one-out"}}, "'leave-k-out'"),
        ({"kind": "leave-one-out"}, "'implicit', 'labelled', 'random-test', 'semisynthetic', 'facts'"),
        ({"kind": "random-test"}, "positive_from"),
        ({"kind": "labelled", "fields": [{"name": "user", "multy": True}]}, "multy"),
        ({}, "kind"),
    ],
)
def test_bad_keys_and_values(content: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        TypeAdapter[Protocol](AnyProtocol).validate_python({"name": "x", "version": "1"} | content)
