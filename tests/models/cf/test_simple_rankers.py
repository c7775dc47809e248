"""Random and popularity: what the floors of a ranking give."""

import pytest
import torch

from recbench.models.cf.popularity import Popularity
from recbench.models.cf.random import Random
from recbench.tasks.interactions import TopNData, UserBatch

N_USERS, N_ITEMS = 4000, 50


@pytest.fixture
def data() -> TopNData:
    """Every user has item 0, half of them item 1, a quarter item 2."""
    users = torch.arange(N_USERS)
    pairs = torch.cat([torch.stack([users[:: 2**item], users[:: 2**item] * 0 + item], 1) for item in range(3)])
    pairs = pairs[torch.argsort(pairs[:, 0] * N_ITEMS + pairs[:, 1])]
    return TopNData(N_USERS, N_ITEMS, pairs[:, 0].contiguous(), pairs[:, 1].contiguous())


def random_model(data: TopNData, seed: int) -> Random:
    torch.manual_seed(seed)
    return Random(Random.Config(), data)


def test_popularity_ranks_items_by_their_number_of_interactions(data: TopNData) -> None:
    model = Popularity(Popularity.Config(), data)
    model.fit(data)
    scores = model.score(data.user_batch(torch.tensor([0, 7])))
    assert scores[0, :4].tolist() == [N_USERS, N_USERS / 2, N_USERS / 4, 0]
    assert torch.equal(scores[0], scores[1])


def test_random_recall_is_k_over_the_number_of_items(data: TopNData) -> None:
    scores = random_model(data, 1).score(data.user_batch(torch.arange(N_USERS)))
    k, wanted = 10, 17
    hits = (scores.topk(k).indices == wanted).any(1).double()
    expected = k / N_ITEMS
    standard_error = (expected * (1 - expected) / N_USERS) ** 0.5
    assert abs(float(hits.mean()) - expected) < 4 * standard_error
    assert scores.min() >= 0
    assert scores.max() < 1
    assert float(scores.mean()) == pytest.approx(0.5, abs=0.005)
    # Neither users nor neighbouring items resemble one another.
    assert abs(float(torch.corrcoef(scores[:2])[0, 1])) < 0.5
    assert abs(float(torch.corrcoef(scores[:, :2].T)[0, 1])) < 4 / N_USERS**0.5


def test_random_scores_depend_on_the_pair_and_the_seed_alone(data: TopNData) -> None:
    model = random_model(data, 1)
    together = model.score(data.user_batch(torch.tensor([3, 5, 9])))
    alone = model.score(data.user_batch(torch.tensor([5])))
    assert torch.equal(together[1:2], alone)
    assert torch.equal(random_model(data, 1).score(data.user_batch(torch.tensor([5]))), alone)
    assert not torch.equal(random_model(data, 2).score(data.user_batch(torch.tensor([5]))), alone)
    reloaded = random_model(data, 2)
    reloaded.load_state_dict(model.state_dict())
    assert torch.equal(reloaded.score(data.user_batch(torch.tensor([5]))), alone)


def test_random_has_nothing_to_train(data: TopNData) -> None:
    assert list(random_model(data, 1).procedure(data)) == []


def test_popularity_knows_no_users(data: TopNData) -> None:
    model = Popularity(Popularity.Config(), data)
    model.fit(data)
    batch = data.user_batch(torch.tensor([0]))
    stranger = UserBatch(torch.tensor([N_USERS + 1]), batch.history, N_ITEMS)
    assert torch.equal(model.score(stranger), model.score(batch))
