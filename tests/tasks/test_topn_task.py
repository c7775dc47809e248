"""The top-N task: what it hands out, and that its judgement depends on nothing but scores."""

import numpy as np
import polars as pl
import polars.testing
import pytest
import torch
from scipy import stats

from recbench.errors import RecbenchError
from recbench.tasks import ranking
from recbench.tasks.base import Development, SealedTest
from recbench.tasks.interactions import TopNData
from recbench.tasks.samplers import Sampler
from recbench.tasks.topn import TopNTask

NAME = "topn/ml-100k"
FURTHER = "uauc", "rprecision", "entropy@10", "map_n@10", "map_hits@10", "rbp.80@10", "gap:gender:uauc"
"""Metrics that the benchmark does not name."""


class Scorer:
    """Scores that depend on user and item only; coarse, so that there are ties."""

    def __init__(self, n_items, levels=50):
        generator = torch.Generator().manual_seed(0)
        self.left = torch.randn(943, 8, generator=generator)
        self.right = torch.randn(n_items, 8, generator=generator)
        self.levels = levels

    def prepare_scoring(self):
        pass

    def score(self, batch):
        scores = (self.left[batch.users, None].double() * self.right.double()).sum(2)
        return scores if self.levels is None else scores.mul(self.levels).round()


class Constant:
    def prepare_scoring(self):
        pass

    def score(self, batch):
        return torch.zeros(len(batch), batch.n_items)


@pytest.fixture(scope="module")
def task(task_of):
    return task_of(NAME)


def small_data(n_users=40, n_items=30, seed=0):
    rng = np.random.default_rng(seed)
    seen = rng.random((n_users, n_items)) < rng.random((n_users, 1))
    seen[0], seen[1], seen[2] = False, True, True
    seen[2, 17] = False  # one item left
    seen[3:, 5] = False
    users, items = np.nonzero(seen)
    return seen, TopNData(n_users, n_items, torch.tensor(users), torch.tensor(items))


def test_does_not_depend_on_the_block_size(task, parts_of, monkeypatch):
    model, part = Scorer(task.data.n_items), parts_of(NAME, "valid")
    whole = task.evaluate(model, part)
    monkeypatch.setattr(ranking, "SCORES_AT_ONCE", {"cpu": 7 * task.data.n_items})
    blocked = task.evaluate(model, part)
    assert whole.metrics == blocked.metrics
    assert whole.tables().predictions.equals(blocked.tables().predictions)
    assert 0 < whole.diagnostics["tie_rate"] == blocked.diagnostics["tie_rate"]


def test_does_not_depend_on_the_numbering_of_users_and_items(task, parts_of):
    rng = np.random.default_rng(1)
    shared = parts_of(NAME, "shared")
    users, items = rng.permutation(len(shared["user_ids"])), rng.permutation(len(shared["item_ids"]))

    def part(name):
        """The same data; what was user u is now user ``users[u]``."""
        part = parts_of(NAME, name)
        pairs = np.stack([users[part["users"]], items[part["items"]]])
        return dict(zip(("users", "items"), pairs[:, np.lexsort(pairs[::-1])], strict=True))

    ids = {"user_ids": shared["user_ids"][users.argsort()], "item_ids": shared["item_ids"][items.argsort()]}
    meta = {"n_users": len(users), "n_items": len(items)}
    there_data = Development(ids, part("train"), part("valid"), meta, "", pl.Series)
    model = Scorer(task.data.n_items, levels=None)
    renumbered = Scorer(task.data.n_items, levels=None)
    renumbered.left, renumbered.right = model.left[users.argsort()], model.right[items.argsort()]
    other = TopNTask(task.benchmark, there_data, torch.device("cpu"))
    metrics = *task.benchmark.metrics, *FURTHER
    there = other.evaluate(renumbered, part("test"), seen=part("valid"), metrics=metrics)
    here = task.evaluate(model, parts_of(NAME, "test"), seen=parts_of(NAME, "valid"), metrics=metrics)
    assert set(here.metrics) == set(metrics)
    assert there.metrics == pytest.approx(here.metrics, abs=1e-12)
    tables = [evaluation.tables().per_user.sort("user") for evaluation in (there, here)]
    pl.testing.assert_frame_equal(*tables, rel_tol=0, abs_tol=1e-12)


def test_a_constant_scorer_scores_like_a_random_one(task, parts_of):
    part = parts_of(NAME, "valid")
    evaluation = task.evaluate(Constant(), part)
    seen = task.data.history.lengths.numpy()
    users, counts = np.unique(part["users"], return_counts=True)
    chance = 1 / (task.data.n_items - seen[users])  # that one unseen item stands at a given rank
    per_user = evaluation.tables().per_user
    for name, expected in {"recall@10": 10 * chance, "precision@10": counts * chance}.items():
        error = per_user[name].std() / np.sqrt(len(users))
        assert abs(evaluation.metrics[name] - expected.mean()) < 4 * error, name
    assert evaluation.diagnostics["tie_rate"] == 1.0


def test_seen_items_are_never_ranked(task, parts_of):
    shared, valid, train = (parts_of(NAME, part) for part in ("shared", "valid", "train"))

    class Perverse:
        """Likes best what must not be ranked."""

        def prepare_scoring(self):
            pass

        def score(self, batch):
            scores = torch.zeros(len(batch), batch.n_items)
            for part in (train, valid):
                known = torch.zeros(943, batch.n_items)
                known[torch.tensor(part["users"]).long(), torch.tensor(part["items"]).long()] = 9.0
                scores += known[batch.users]
            return scores

    def pairs(part):
        return pl.DataFrame({"user": shared["user_ids"][part["users"]], "item": shared["item_ids"][part["items"]]})

    tested = task.evaluate(Perverse(), parts_of(NAME, "test"), seen=valid).tables().predictions
    assert len(tested) > 9000
    for part in (train, valid):
        assert tested.join(pairs(part), on=["user", "item"]).is_empty()
    validated = task.evaluate(Perverse(), valid).tables().predictions
    assert validated.join(pairs(train), on=["user", "item"]).is_empty()
    assert not validated.join(pairs(valid), on=["user", "item"]).is_empty()


def test_masking_leaves_the_models_own_scores_alone(task, parts_of):
    table = torch.randn(943, task.data.n_items, generator=torch.Generator().manual_seed(0))
    before = table.clone()

    class View(Constant):
        def score(self, batch):
            return table[: len(batch)]

    class Expanded(Constant):
        def score(self, batch):
            return table[0].expand(len(batch), -1)

    for model in (View(), Expanded()):
        task.evaluate(model, parts_of(NAME, "valid"))
    assert torch.equal(table, before)


def test_the_layout_of_scores_does_not_matter(task, parts_of):
    n_items = task.data.n_items
    table = torch.randn(943, n_items, generator=torch.Generator().manual_seed(0))

    def by_users(batch):
        return table[batch.users]

    def same_row(batch):
        return table[:1].repeat(len(batch), 1)

    # Each of two equal forms; the first is a plain matrix.
    layouts = [
        (by_users, lambda batch: table.T.contiguous()[:, batch.users].T),
        (by_users, lambda batch: torch.nn.functional.pad(table[batch.users], (0, 5))[:, :n_items]),
        (same_row, lambda batch: table[0].clone().expand(len(batch), -1)),
    ]
    for plain, other in layouts:
        evaluations = []
        for form in (plain, other):
            model = Constant()
            model.score = form
            evaluations.append(task.evaluate(model, parts_of(NAME, "valid")).metrics)
        assert evaluations[0] == evaluations[1]


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        (lambda n, i: torch.zeros(n, i - 1), "expected"),
        (lambda n, i: torch.zeros(i), "expected"),
        (lambda n, i: torch.full((n, i), torch.nan), "NaN"),
    ],
)
def test_refuses_scores_that_cannot_be_ranked(task, parts_of, scores, sentence):
    class Wrong(Constant):
        def score(self, batch):
            return scores(len(batch), batch.n_items)

    with pytest.raises(RecbenchError, match=sentence):
        task.evaluate(Wrong(), parts_of(NAME, "valid"))


def test_sampled_items_are_uniform_over_the_unseen_ones():
    seen, data = small_data()
    users = torch.tensor([0, 2, *range(3, 40)])
    drawn = data.sample_unseen(users, 3000, torch.Generator().manual_seed(3)).numpy()
    smallest = []
    for user, items in zip(users.tolist(), drawn, strict=True):
        counts = np.bincount(items, minlength=data.n_items)
        assert not counts[seen[user]].any()
        assert counts[~seen[user]].sum() == 3000
        if (~seen[user]).sum() > 1:
            smallest.append(stats.chisquare(counts[~seen[user]]).pvalue)
    # Of about forty uniform p-values the smallest is below 1e-5 once in 2500 worlds.
    assert min(smallest) > 1e-5
    assert (drawn[1] == 17).all()


def test_a_user_who_has_seen_everything_spoils_nothing():
    _, data = small_data()
    drawn = data.sample_unseen(torch.tensor([1, 2]), 50, torch.Generator().manual_seed(0))
    assert drawn.shape == (2, 50)
    assert 0 <= int(drawn.min()) <= int(drawn.max()) < data.n_items
    assert (drawn[1] == 17).all()


def test_an_epoch_of_pairs_has_every_interaction_once():
    seen, data = small_data()
    unfinished = ~seen.all(1)
    batches = list(data.pairs(64, Sampler(data, 2)).epoch(torch.Generator().manual_seed(0)))
    users = torch.cat([batch.users for batch in batches]).numpy()
    items = torch.cat([batch.positives for batch in batches]).numpy()
    assert sorted(zip(users, items, strict=True)) == sorted(zip(*np.nonzero(seen), strict=True))
    negatives = torch.cat([batch.negatives for batch in batches]).numpy()
    assert negatives.shape == (len(users), 2)
    assert not seen[users[:, None], negatives][unfinished[users]].any()
    assert [len(batch) for batch in batches[:-1]] == [64] * (len(batches) - 1)


def test_an_epoch_of_user_rows_has_every_user_with_items_once():
    seen, data = small_data()
    batches = list(data.user_rows(7).epoch(torch.Generator().manual_seed(0)))
    users = torch.cat([batch.users for batch in batches])
    assert sorted(users.tolist()) == np.flatnonzero(seen.any(1)).tolist()
    dense = torch.cat([batch.dense() for batch in batches]).numpy()
    np.testing.assert_array_equal(dense, seen[users].astype(np.float32))
    np.testing.assert_array_equal(data.matrix().toarray(), seen)


def test_batches_follow_from_the_generator():
    _, data = small_data()

    def epoch(seed):
        batches = data.pairs(64).epoch(torch.Generator().manual_seed(seed))
        return torch.cat([torch.column_stack([b.users, b.positives, b.negatives]) for b in batches])

    assert torch.equal(epoch(1), epoch(1))
    assert not torch.equal(epoch(1), epoch(2))


def test_the_sparse_product_is_the_dense_one():
    _, data = small_data()
    batch = data.user_batch(torch.tensor([5, 0, 1, 39, 0]))
    weight = torch.randn(data.n_items, 6, dtype=torch.float64, requires_grad=True)
    values = torch.rand(len(batch.history.values), dtype=torch.float64, requires_grad=True)
    dense = torch.zeros(5, data.n_items, dtype=torch.float64)
    dense = dense.index_put((batch.history.rows(), batch.history.values), values)
    torch.testing.assert_close(batch.times(weight), batch.dense().double() @ weight)
    torch.testing.assert_close(batch.times(weight, values), dense @ weight)
    ours = torch.autograd.grad(batch.times(weight, values).square().sum(), [weight, values])
    theirs = torch.autograd.grad((dense @ weight).square().sum(), [weight, values])
    torch.testing.assert_close(ours, theirs)


def test_the_test_part_opens_once(caplog):
    class Stored:
        def part(self, name):
            return {"users": name}

    sealed = SealedTest(Stored())
    with caplog.at_level("INFO", logger="recbench"):
        assert sealed.open() == {"users": "test"}
    assert "test labels opened" in caplog.text
    with pytest.raises(RecbenchError, match="opened before"):
        sealed.open()


def test_finds_leaked_test_pairs(task, parts_of):
    clean = task.lint(parts_of(NAME, "test"))
    assert clean.checks == ("pairs-in-training", "pairs-in-validation")
    assert clean.findings == ()
    leaked = {name: values[:7] for name, values in parts_of(NAME, "train").items()}
    (finding,) = task.lint(leaked).severe
    assert finding.message == "7 test pairs are also in the training part"


def test_what_models_train_on_holds_no_other_part(task, parts_of):
    train = parts_of(NAME, "train")
    assert len(task.data.users) == len(train["users"])
    tensors = [value for value in vars(task.data).values() if isinstance(value, torch.Tensor)]
    assert {len(tensor) for tensor in tensors} == {len(train["users"])}
    for part in ("valid", "test"):
        held_out = parts_of(NAME, part)
        keys = held_out["users"].astype(np.int64) * task.data.n_items + held_out["items"]
        assert not np.isin(keys, (task.data.users * task.data.n_items + task.data.items).numpy()).any()
