from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbench.data.feature_ranking import Labels, Rows, combine, rank_3mr, rank_fields, rank_fields_3mr, recode
from recbench.errors import UsageError

N = 20_000


def rows_of(labels, **columns):
    """Rows of single-valued fields."""
    ids = np.stack([np.asarray(column) for column in columns.values()], 1)
    fields = [{"name": name, "multi": False} for name in columns]
    return Rows({"ids": ids, "labels": np.asarray(labels, dtype=np.float32)}, fields)


def balanced(rng, n=N):
    return rng.permutation(np.arange(n) % 2)


def agreeing(rng, labels, share):
    return np.where(rng.random(len(labels)) < share, labels, 1 - labels)


def conditional(codes, labels):
    """H(labels | codes) over values seen twice or more, from its definition."""
    total = 0.0
    for value in set(codes):
        group = [label for code, label in zip(codes, labels, strict=True) if code == value]
        shares = [group.count(label) / len(group) for label in set(group)]
        if len(group) >= 2:
            total -= len(group) / len(codes) * sum(share * np.log(share) for share in shares)
    return total


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=2, max_size=40))
def test_is_what_the_definition_says(pairs):
    codes, labels = (recode(np.array(column)) for column in zip(*pairs, strict=True))
    found = Labels(labels)
    background = np.random.default_rng(0).permutation(labels)
    score, information = found.score(codes)
    left = conditional(codes.tolist(), labels.tolist())
    entropy = conditional([0] * len(labels), labels.tolist())
    assert found.entropy == pytest.approx(entropy, abs=1e-12)
    assert information == pytest.approx(entropy - left, abs=1e-12)
    if np.array_equal(codes, labels):
        assert score == information
    else:
        assert score == pytest.approx(conditional(codes.tolist(), background.tolist()) - left, abs=1e-12)


@pytest.mark.parametrize(
    ("cardinality", "plain"), [(2, 0.0), (10, 1.5e-4), (100, 2.4e-3), (1_000, 0.0246), (5_000, 0.155), (20_000, 0.435)]
)
def test_noise_of_any_cardinality_scores_nothing(cardinality, plain):
    rng = np.random.default_rng(1)
    score, information = Labels(balanced(rng)).score(recode(rng.integers(cardinality, size=N)))
    assert information == pytest.approx(plain, rel=0.1, abs=2e-4)
    assert abs(score) < (5e-4 if cardinality < 1_000 else 6e-3)


@pytest.mark.parametrize(("share", "plain"), [(0.60, 0.0202), (0.55, 0.0048)])
def test_signal_is_kept(share, plain):
    rng = np.random.default_rng(2)
    labels = balanced(rng)
    score, information = Labels(labels).score(agreeing(rng, labels, share))
    assert information == pytest.approx(plain, rel=0.15)
    assert score == pytest.approx(information, abs=3e-4)


def test_signal_goes_before_noise_of_many_values_where_plain_information_does_not():
    rng = np.random.default_rng(3)
    labels = balanced(rng)
    noise = rng.integers(5_000, size=N)
    first, second = rank_fields(rows_of(labels, noise=noise, signal=agreeing(rng, labels, 0.55)))
    assert (first.fields, second.fields) == (("signal",), ("noise",))
    assert second.information > first.information
    assert abs(second.score) < first.score


def test_does_not_depend_on_the_order_of_the_rows():
    rng = np.random.default_rng(4)
    labels = balanced(rng)
    signal = agreeing(rng, labels, 0.6)
    order = np.lexsort([signal, labels])
    assert Labels(labels[order]).score(signal[order])[0] == pytest.approx(Labels(labels).score(signal)[0], abs=1e-3)


def test_pairs_show_what_no_field_shows():
    rng = np.random.default_rng(5)
    left, right = rng.integers(2, size=(2, N))
    best, *others = rank_fields(rows_of(left ^ right, left=left, noise=rng.integers(50, size=N), right=right), order=2)
    assert best.fields == ("left", "right")
    assert best.cardinality == 4
    assert best.score > 0.60
    assert all(
        abs(each.score) < 0.01 for each in others if set(each.fields) != {"left", "right"} and len(each.fields) < 2
    )


def test_a_field_that_is_the_label_gets_its_entropy():
    labels = balanced(np.random.default_rng(6))
    assert Labels(labels).score(labels) == pytest.approx((np.log(2), np.log(2)))


def test_a_constant_field_tells_nothing():
    labels = balanced(np.random.default_rng(7))
    assert Labels(labels).score(np.zeros(N, dtype=np.int64)) == pytest.approx((0, 0), abs=1e-12)


def test_naive_generator():
    """A field equal to the label comes first, and the one that is a function of it before it was cut comes next."""
    rng = np.random.default_rng(8)
    columns = {f"f{n}": rng.integers(10, 100, size=10_000) for n in range(60)}
    columns["f31"] = 19 * columns["f30"]
    label = columns["f30"] = np.where(columns["f30"] < 20, 0, columns["f30"])
    ranked = rank_fields(rows_of(label, **columns))
    assert [each.fields for each in ranked[:2]] == [("f30",), ("f31",)]
    low, high = ranked[-1].score, ranked[0].score
    assert (ranked[1].score - low) / (high - low) > 0.9
    assert Labels(columns["f45"]).score(recode(columns["f45"]))[0] > 1


def test_second_order_generator():
    rng = np.random.default_rng(9)
    columns = {f"f{n}": rng.integers(10, 100, size=30_000) for n in (10, 30, 50, 70)}
    label = columns["f30"] + columns["f50"]
    best = rank_fields(rows_of(np.where(label < 40, 0, label), **columns), order=2)[0]
    assert best.fields == ("f30", "f50")


@pytest.mark.parametrize("large", [1, 10**9])
def test_combinations_are_numbered_without_gaps(large):
    rng = np.random.default_rng(10)
    left, right = rng.integers(9, size=(2, 500)) * large
    combined = combine(recode(left), recode(right))
    assert len(set(zip(left, right, strict=True))) == len(set(zip(left, right, combined, strict=True)))
    assert sorted(set(combined)) == list(range(len(set(zip(left, right, strict=True)))))


def test_sets_and_numbers():
    rng = np.random.default_rng(11)
    labels = balanced(rng, 6000)
    # The label is whether the two values differ, in either order; empty sets are a value of their own.
    pairs = rng.integers(3, size=(6000, 2))
    pairs[:, 1] = np.where(labels == 1, (pairs[:, 0] + 1 + rng.integers(2, size=6000)) % 3, pairs[:, 0])
    lengths = np.where(np.arange(6000) % 10 == 0, 0, 2)
    part = {
        "ids": np.zeros((6000, 0), dtype=np.int32),
        "dense": (labels + rng.normal(0, 0.1, 6000)).astype(np.float32)[:, None],
        "tags_values": pairs[lengths > 0].flatten() + 5,
        "tags_offsets": np.concatenate([[0], lengths.cumsum()]),
        "labels": labels.astype(np.float32),
    }
    fields = [{"name": "tags", "multi": True, "dense": False}, {"name": "number", "multi": False, "dense": True}]
    tags, number = sorted(rank_fields(Rows(part, fields)), key=lambda each: each.cardinality)
    assert (tags.fields, tags.cardinality) == (("tags",), 7)
    assert tags.score == pytest.approx(0.9 * np.log(2), abs=0.01)
    assert (number.fields, number.cardinality) == (("number",), 64)
    assert number.score == pytest.approx(np.log(2), abs=0.02)


def test_several_labels_of_a_row_count_together():
    rng = np.random.default_rng(12)
    left, right, third = rng.integers(2, size=(3, 2000))
    rows = rows_of(np.stack([left, right], 1), both=2 * left + right, right=right, third=third)
    assert [each.fields[0] for each in rank_fields(rows)] == ["both", "right", "third"]
    assert rank_fields(rows)[0].score == pytest.approx(np.log(4), abs=0.01)


def test_3mr_by_hand():
    relevance = np.array([1.0, 0.9, 0.5, 0.0])
    redundancy, relation = np.zeros((2, 4, 4))
    assert rank_3mr(relevance, redundancy, relation) == [0, 1, 2, 3]
    redundancy[0, 1] = redundancy[1, 0] = 2.0  # feature 1 says what feature 0 says
    assert rank_3mr(relevance, redundancy, relation) == [0, 2, 1, 3]
    relation[0, 3] = relation[3, 0] = 5.0  # feature 3 says much together with feature 0
    assert rank_3mr(relevance, redundancy, relation) == [0, 3, 2, 1]
    assert rank_3mr(relevance, redundancy, relation, alpha=0, beta=0) == [0, 1, 2, 3]
    relation[:] = np.nan  # unknown pairs count nothing
    assert rank_3mr(relevance, redundancy, relation, aggregate="sum") == [0, 2, 3, 1]


def test_3mr_leaves_a_copy_for_the_end():
    rng = np.random.default_rng(13)
    labels = balanced(rng, 5000)
    strong = agreeing(rng, labels, 0.8)
    rows = rows_of(labels, strong=strong, copy=strong + 3, weak=agreeing(rng, labels, 0.6), one=np.ones(5000, int))
    assert [each.fields[0] for each in rank_fields(rows)][:2] == ["strong", "copy"]
    assert [each.fields[0] for each in rank_fields_3mr(rows)][:2] == ["strong", "weak"]
    alone = rows_of(labels, strong=strong)
    assert [each.fields for each in rank_fields_3mr(alone)] == [("strong",)]


def test_refuses():
    rng = np.random.default_rng(14)
    rows = rows_of(balanced(rng, 10), **{f"f{n}": np.arange(10) for n in range(40)})
    for order in (0, 41):
        with pytest.raises(UsageError, match=f"order: expected from 1 to 40, the number of fields, found {order}"):
            rank_fields(rows, order)
    with pytest.raises(UsageError, match=r"order 4 of 40 fields is 102,090 combinations, expected at most 32,768"):
        rank_fields(rows, 4)


@pytest.mark.usefixtures("mirrored")
def test_real_fields_rank_above_noise(task_of, parts_of):
    """Users and items rank above an added field of as many values, and halves of the rows give the same order."""
    fields = [replace(field) for field in task_of("ctr/ml-100k").data.fields]
    described = [vars(field) for field in fields if not field.multi]
    part = parts_of("ctr/ml-100k", "train")
    noise = np.random.default_rng(15).integers(1_600, size=(len(part["labels"]), 1))
    rows = Rows(
        {"ids": np.hstack([part["ids"], noise]), "labels": part["labels"]},
        [*described, {"name": "noise", "multi": False}],
    )
    ranked = rank_fields(rows)
    names = [each.fields[0] for each in ranked]
    assert names[:2] == ["item", "user"]
    by_name = {each.fields[0]: each for each in ranked}
    assert abs(by_name["noise"].score) < 2e-3
    assert by_name["user"].score > 0.05
    assert names == [each.fields[0] for each in rank_fields(rows)]
    order = np.random.default_rng(16).permutation(len(noise))
    for half in np.array_split(order, 2):
        again = Rows(
            {"ids": np.hstack([part["ids"], noise])[half], "labels": part["labels"][half]},
            [*described, {"name": "noise", "multi": False}],
        )
        assert [each.fields[0] for each in rank_fields(again)][:4] == names[:4]
