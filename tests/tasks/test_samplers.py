"""Samplers: what they draw, against what they say about it."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from recbench.tasks.interactions import PairBatch, TopNData
from recbench.tasks.samplers import Negatives, Sampler, SamplerName, make_sampler

N_USERS, N_ITEMS, ROWS = 5, 12, 20_000
NAMES = get_args(SamplerName)


def toy_data() -> TopNData:
    """Users of 1 to 9 items, popular and unpopular ones; nobody has chosen the last item."""
    rng = np.random.default_rng(0)
    shares = np.arange(N_ITEMS - 1, 0, -1) / 66
    chosen = [np.sort(rng.choice(N_ITEMS - 1, size, replace=False, p=shares)) for size in (1, 3, 5, 7, 9)]
    users = np.repeat(np.arange(N_USERS), [len(items) for items in chosen])
    return TopNData(N_USERS, N_ITEMS, torch.from_numpy(users), torch.from_numpy(np.concatenate(chosen)))


@pytest.fixture(scope="module")
def data() -> TopNData:
    return toy_data()


def seen(data: TopNData, user: int) -> list[int]:
    return data.items[data.users == user].tolist()


def expanded(drawn: Negatives, rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return items, expected numbers and what counts, all of shape (B, N)."""
    items = drawn.items.expand(rows, -1) if drawn.items.dim() == 1 else drawn.items
    counts = torch.ones(1) if drawn.log_counts is None else drawn.log_counts.exp()
    return items, counts.expand(items.shape), torch.ones_like(items) if drawn.mask is None else drawn.mask


@pytest.mark.parametrize("user", range(N_USERS))
@pytest.mark.parametrize(("name", "exponent"), [("uniform", 1.0), ("popularity", 1.0), ("popularity", 0.5)])
def test_items_come_as_often_as_is_said(data, name, exponent, user):
    number = 3
    sampler = make_sampler(name, data, number, exponent=exponent)
    generator = torch.Generator().manual_seed(user)
    users = torch.full((ROWS,), user)
    items, said, counts = expanded(sampler.draw(users, torch.full((ROWS,), seen(data, user)[0]), generator), ROWS)
    assert set(items[counts.bool()].tolist()).isdisjoint(seen(data, user))
    for item in set(range(N_ITEMS)) - set(seen(data, user)):
        found = items == item
        if not found.any():
            assert name == "popularity"
            assert item not in data.items
            continue
        expected = float(said[found][0])
        assert (said[found] == said[found][0]).all()
        assert float(found.sum()) / ROWS == pytest.approx(expected, abs=4 * np.sqrt(expected / ROWS))


def test_shares_of_popularity_are_powers_of_counts(data):
    sampler = make_sampler("popularity", data, 4, exponent=0.75)
    shares = np.bincount(data.items, minlength=N_ITEMS) ** 0.75
    users = torch.zeros(2000, dtype=torch.int64)
    items, said, _ = expanded(sampler.draw(users, users, torch.Generator().manual_seed(0)), len(users))
    np.testing.assert_allclose(said, 4 * (shares / shares.sum())[items], rtol=1e-6)
    assert N_ITEMS - 1 not in items, "nobody has chosen it"


@pytest.mark.parametrize("name", ["shared", "shared-popularity"])
def test_shared_negatives_come_as_often_as_is_said(data, name):
    sampler = make_sampler(name, data, 6, exponent=0.5)
    generator = torch.Generator().manual_seed(0)
    positives = torch.tensor([2, 0])
    drawn = [sampler.draw(torch.tensor([0, 1]), positives, generator) for _ in range(4000)]
    times = torch.bincount(torch.cat([one.items for one in drawn]), minlength=N_ITEMS) / len(drawn)
    counts = np.bincount(data.items, minlength=N_ITEMS) ** 0.5
    expected = np.full(N_ITEMS, 6 / N_ITEMS) if name == "shared" else 6 * counts / counts.sum()
    assert (np.abs(times.numpy() - expected) <= 4 * np.sqrt(expected / len(drawn))).all()
    for one in drawn[:100]:
        np.testing.assert_allclose(one.log_counts.exp().expand(6), expected[one.items], rtol=1e-6)
        assert torch.equal(one.mask, one.items != positives[:, None])


def test_the_positives_of_others_come_as_often_as_is_said(data):
    size = 6
    source = data.pairs(size, make_sampler("in-batch", data, 1))
    generator = torch.Generator().manual_seed(0)
    batches = [next(iter(source.epoch(generator))) for _ in range(4000)]
    found, rows = torch.zeros(N_ITEMS, N_ITEMS), torch.zeros(N_ITEMS)
    said = torch.full((N_ITEMS,), torch.nan)
    for batch in batches:
        assert torch.equal(batch.negatives, batch.positives)
        assert torch.equal(batch.mask, batch.positives != batch.positives[:, None])
        said[batch.negatives] = batch.log_counts.exp()
        rows += torch.bincount(batch.positives, minlength=N_ITEMS)
        row, column = torch.meshgrid(batch.positives, batch.negatives, indexing="ij")
        found.index_put_((row, column), batch.mask.float(), accumulate=True)
    times = found / rows[:, None]
    for positive, item in torch.cartesian_prod(data.items.unique(), data.items.unique()).tolist():
        if positive != item:
            error = np.sqrt(float(said[item] / rows[positive]))
            assert float(times[positive, item]) == pytest.approx(float(said[item]), abs=5 * error)
    counts = torch.bincount(data.items, minlength=N_ITEMS)
    chosen = counts > 0
    torch.testing.assert_close(said[chosen], ((size - 1) * counts / (len(data.items) - 1))[chosen])


def test_a_batch_of_one_row_has_nobody_else(data):
    drawn = make_sampler("in-batch", data, 1).draw(torch.tensor([1]), torch.tensor([2]), torch.Generator())
    assert not drawn.mask.any()
    assert not drawn.log_counts.isposinf().any()


def test_all_items_are_there_once(data):
    drawn = make_sampler("all", data, 5).draw(torch.tensor([0, 1]), torch.tensor([3, 11]), torch.Generator())
    assert drawn.items.tolist() == list(range(N_ITEMS))
    assert drawn.log_counts is None
    assert (~drawn.mask).nonzero().tolist() == [[0, 3], [1, 11]]


def test_hard_negatives_are_the_highest_scored_of_their_candidates(data):
    sampler = make_sampler("hard", data, 2, candidates=4)
    batch = next(iter(sampler.batches(16).epoch(torch.Generator().manual_seed(0))))
    assert batch.negatives.shape == (16, 8)
    table = torch.rand(N_USERS, N_ITEMS, generator=torch.Generator().manual_seed(1))
    refined = sampler.refine(batch, lambda users, items: table[users[:, None], items])
    assert refined.log_counts is None
    for row, user in enumerate(batch.users):
        for group in range(2):
            candidates = batch.negatives[row, 4 * group : 4 * group + 4]
            assert refined.negatives[row, group] == candidates[table[user, candidates].argmax()]
    assert torch.equal(refined.positives, batch.positives)


@pytest.mark.parametrize("name", NAMES)
def test_an_epoch_has_every_interaction_once_and_follows_from_the_seed(data, name):
    def epoch(seed):
        torch.manual_seed(9)
        return list(make_sampler(name, data, 2, candidates=3).batches(4).epoch(torch.Generator().manual_seed(seed)))

    first, again, other = epoch(1), epoch(1), epoch(2)
    columns = "users", "positives", "negatives", "log_counts", "mask"
    for one, two in zip(first, again, strict=True):
        for column in columns:
            left, right = getattr(one, column), getattr(two, column)
            assert (left is None and right is None) or torch.equal(left, right), column
    pairs = sorted((user, item) for batch in first for user, item in zip(batch.users, batch.positives, strict=True))
    assert pairs == list(zip(data.users, data.items, strict=True))
    assert [len(batch) for batch in first] == [4, 4, 4, 4, 4, 4, 1]
    assert any(not torch.equal(one.users, two.users) for one, two in zip(first, other, strict=True))


@pytest.mark.parametrize("name", ["uniform", "popularity"])
def test_a_draw_for_several_batches_is_cut_by_rows(data, name, monkeypatch):
    monkeypatch.setattr("recbench.tasks.interactions.DRAWN_AT_ONCE", 20)
    for batch in make_sampler(name, data, 2).batches(4).epoch(torch.Generator().manual_seed(0)):
        assert batch.negatives.shape == (len(batch), 2)
        unseen = ~data.seen(batch.users, batch.negatives)
        assert torch.equal(unseen, torch.ones_like(unseen) if batch.mask is None else batch.mask)
        if name == "uniform":
            expected = 2 / (N_ITEMS - data.history.lengths[batch.users])
            torch.testing.assert_close(batch.log_counts.exp(), expected[:, None])


class NothingOnTheHost(TorchDispatchMode):
    """Refuses operations that make a host wait for a device: values or shapes that depend on data."""

    WAITS = "_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "repeat_interleave", "is_nonzero"

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for index in (args[1] if isinstance(args[1], list | tuple) else ())
        )
        assert name not in self.WAITS, name
        assert not by_mask, name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NAMES)
def test_batches_wait_for_no_device(data, name):
    sampler = make_sampler(name, data, 3, candidates=2)
    generator = torch.Generator().manual_seed(0)
    with NothingOnTheHost():
        for batch in sampler.batches(4).epoch(generator):
            sampler.refine(batch, lambda users, items: users[:, None] * 0.1 + items)


def test_the_check_for_waiting_works():
    with NothingOnTheHost():
        for wait in (lambda x: x.sum().item(), lambda x: x[x > 1], torch.nonzero):
            with pytest.raises(AssertionError):
                wait(torch.arange(3))


class Steps(Sampler):
    """Counts its refinements, as a sampler with a warm-up must."""

    def __init__(self, data, number):
        super().__init__(data, number)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def refine(self, batch: PairBatch, score):
        self.steps += 1
        return replace(batch, negatives=batch.negatives[:, :1])


def test_what_a_sampler_counts_is_state(data):
    sampler = Steps(data, 2)
    for batch in sampler.batches(8).epoch(torch.Generator().manual_seed(0)):
        sampler.refine(batch, None)
    other = Steps(data, 2)
    other.load_state_dict(sampler.state_dict())
    assert int(other.steps) == 4
    assert not make_sampler("popularity", data, 2).state_dict(), "what follows from the data is not state"
