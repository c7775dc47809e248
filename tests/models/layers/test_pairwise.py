"""Every loss with every sampler, on matrix factorisation; and losses and samplers of a kind that is not shipped."""

import itertools
import re
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from recbench.errors import UsageError
from recbench.models.cf.bprmf import BPRMF
from recbench.models.layers.losses import LossName
from recbench.models.layers.pairwise import (
    FEW,
    PairwiseConfig,
    PairwiseRecommender,
    Scored,
    batch_penalty,
    inner_products,
    look_up,
)
from recbench.tasks.interactions import PairBatch, TopNData
from recbench.tasks.samplers import Sampler, SamplerName

LOSSES, SAMPLERS = get_args(LossName), get_args(SamplerName)
N_USERS, N_ITEMS = 12, 25


def draw_data(n_users: int = N_USERS, n_items: int = N_ITEMS, seed: int = 0) -> TopNData:
    rng = np.random.default_rng(seed)
    users, items = np.nonzero(rng.random((n_users, n_items)) < np.linspace(0.7, 0.05, n_items))
    return TopNData(n_users, n_items, torch.from_numpy(users), torch.from_numpy(items))


@pytest.fixture(scope="module")
def data() -> TopNData:
    return draw_data()


def make(data: TopNData, **config: object) -> BPRMF:
    torch.manual_seed(2)
    model = BPRMF(BPRMF.Config.parse({"embedding_dim": 4, "batch_size": 8, "l2": 0.0} | config, "the test"), data)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(50)  # far from the flat part of the sigmoid
    return model


def first_batch(model: BPRMF, data: TopNData) -> PairBatch:
    return next(iter(model.batches(data).epoch(torch.Generator().manual_seed(4))))


@pytest.mark.parametrize(("loss", "sampler"), list(itertools.product(LOSSES, SAMPLERS)))
def test_every_loss_takes_every_sampler(data, loss, sampler):
    own = {} if sampler in ("in-batch", "all") else {"num_negatives": 3}
    model = make(data, loss=loss, sampler=sampler, **own)
    batch = first_batch(model, data)
    value = model.loss(batch)
    assert value.shape == ()
    assert torch.isfinite(value)
    value.backward()
    users, items = (embedding.weight.grad.any(1).nonzero().flatten().tolist() for embedding in (model.user, model.item))
    assert set(users) <= set(batch.users.tolist())
    allowed = set(batch.positives.tolist()) | set(batch.negatives.flatten().tolist())
    assert set(items) <= allowed
    if sampler == "hard":
        refined = model.sampler.refine(
            batch, lambda users, items: model.scored(PairBatch(users, items[:, 0], items)).negative
        )
        kept = set(batch.positives.tolist()) | set(refined.negatives.flatten().tolist())
        assert set(items) <= kept < allowed
    if loss == "softmax":
        counts = batch.negatives if batch.mask is None else batch.negatives.expand(len(batch), -1)[batch.mask]
        kept = kept if sampler == "hard" else set(batch.positives.tolist()) | set(counts.flatten().tolist())
        assert set(items) == kept
        assert set(users) == set(batch.users.tolist())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_softmax_by_hand(data, sampler):
    model = make(data, loss="softmax", sampler=sampler, temperature=0.5)
    batch = first_batch(model, data)
    if sampler == "hard":
        batch = model.sampler.refine(batch, model._scores)
        model.sampler = Sampler(data, 1)
    user, item = (embedding.weight.detach().double().numpy() for embedding in (model.user, model.item))
    expected = []
    for row in range(len(batch)):
        vector = user[batch.users[row]]
        own = np.exp(vector @ item[batch.positives[row]] / 0.5)
        negatives = batch.negatives if batch.negatives.dim() == 1 else batch.negatives[row]
        counts = torch.ones(1) if batch.log_counts is None else batch.log_counts.exp()
        counts = counts if counts.dim() == 1 else counts[row]
        mask = torch.ones(len(negatives)) if batch.mask is None else batch.mask[row]
        others = np.exp(item[negatives] @ vector / 0.5) / counts.numpy() * mask.numpy()
        expected.append(-np.log(own / (own + others.sum())))
    assert float(model.loss(batch).detach()) == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("shape", [(6, 1), (6, 3), (6, FEW + 1), (5,)])
@pytest.mark.parametrize("rows", [4, 500])
def test_look_ups_and_products(shape, rows):
    table = torch.randn(rows, 3, dtype=torch.float64, requires_grad=True)
    vectors = torch.randn(6, 3, dtype=torch.float64)
    positives, negatives = torch.randint(rows, (6,)), torch.randint(rows, shape)
    positive, negative = look_up(table, positives, negatives)
    assert torch.equal(positive, table[positives])
    assert torch.equal(negative, table[negatives])
    products = inner_products(vectors, negative)
    torch.testing.assert_close(products, torch.einsum("bd,bnd->bn", vectors, table[negatives].expand(6, -1, 3)))
    (found,) = torch.autograd.grad(products.sum() + positive.square().sum(), table)
    by_hand = inner_products(vectors, table[negatives]).sum() + table[positives].square().sum()
    torch.testing.assert_close(found, torch.autograd.grad(by_hand, table)[0])


def test_penalty_is_half_the_squared_norms_by_row():
    vectors = torch.full((4, 2), 1.0), torch.full((4, 3, 2), 2.0)
    assert float(batch_penalty(*vectors)) == pytest.approx(0.5 * (8 + 96) / 4)


def test_ccl_is_of_cosines(data):
    model = make(data, loss="ccl", margin=0.2, negative_weight=3.0, num_negatives=2)
    batch = first_batch(model, data)
    p, q = (embedding.weight.detach().double().numpy() for embedding in (model.user, model.item))
    p, q = (table / np.linalg.norm(table, axis=1, keepdims=True) for table in (p, q))
    near = (p[batch.users] * q[batch.positives]).sum(1)
    far = np.einsum("bd,bnd->bn", p[batch.users], q[batch.negatives])
    expected = np.mean(1 - near + 3 * np.maximum(0, far - 0.2).mean(1))
    assert float(model.loss(batch).detach()) == pytest.approx(expected, rel=1e-5)
    model.prepare_scoring()
    found = model.score(data.user_batch(torch.arange(N_USERS)))
    np.testing.assert_allclose(found.detach(), p @ q.T, rtol=1e-4, atol=1e-6)


class Added(PairwiseRecommender):
    """Scores that are no cosines."""

    class Config(PairwiseConfig):
        """Hyper-parameters."""

    def scored(self, batch):
        return Scored(batch.positives.float(), batch.negatives.float())

    def score(self, batch):
        return torch.zeros(len(batch), self.n_items)


def test_ccl_is_refused_where_scores_are_no_cosines(data):
    Added(Added.Config(loss="bce"), data)
    with pytest.raises(UsageError, match=r"^loss: ccl is of cosine similarities, which the scores of added are not$"):
        Added(Added.Config(loss="ccl"), data)


WRONG = {
    "margin=0.3": "margin: expected only with loss = ccl, found loss = bpr",
    "negative_weight=2": "negative_weight: expected only with loss = ccl, found loss = bpr",
    "negative_penalty=2": "negative_penalty: expected only with loss = bpr-max, found loss = bpr",
    "temperature=0.5": "temperature: expected only with loss = softmax, found loss = bpr",
    "calibration=1 loss=bce": "calibration: expected only with loss = gbce, found loss = bce",
    "candidates=4": "candidates: expected only with sampler = hard, found sampler = uniform",
    "popularity_exponent=0.5": "popularity_exponent: expected only with sampler = popularity or .*, found sampler = u",
    "num_negatives=4 sampler=all": "num_negatives: expected only with sampler = uniform or .*, found sampler = all",
    "num_negatives=4 sampler=in-batch": "num_negatives: expected only with .*, found sampler = in-batch",
    "loss=hinge": "loss: Input should be 'bpr', .* or 'ccl', found 'hinge'",
    "sampler=none": "sampler: Input should be 'uniform', .* or 'all', found 'none'",
    "loss=ccl margin=-0.5": "margin: Input should be greater than or equal to 0",
    "loss=gbce calibration=1.5": "calibration: Input should be less than or equal to 1",
    "num_negatives=1000000": "num_negatives: Input should be less than or equal to 10000, found 1000000",
    "sampler=hard candidates=1000000": "candidates: Input should be less than or equal to 10000, found 1000000",
    "sampler=popularity popularity_exponent=400": "popularity_exponent: Input should be less than or equal to 4",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_requests(command, words):
    answer = command("run", "topn/ml-100k", "bprmf", *words.split())
    assert answer.status == 2
    assert re.match(rf"recbench: {WRONG[words]}.* \(in the given values\)$", answer.complaint)


def test_defaults_of_another_owner_are_no_fault():
    for loss, sampler in itertools.product(LOSSES, SAMPLERS):
        config = BPRMF.Config(loss=loss, sampler=sampler)
        assert BPRMF.Config.parse(config.model_dump(mode="json"), "a result") == config


class NoisyBPO(nn.Module):
    """Pointwise likelihood of labels that may be flipped, with tables of its own (as in Yu & Qin, SIGIR 2020)."""

    def __init__(self, data: TopNData, dim: int, level: float) -> None:
        super().__init__()
        scale = (level / dim) ** 0.5
        self.user = nn.Parameter(torch.full((data.n_users, dim), scale))
        self.item = nn.Parameter(torch.full((data.n_items, dim), -scale))

    def flipped(self, users: Tensor, items: Tensor) -> Tensor:
        """Return logits (B, N) that a liked item is not observed."""
        return inner_products(functional.embedding(users, self.user), functional.embedding(items, self.item))

    def forward(self, positive: Tensor, negative: Tensor, batch: PairBatch) -> Tensor:
        of_positive = self.flipped(batch.users, batch.positives[:, None]).squeeze(1)
        of_negative = self.flipped(batch.users, batch.negatives)
        liked = functional.logsigmoid(positive) + functional.logsigmoid(-of_positive)
        unliked = torch.logaddexp(
            functional.logsigmoid(-negative), functional.logsigmoid(of_negative) + functional.logsigmoid(negative)
        )
        return -(liked.sum() + unliked.sum()) / (positive.numel() + negative.numel())


@pytest.mark.parametrize("sampler", ["uniform", "shared"])
def test_a_loss_may_have_parameters_and_read_the_batch(data, sampler):
    """Without noise it is bce; with noise, its own tables are trained with the model's."""
    model = make(data, loss="bce", sampler=sampler, num_negatives=4)
    batch = replace(first_batch(model, data), mask=None)
    plain = model.loss(batch)
    model.criterion = NoisyBPO(data, 3, level=80.0)
    assert float(model.loss(batch).detach()) == pytest.approx(float(plain.detach()), rel=1e-5)
    model.criterion = NoisyBPO(data, 3, level=0.5)
    (stage,) = model.procedure(data)
    (phase,) = stage.steps
    own = set(model.criterion.parameters())
    assert len(own) == 2
    assert own < set(phase.parameters)
    phase.loss(batch).backward()
    assert all(parameter.grad.any() for parameter in phase.parameters)
    touched = set(model.criterion.item.grad.any(1).nonzero().flatten().tolist())
    assert touched == set(batch.positives.tolist()) | set(batch.negatives.flatten().tolist())


class Pools(Sampler):
    """Users at random, with a pool of their positives of which one is drawn by its loss (as in Zhang et al., WWW 2025).

    All of a pool are compared with the same negative.
    """

    def __init__(self, data: TopNData, size: int, temperature: float, warm_up: int) -> None:
        super().__init__(data, 1)
        self.size, self.temperature, self.warm_up = size, temperature, warm_up
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def batches(self, batch_size: int) -> "PoolSource":
        return PoolSource(self, batch_size)

    def refine(self, batch, score):
        scores = score(batch.users, torch.cat([batch.positives, batch.negatives], 1))
        losses = functional.softplus(scores[:, -1:] - scores[:, :-1])
        logits = -losses / self.temperature * (self.steps >= self.warm_up)
        self.steps += 1
        chosen = torch.multinomial(logits.softmax(1), 1)
        return replace(batch, positives=batch.positives.gather(1, chosen).squeeze(1))


class PoolSource:
    def __init__(self, sampler: Pools, batch_size: int) -> None:
        self.sampler, self.batch_size = sampler, batch_size

    @property
    def n_samples(self) -> int:
        return len(self.sampler.data.users)

    def epoch(self, generator):
        data = self.sampler.data
        for _ in range(-(-self.n_samples // self.batch_size)):
            users = torch.randint(data.n_users, (self.batch_size,), generator=generator)
            lengths = data.history.lengths[users]
            places = (torch.rand(len(users), self.sampler.size, generator=generator) * lengths[:, None]).long()
            pool = data.items[data.history.offsets[users, None] + places]
            yield PairBatch(users, pool, data.sample_unseen(users, 1, generator))


def test_a_sampler_may_draw_users_and_choose_positives(data):
    model = make(data)
    model.sampler = Pools(data, 5, temperature=0.1, warm_up=0)
    batches = list(model.batches(data).epoch(torch.Generator().manual_seed(0)))
    assert batches[0].positives.shape == (8, 5)
    assert all(data.seen(batch.users, batch.positives).all() for batch in batches)
    batch = batches[0]
    torch.manual_seed(1)
    model.loss(batch).backward()
    resampled = model.user.weight.grad.clone()
    torch.manual_seed(1)
    chosen = model.sampler.refine(batch, model._scores)
    model.sampler = Sampler(data, 1)
    model.zero_grad()
    model.loss(chosen).backward()
    assert torch.equal(model.user.weight.grad, resampled), "no gradient flows through the choice"


def test_positives_are_chosen_by_their_losses(data):
    """Losses .1, .2, .3, .5, 1 at T = 0.1; uniformly before the warm-up has ended."""
    losses = torch.tensor([0.1, 0.2, 0.3, 0.5, 1.0], dtype=torch.float64)
    scores = torch.cat([-torch.log(torch.expm1(losses)), torch.zeros(1)])  # softplus(0 - s) is the loss
    rows = 100_000
    batch = PairBatch(torch.zeros(rows), torch.arange(5).expand(rows, 5), torch.zeros(rows, 1, dtype=torch.int64))
    torch.manual_seed(0)
    sampler = Pools(data, 5, temperature=0.1, warm_up=1)
    for expected in (torch.full((5,), 0.2), torch.tensor([0.6572, 0.2418, 0.0889, 0.0120, 0.0001])):
        chosen = sampler.refine(batch, lambda users, items: scores.expand(rows, 6)).positives
        shares = torch.bincount(chosen, minlength=5) / rows
        assert (shares - expected).abs().max() < 4 * 0.5 / rows**0.5
