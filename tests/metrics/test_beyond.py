import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from recbench.data.cards import load_card
from recbench.data.source import Source
from recbench.errors import RecbenchError, UsageError
from recbench.metrics.beyond import Catalogue, Lists, beyond_metrics, coverage, entropy, exposure, gini, group_gap
from recbench.metrics.names import BEYOND
from recbench.metrics.topk import top_k

TOGETHER = ("coverage", "gini", "entropy")
OF_A_LIST = [form.removesuffix("@k") for form in BEYOND if form.removesuffix("@k") not in TOGETHER]


def at(k):
    return [form.replace("@k", f"@{k}") for form in BEYOND]


def ragged(rows):
    lengths = torch.tensor([0] + [len(row) for row in rows])
    return torch.tensor([item for row in rows for item in row], dtype=torch.int64), lengths.cumsum(0)


@pytest.fixture
def worked():
    """Five items, four training users; item 4 has no training user and no genre. The last two lists are short."""
    catalogue = Catalogue(torch.tensor([4, 2, 1, 1, 0]), 4, torch.tensor([[1, 0], [1, 1], [0, 1], [0, 1], [0, 0]]))
    lists = Lists(
        torch.tensor([[0, 1, 2], [1, 4, 0], [3, -1, -1], [-1, -1, -1]]),
        torch.tensor([[1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]]).bool(),
        torch.tensor([[0, 2, 3], [0, 1, 2], [0, 1, 3], [0, 1, -1]]),
        ragged([[0, 2], [4], [2], [0]]),
    )
    return lists, catalogue


def approx(values):
    return pytest.approx(values, abs=1e-12, nan_ok=True)


def test_by_hand(worked):
    nan, root = math.nan, 1 / math.sqrt(2)
    values = beyond_metrics(at(3), *worked)
    # Exposure 2, 2, 1, 1, 1 of 7 places.
    assert values["coverage@3"] == 1
    assert values["gini@3"] == approx((-4 * 1 - 2 * 1 + 0 * 1 + 2 * 2 + 4 * 2) / (5 * 7))
    assert values["entropy@3"] == approx((4 / 7 * math.log(7 / 2) + 3 / 7 * math.log(7)) / math.log(5))
    by_user = {name: value.tolist() for name, value in values.items() if isinstance(value, torch.Tensor)}
    # The fifth of five items that is the head is item 0.
    assert by_user == {
        "popularity@3": approx([(1 + 1 / 2 + 1 / 4) / 3, (1 / 2 + 0 + 1) / 3, 1 / 4, nan]),
        "tail@3": approx([2 / 3, 2 / 3, 1, nan]),
        "novelty@3": approx([(0 + 1 + 2) / 3, (1 + 2 + 0) / 3, 2, nan]),
        "serendipity@3": approx([1 / 3, 1 / 3, 0, 0]),
        "ild@3": approx([1 - (root + root + 0) / 3, 1 - root, nan, nan]),
        "miscalibration@3": approx([0, nan, 0, nan]),
    }


def test_by_hand_cut_at_one(worked):
    nan = math.nan
    values = beyond_metrics(at(1), *worked)
    assert values["coverage@1"] == approx(3 / 5)
    assert values["entropy@1"] == approx(math.log(3) / math.log(5))
    # At 1 the popularity recommender lists item 0 alone: the first user's hit, and no longer the third's.
    assert values["serendipity@1"].tolist() == approx([0, 0, 1, 0])
    assert values["ild@1"].isnan().all()
    # Half of the first user's training genres are not in the list: smoothed to .01 / 2.
    divergence = 0.5 * math.log(0.5 / (0.99 + 0.005)) + 0.5 * math.log(0.5 / 0.005)
    assert values["miscalibration@1"].tolist() == approx([divergence, nan, 0, nan])


def test_head_shares_its_border():
    """A fifth of ten items is two; one place goes to item 9, three items are level for the other."""
    popularity = torch.tensor([5, 0, 5, 0, 0, 0, 5, 1, 1, 8])
    values = beyond_metrics(["tail@1"], Lists(torch.tensor([[9], [0], [2], [7], [1]])), Catalogue(popularity, 8))
    assert values["tail@1"].tolist() == approx([0, 2 / 3, 2 / 3, 1, 1])
    # 1.4 of seven items: the head is not rounded, so random lists have .8 of their places outside.
    every = torch.arange(7)[:, None]
    for counts in ([3, 2, 2, 1, 0, 0, 0], [1] * 7):
        values = beyond_metrics(["tail@1"], Lists(every), Catalogue(torch.tensor(counts), 3))
        assert float(values["tail@1"].mean()) == approx(0.8)


def test_extremes_of_exposure():
    same = exposure(torch.arange(5).expand(30, 5), 50)
    assert (coverage(same), gini(same)) == (0.1, pytest.approx(1 - 5 / 50))
    assert entropy(same) == pytest.approx(math.log(5) / math.log(50))
    even = exposure(torch.arange(100).reshape(20, 5) % 50, 50)
    assert (coverage(even), gini(even)) == (1, 0)
    assert entropy(even) == pytest.approx(1)
    nothing = exposure(torch.full((3, 2), -1), 4)
    assert coverage(nothing) == 0
    for measure in (gini, entropy):
        with pytest.raises(RecbenchError, match="all lists are empty"):
            measure(nothing)
    with pytest.raises(RecbenchError, match="one item"):
        entropy(torch.tensor([3]))
    with pytest.raises(RecbenchError, match="item number 4, expected numbers below 4"):
        exposure(torch.tensor([[4]]), 4)


def test_extremes_of_lists():
    """Opposite, equal and unrelated vectors; a list with genres that the user never had, and one of the same."""
    vectors = torch.tensor([[1.0, 0], [-2, 0], [3, 0], [0, 5]])
    lists = Lists(torch.tensor([[0, 1], [0, 2], [2, 3]]), history=ragged([[3], [0], [0, 3]]))
    known = Catalogue(torch.ones(4).long(), 1, vectors)
    assert beyond_metrics(["ild@2"], lists, known)["ild@2"].tolist() == approx([2, 0, 1])
    found = beyond_metrics(["miscalibration@2"], lists, replace(known, vectors=vectors.abs()))
    assert found["miscalibration@2"].tolist() == approx([math.log(100), 0, 0])


@pytest.fixture
def random_lists():
    """300 users, 80 items, lists of ten, a third of them short, a few empty, items without vector."""
    generator = torch.Generator().manual_seed(3)
    n_users, n_items, k = 300, 80, 10

    def drawn():
        lists = torch.rand(n_users, n_items, generator=generator).topk(k).indices
        lengths = torch.where(
            torch.rand(n_users, generator=generator) < 0.3, torch.randint(0, k, (n_users,), generator=generator), k
        )
        return lists.masked_fill(torch.arange(k) >= lengths[:, None], -1)

    items = drawn()
    vectors = torch.rand(n_items, 6, generator=generator) * (torch.rand(n_items, 6, generator=generator) < 0.3)
    history = ragged([row[row >= 0].tolist() for row in drawn()])
    relevant = (torch.rand(n_users, k, generator=generator) < 0.2) & (items >= 0)
    popularity = torch.randint(0, 40, (n_items,), generator=generator)
    return Lists(items, relevant, drawn(), history), Catalogue(popularity, 50, vectors)


def rows(lists, order):
    """Return the lists of some users."""
    values, offsets = lists.history
    history = ragged([values[offsets[u] : offsets[u + 1]].tolist() for u in order.tolist()])
    return Lists(lists.items[order], lists.hits[order], lists.popular[order], history)


@pytest.mark.parametrize("k", [1, 4, 10])
def test_bounds(random_lists, k):
    lists, catalogue = random_lists
    highest = dict.fromkeys(BEYOND, 1.0) | {"novelty@k": math.log2(50), "miscalibration@k": math.log(100)}
    empty = (lists.items[:, 0] < 0).nonzero().squeeze(1)
    assert len(empty)
    for name, value in beyond_metrics(at(k), lists, catalogue).items():
        values = torch.as_tensor(value)
        if values.ndim:
            assert values.dtype == torch.float64
            assert (values[empty] == 0 if name.startswith("serendipity") else values[empty].isnan()).all(), name
        defined = values[~values.isnan()]
        assert len(defined) or name == "ild@1"
        assert ((defined >= 0) & (defined <= highest[f"{name.split('@')[0]}@k"] + 1e-12)).all(), name


def test_order_of_users_and_items_does_not_matter(random_lists):
    lists, catalogue = random_lists
    generator = torch.Generator().manual_seed(4)
    expected = beyond_metrics(at(7), lists, catalogue)

    order = torch.randperm(300, generator=generator)
    shuffled = beyond_metrics(at(7), rows(lists, order), catalogue)
    for name, value in expected.items():
        wanted = value[order] if isinstance(value, torch.Tensor) else torch.tensor(value)
        torch.testing.assert_close(torch.as_tensor(shuffled[name]), wanted, rtol=0, atol=1e-12, equal_nan=True)

    new = torch.randperm(80, generator=generator)
    old = new.argsort()
    rename = torch.cat([new, torch.tensor([-1])])
    renamed = beyond_metrics(
        at(7),
        Lists(
            rename[lists.items],
            lists.hits,
            rename[lists.popular],
            (rename[lists.history[0]], lists.history[1]),
        ),
        Catalogue(catalogue.popularity[old], 50, catalogue.vectors[old]),
    )
    for name, value in expected.items():
        torch.testing.assert_close(renamed[name], value, rtol=0, atol=1e-12, equal_nan=True)


def test_chunks_of_users_give_the_whole(random_lists):
    lists, catalogue = random_lists
    chunks = [rows(lists, users) for users in torch.arange(300).split(37)]
    counts = sum(exposure(chunk.items, 80) for chunk in chunks)
    whole = beyond_metrics(at(10), lists, catalogue)
    assert whole["coverage@10"] == coverage(counts)
    assert whole["gini@10"] == gini(counts)
    assert whole["entropy@10"] == entropy(counts)
    parts = [beyond_metrics([f"{kind}@10" for kind in OF_A_LIST], chunk, catalogue) for chunk in chunks]
    for kind in OF_A_LIST:
        joined = torch.cat([part[f"{kind}@10"] for part in parts])
        torch.testing.assert_close(joined, whole[f"{kind}@10"], rtol=0, atol=1e-12, equal_nan=True)


def test_items_without_vector_count_in_nothing_of_vectors(random_lists):
    """A list means the same without them; without any, it has no value."""
    lists, catalogue = random_lists
    bare = catalogue.vectors.sum(1) == 0
    assert bare.any()
    names = ["ild@10", "miscalibration@10"]
    without = replace(lists, items=lists.items.masked_fill(bare[lists.items], -1))
    torch.testing.assert_close(
        beyond_metrics(names, without, catalogue), beyond_metrics(names, lists, catalogue), equal_nan=True
    )
    none = beyond_metrics(names, lists, replace(catalogue, vectors=torch.zeros(80, 6)))
    assert all(value.isnan().all() for value in none.values())


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("ild@2", {"vectors": None}, "'ild@k' needs item vectors"),
        ("miscalibration@2", {"vectors": None}, "'miscalibration@k' needs item vectors"),
        ("miscalibration@2", {"history": None}, "'miscalibration@k' needs the users' training items"),
        ("serendipity@2", {"popular": None}, "needs the lists of the popularity recommender"),
        ("serendipity@2", {"hits": None}, "needs the marks of relevant items"),
        ("novelty@4", {}, "'novelty@4' needs lists of 4 items, found 3"),
        ("noveltie@2", {}, "did you mean novelty@k"),
        ("ndcg@2", {}, "unknown metric beyond accuracy 'ndcg@2'"),
    ],
)
def test_refuses_what_it_cannot_compute(worked, name, changes, sentence):
    lists, catalogue = worked
    if "vectors" in changes:
        catalogue = replace(catalogue, **changes)
    else:
        lists = replace(lists, **changes)
    with pytest.raises(UsageError, match=sentence):
        beyond_metrics([name], lists, catalogue)


def test_refuses_contradictions(worked):
    lists, catalogue = worked
    with pytest.raises(RecbenchError, match="4 training users, expected at most all 3"):
        replace(catalogue, n_users=3)
    with pytest.raises(RecbenchError, match="each of 5 items, found 2"):
        replace(catalogue, vectors=torch.ones(2, 3))
    vectors = torch.ones(5, 2)
    vectors[3, 0] = -0.5
    with pytest.raises(RecbenchError, match=r"found the entry -0\.5"):
        beyond_metrics(["miscalibration@1"], lists, replace(catalogue, vectors=vectors))
    vectors[3, 0] = math.nan
    with pytest.raises(RecbenchError, match="1 of 10 entries"):
        beyond_metrics(["ild@1"], lists, replace(catalogue, vectors=vectors))


def test_group_gap_by_hand():
    values = torch.tensor([1, 3, math.nan, 10, 5, 5.5, math.nan, 99])
    groups = torch.tensor([0, 0, 0, 2, 3, 3, 4, -1])
    found = group_gap(values, groups)
    assert found.gap == 8
    assert found.means.tolist() == approx([2, math.nan, 10, 5.25, math.nan])
    assert found.sizes.tolist() == [2, 0, 1, 2, 0]
    assert found.standard_errors.tolist() == approx([1, math.nan, math.nan, 0.25, math.nan])
    order = torch.tensor([7, 3, 1, 0, 6, 5, 4, 2])
    torch.testing.assert_close(group_gap(values[order], groups[order]), found, equal_nan=True)


@pytest.mark.parametrize("groups", [[], [3, 3], [-1, 0], [0, 1]])
def test_group_gap_of_fewer_than_two_groups(groups):
    values = torch.tensor([0.5, math.nan])[: len(groups)]
    assert math.isnan(group_gap(values, torch.tensor(groups, dtype=torch.int64)).gap)


@pytest.mark.parametrize(("n_groups", "expected"), [(2, 1.13), (3, 1.69), (5, 2.33)])
def test_group_gap_of_equal_groups_is_what_the_docstring_says(n_groups, expected):
    values = torch.randn(2_000, n_groups * 25, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    gaps = [group_gap(row, torch.arange(len(row)) % n_groups).gap * 5 for row in values]
    assert np.mean(gaps) == pytest.approx(expected, abs=4 * np.std(gaps) / math.sqrt(len(gaps)))


@pytest.fixture(scope="module")
def movielens(mirrored, parts_of):
    """The catalogue with genres, the users' training items, and lists by popularity and at random."""
    name = "topn/ml-100k"
    shared, train, test = (parts_of(name, part) for part in ("shared", "train", "test"))
    table = Source(load_card("ml-100k")).table("items")
    genres = table.explode("genres").pivot("genres", index="item", values="item", aggregate_function="len")
    in_order = pl.DataFrame({"item": shared["item_ids"]}).join(genres, on="item", how="left", maintain_order="left")
    # Two films are marked as of unknown genre: as of none.
    vectors = torch.tensor(in_order.drop("item", "unknown").fill_null(0).to_numpy())
    users, items = (torch.tensor(train[column].astype(np.int64)) for column in ("users", "items"))
    n_users, n_items = len(shared["user_ids"]), len(shared["item_ids"])
    counts = users.bincount(minlength=n_users)
    history = (items, torch.cat([counts.new_zeros(1), counts.cumsum(0)]))
    catalogue = Catalogue(items.bincount(minlength=n_items), n_users, vectors)
    assert vectors.shape == (n_items, 18)
    assert int((vectors.sum(1) == 0).sum()) == 2

    unseen = torch.zeros(n_users, n_items)
    unseen[users, items] = -math.inf
    relevant = torch.zeros(n_users, n_items).bool()
    relevant[tuple(torch.tensor(test[column].astype(np.int64)) for column in ("users", "items"))] = True
    everyone = torch.arange(n_users)
    popular = top_k(unseen + catalogue.popularity, 10, everyone)[0]

    def lists(items):
        return Lists(items, relevant.gather(1, items), popular, history)

    return catalogue, lists(popular), lists(top_k(unseen, 10, everyone)[0])


def means(values):
    return {name.split("@")[0]: float(torch.as_tensor(value).nanmean()) for name, value in values.items()}


def test_popularity_and_random_lists_of_movielens(movielens):
    catalogue, popular, random = movielens
    popular, random = (means(beyond_metrics(at(10), lists, catalogue)) for lists in (popular, random))
    assert popular["serendipity"] == 0 < random["serendipity"]
    assert all(popular[kind] < random[kind] / 2 for kind in ("coverage", "entropy", "novelty", "tail"))
    assert all(popular[kind] > 1.5 * random[kind] for kind in ("gini", "popularity"))
    assert popular["tail"] == 0
    # Of the items a user has not seen somewhat more than four fifths are outside the head.
    assert 0.8 < random["tail"] < 0.85
    assert random["coverage"] > 0.99


def test_own_training_items_are_calibrated(movielens):
    catalogue, _, random = movielens
    values, offsets = random.history
    own = torch.full((len(offsets) - 1, int(offsets.diff().max())), -1)
    row = torch.repeat_interleave(torch.arange(len(own)), offsets.diff())
    own[row, torch.arange(len(values)) - offsets[row]] = values
    found = beyond_metrics([f"miscalibration@{own.shape[1]}"], Lists(own, history=random.history), catalogue).popitem()[
        1
    ]
    assert not found.isnan().any()
    assert float(found.max()) < 1e-12
    of_others = beyond_metrics(["miscalibration@10"], random, catalogue)["miscalibration@10"]
    assert float(of_others.min()) > 0.01


def test_diversity_equals_the_loop_over_pairs(movielens):
    catalogue, _, random = movielens
    vectors = catalogue.vectors.double().numpy()
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1)
    found = beyond_metrics(["ild@10"], random, catalogue)["ild@10"]
    for user in range(0, 900, 20):
        listed = [vectors[i] for i in random.items[user] if vectors[i].any()]
        distances = [1 - a @ b for n, a in enumerate(listed) for b in listed[:n]]
        assert float(found[user]) == pytest.approx(np.mean(distances), abs=1e-12)
