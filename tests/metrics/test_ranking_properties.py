"""What must hold for every metric of a user's list or ranking, from scores to values.

Bounds, known extremes, fairness to ties, and what must not change a value: batches, the order of users and items, item
chunks, number format, device.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbench.errors import RecbenchError
from recbench.metrics.names import LISTS, WHOLE
from recbench.metrics.ranking import ranking_metrics, user_auc
from recbench.metrics.topk import hits, top_k

INF = math.inf
N_USERS, N_ITEMS, K = 120, 60, 12
CUTOFFS = (1, 5, K)
OF_LISTS = [form.replace("NN", "80").replace("@k", f"@{k}") for form in LISTS for k in CUTOFFS]
NAMES = [*OF_LISTS, *WHOLE]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(11)


@pytest.fixture
def world(generator):
    """Users with any ids, from 0 to more than K relevant items, those numbered first being relevant to most.

    A fifth of the other items are no candidates.
    """
    users = torch.randperm(10_000, generator=generator)[:N_USERS]
    shares = torch.rand(N_USERS, 1, generator=generator) * torch.linspace(0.8, 0, N_ITEMS)
    relevant = torch.rand(N_USERS, N_ITEMS, generator=generator) < shares
    relevant[0] = False
    assert (relevant.sum(1) > K).any()
    masked = (torch.rand(N_USERS, N_ITEMS, generator=generator) < 0.2) & ~relevant
    return users, relevant, masked


def smooth(generator):
    """Return scores without ties."""
    return torch.rand(N_USERS, N_ITEMS, generator=generator, dtype=torch.float64)


def coarse(generator):
    """Return scores of four levels."""
    return torch.randint(4, (N_USERS, N_ITEMS), generator=generator).double()


def values_of_lists(lists, users, relevant, names=NAMES):
    """Metrics of lists of item ids (B, K); items are columns of ``relevant``."""
    n_items = relevant.shape[1]
    keys = (users[:, None] * n_items + torch.arange(n_items, device=users.device))[relevant].sort().values
    found = hits(lists, users, keys, n_items)
    n_relevant = relevant.sum(1)
    whole = ranking_metrics(found, n_relevant, [name for name in names if name == "rprecision"])
    return ranking_metrics(found[:, :K], n_relevant, [name for name in names if "@" in name]) | whole


def measure(scores, users, relevant, masked):
    """Every metric, from scores to values; ``rprecision`` takes the ranking of all items."""
    scores = scores.masked_fill(masked, -INF)
    lists = top_k(scores, scores.shape[1], users)[0]
    return values_of_lists(lists, users, relevant) | {"uauc": user_auc(scores, *relevant.nonzero().T)}


def assert_equal(found, expected, order=slice(None)):
    for name in expected:
        assert torch.equal(found[name].nan_to_num(-1), expected[name][order].nan_to_num(-1)), name


def assert_same_mean(found, expected):
    """The means over users differ by no more than four standard errors of the difference."""
    for name in expected:
        difference = (found[name] - expected[name])[~expected[name].isnan()]
        assert abs(difference.mean()) <= 4 * difference.std() / math.sqrt(len(difference)) + 1e-12, name


def test_all_metrics_are_measured(world, generator):
    assert sorted(measure(smooth(generator), *world)) == sorted(NAMES)


@pytest.mark.parametrize("scores_of", [smooth, coarse])
class TestInvariance:
    @pytest.mark.parametrize("size", [1, 7, N_USERS])
    def test_batches(self, world, generator, scores_of, size):
        scores = scores_of(generator)
        batches = zip(*(t.split(size) for t in (scores, *world)), strict=True)
        parts = [measure(*batch) for batch in batches]
        assert_equal({name: torch.cat([part[name] for part in parts]) for name in NAMES}, measure(scores, *world))

    def test_order_of_users(self, world, generator, scores_of):
        scores, order = scores_of(generator), torch.randperm(N_USERS, generator=generator)
        assert_equal(measure(scores[order], *(t[order] for t in world)), measure(scores, *world), order)

    def test_names_of_items(self, world, generator, scores_of):
        """Other numbers for the items: no change without ties, and none in the mean with them."""
        scores, (users, relevant, masked) = scores_of(generator), world
        order = torch.randperm(N_ITEMS, generator=generator)
        renamed = measure(scores[:, order], users, relevant[:, order], masked[:, order])
        expected = measure(scores, *world)
        (assert_equal if scores_of is smooth else assert_same_mean)(renamed, expected)
        assert_equal({"uauc": renamed["uauc"]}, {"uauc": expected["uauc"]})

    def test_order_of_columns(self, world, generator, scores_of):
        scores, (users, relevant, masked) = scores_of(generator).masked_fill(world[2], -INF), world
        order = torch.randperm(N_ITEMS, generator=generator)
        lists = top_k(scores[:, order], N_ITEMS, users, items=order)[0]
        expected = measure(scores, users, relevant, masked)
        assert_equal(
            values_of_lists(lists, users, relevant), {name: expected[name] for name in NAMES if name != "uauc"}
        )

    @pytest.mark.parametrize("width", [5, 25, 59])
    def test_item_chunks(self, world, generator, scores_of, width):
        scores, (users, relevant, masked) = scores_of(generator).masked_fill(world[2], -INF), world
        chunks = [top_k(scores[:, c], K + 1, users, items=c) for c in torch.arange(N_ITEMS).split(width)]
        items, values = (torch.cat([chunk[i] for chunk in chunks], 1) for i in (0, 1))
        lists = top_k(values, K, users, items=items)[0]
        expected = measure(scores, users, relevant, masked)
        assert_equal(values_of_lists(lists, users, relevant, OF_LISTS), {name: expected[name] for name in OF_LISTS})

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_number_formats(self, world, generator, scores_of, dtype):
        """Scores that all formats hold give equal values; rounded ones make ties, so the mean stays."""
        scores = scores_of(generator)
        found, expected = measure(scores.to(dtype), *world), measure(scores, *world)
        if scores_of is coarse:
            assert_equal(found, expected)
        else:
            assert_same_mean(found, expected)
        assert all(v.dtype == torch.float64 for v in found.values())

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_devices(self, world, generator, scores_of):
        scores = scores_of(generator)
        found = measure(*(t.cuda() for t in (scores, *world)))
        for name, expected in measure(scores, *world).items():
            torch.testing.assert_close(found[name].cpu(), expected, atol=1e-12, rtol=0, equal_nan=True)


def test_perfect_scorer_reaches_the_known_maxima(world):
    users, relevant, masked = world
    values, n = measure(relevant.double(), users, relevant, masked), relevant.sum(1).double()
    for k in CUTOFFS:
        listed = n.clamp(max=k)
        maxima = dict.fromkeys(("recall_min", "hit", "ndcg", "mrr", "map", "map_hits"), torch.ones(N_USERS).double())
        maxima |= {
            "recall": listed / n,
            "map_n": listed / n,
            "precision": listed / k,
            "f1": 2 * listed / (k + n),
            "rbp.80": 1 - 0.8**listed,
        }
        assert {f"{kind}@{k}" for kind in maxima} == {name for name in OF_LISTS if name.endswith(f"@{k}")}
        for kind, maximum in maxima.items():
            torch.testing.assert_close(
                values[f"{kind}@{k}"][n > 0], maximum[n > 0], atol=1e-12, rtol=0, msg=f"{kind}@{k}"
            )
    assert (values["rprecision"][n > 0] == 1).all()
    assert (values["uauc"][n > 0] == 1).all()


def test_worst_scorer_reaches_the_known_minima(world):
    """0 everywhere, but for lists so long that even the worst scorer must list relevant items."""
    users, relevant, masked = world
    values = measure(-relevant.double(), users, relevant, masked)
    candidates, n = (~masked).sum(1), relevant.sum(1)
    assert (candidates - n >= K).all()
    for name in NAMES:
        defined = (n > 0) & (candidates >= 2 * n) if name == "rprecision" else n > 0
        assert (values[name][defined] == 0).all(), name


def test_constant_scorer_is_worth_as_much_as_random_ones(world, generator):
    """And a scorer that knows half of the items apart as much as one that orders the other half at random."""
    draws = [torch.rand(N_USERS, N_ITEMS, generator=generator, dtype=torch.float64) for _ in range(60)]
    half = torch.arange(N_ITEMS) % 2 * coarse(generator)
    for scores in (torch.zeros_like(half), half):
        refined = [measure(scores + draw / 2, *world) for draw in draws]
        assert_same_mean(
            measure(scores, *world), {name: torch.stack([values[name] for values in refined]).mean(0) for name in NAMES}
        )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_bounds_and_moving_a_relevant_item_up(data):
    """Any ranking of any relevant items: values in [0, 1], and none falls when a relevant item passes another one."""
    n_items = data.draw(st.integers(2, 20))
    relevant = torch.tensor([data.draw(st.lists(st.booleans(), min_size=n_items, max_size=n_items))])
    table, n_relevant = relevant.clone(), relevant.sum(1)
    names = [form.replace("NN", "80").replace("@k", f"@{k}") for form in LISTS for k in range(1, n_items + 1)]

    def values(table):
        scores = -torch.arange(n_items).double()[None]
        return ranking_metrics(table, n_relevant, [*names, "rprecision"]) | {
            "uauc": user_auc(scores, *table.nonzero().T)
        }

    before = values(table)
    assert all(v.isnan().all() if n_relevant == 0 else 0 <= v <= 1 for name, v in before.items() if name != "uauc")
    assert before["uauc"].isnan() if n_relevant in (0, n_items) else 0 <= before["uauc"] <= 1
    passed = (~table[0, :-1] & table[0, 1:]).nonzero().squeeze(1).tolist()
    if not passed:
        return
    rank = data.draw(st.sampled_from(passed))
    table[0, [rank, rank + 1]] = table[0, [rank + 1, rank]]
    for name, after in values(table).items():
        # A hit that enters the list from below may lower the mean over the list's hits alone.
        if name != f"map_hits@{rank + 1}":
            assert after >= before[name] - 1e-12, name


class TestEdges:
    def test_no_relevant_item(self, world, generator):
        users, relevant, masked = world
        values = measure(smooth(generator), users, torch.zeros_like(relevant), masked)
        assert all(v.isnan().all() for name, v in values.items())

    def test_fewer_candidates_than_places(self):
        """Two candidates, the second one relevant, in lists of twelve."""
        scores = torch.full((1, 20), -INF).index_fill(1, torch.tensor([3]), 1.0).index_fill(1, torch.tensor([4]), 0.5)
        relevant = (torch.arange(20) == 4)[None]
        values = measure(scores, torch.tensor([8]), relevant, torch.zeros(1, 20).bool())
        assert values[f"recall@{K}"].item() == 1
        assert values[f"precision@{K}"].item() == pytest.approx(1 / K)
        assert values[f"mrr@{K}"].item() == values[f"map_hits@{K}"].item() == 0.5
        assert values["rprecision"].item() == values["uauc"].item() == 0

    def test_no_candidate(self, world):
        """Nothing is found, and no pair is there to be ordered."""
        users, relevant, _ = world
        values = measure(torch.zeros(N_USERS, N_ITEMS), users, relevant, torch.ones(N_USERS, N_ITEMS).bool())
        some = relevant.any(1)
        assert all((v[some] == 0).all() and v[~some].isnan().all() for name, v in values.items() if name != "uauc")
        assert values["uauc"].isnan().all()

    @pytest.mark.parametrize("bad", [math.nan, INF])
    def test_scores_that_are_not_numbers(self, world, generator, bad):
        users, relevant, _ = world
        scores = smooth(generator)
        scores[[3, 5], [0, 7]] = bad
        for judge in (lambda: top_k(scores, K, users), lambda: user_auc(scores, *relevant.nonzero().T)):
            with pytest.raises(RecbenchError, match="2 of 120 users contain NaN"):
                judge()
