"""Losses against their equations, and against each other where one is a special case of another."""

from dataclasses import dataclass
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from recbench.models.layers.losses import GBCE, LossName, bpr_loss, make_loss
from recbench.tasks.interactions import TopNData
from recbench.tasks.samplers import make_sampler

ROWS, N, N_ITEMS = 7, 5, 40
ALL = get_args(LossName)


@dataclass(frozen=True)
class Drawn:
    log_counts: Tensor | None = None
    mask: Tensor | None = None


def scores(seed=0, spread=3.0, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(size, generator=generator, dtype=dtype) for size in ((ROWS,), (ROWS, N)))


def some_mask() -> Tensor:
    mask = torch.rand(ROWS, N, generator=torch.Generator().manual_seed(5)) < 0.6
    mask[2] = False
    return mask


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("mask", [None, some_mask()])
def test_equations(mask):
    positive, negative = scores()
    p, n = positive.numpy(), negative.numpy()
    m = np.ones((ROWS, N), bool) if mask is None else mask.numpy()
    log_counts = torch.randn(ROWS, N, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    beta = 1 - 0.6 * (1 - m.sum() / ROWS / (N_ITEMS - 1))
    corrected = np.where(m, np.exp(n / 0.5 - log_counts.numpy()), 0).sum(1)
    ep, en = (np.where(x > 0, x, np.exp(x) - 1) for x in (p, n))
    weights = np.where(m, np.exp(en), 0) / np.maximum(np.where(m, np.exp(en), 0).sum(1, keepdims=True), 1e-300)
    weighed = (weights * sigmoid(ep[:, None] - en)).sum(1)[m.any(1)]
    expected = {
        "bpr-max": (0.4 * (weights * en**2).sum() - np.log(weighed).sum()) / ROWS,
        "bpr": -np.log(sigmoid(p[:, None] - n))[m].mean(),
        "bce": -(np.log(sigmoid(p)).sum() + np.log(1 - sigmoid(n))[m].sum()) / (ROWS + m.sum()),
        "gbce": -(np.log(sigmoid(p) ** beta).sum() + np.log(1 - sigmoid(n))[m].sum()) / (ROWS + m.sum()),
        "softmax": -np.log(np.exp(p / 0.5) / (np.exp(p / 0.5) + corrected)).mean(),
        "ccl": (1 - p).mean() + 2.5 * np.maximum(0, n - 0.3)[m].mean(),
    }
    settings = {"temperature": 0.5, "margin": 0.3, "negative_weight": 2.5, "calibration": 0.6, "n_items": N_ITEMS}
    settings["negative_penalty"] = 0.4
    for name in ALL:
        found = make_loss(name, **settings)(positive, negative, Drawn(log_counts, mask))
        assert float(found) == pytest.approx(expected[name], rel=1e-7), name


@pytest.mark.parametrize("name", ALL)
def test_what_does_not_count_has_no_gradient(name):
    positive, negative = (x.requires_grad_() for x in scores())
    mask = some_mask()
    make_loss(name, n_items=N_ITEMS)(positive, negative, Drawn(mask=mask)).backward()
    assert negative.grad[~mask].eq(0).all()
    assert torch.isfinite(positive.grad).all()
    assert torch.isfinite(negative.grad).all()
    if name not in ("ccl", "bpr-max"):
        assert negative.grad[mask].gt(0).all()
    # A row without negatives has nothing to be above of, but is a positive where each counts for itself.
    assert bool(positive.grad[2]) == (name in ("bce", "gbce", "ccl"))


@pytest.mark.parametrize("name", ALL)
def test_nothing_counts(name):
    positive, negative = (x.requires_grad_() for x in scores())
    nothing = Drawn(torch.full((ROWS, N), -torch.inf), torch.zeros(ROWS, N, dtype=torch.bool))
    loss = make_loss(name, n_items=N_ITEMS)(positive, negative, nothing)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(positive.grad).all()
    assert negative.grad.eq(0).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("spread", [1.0, 1e3])
def test_large_scores_stay_finite(name, spread):
    positive, negative = (x.requires_grad_() for x in scores(spread=spread, dtype=torch.float32))
    loss = make_loss(name, temperature=0.1, calibration=1.0, n_items=10**6)(positive, negative, Drawn())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(positive.grad).all()
    assert torch.isfinite(negative.grad).all()


def test_bpr_takes_pairs():
    positive, negative = scores()
    assert float(bpr_loss(positive, negative[:, 0])) == pytest.approx(float(bpr_loss(positive, negative[:, :1])))


def test_gbce_without_calibration_is_bce():
    positive, negative = scores()
    plain, uncalibrated = make_loss("bce"), make_loss("gbce", calibration=0.0, n_items=N_ITEMS)
    for drawn in (Drawn(), Drawn(mask=some_mask())):
        difference = plain(positive, negative, drawn) - uncalibrated(positive, negative, drawn)
        assert abs(float(difference)) < 1e-9


def test_beta():
    _, negative = scores()
    alpha = N / (N_ITEMS - 1)
    assert GBCE(1.0, N_ITEMS).beta(negative, None) == pytest.approx(alpha)
    paper = alpha * (0.75 * (1 - 1 / alpha) + 1 / alpha)
    assert GBCE(0.75, N_ITEMS).beta(negative, None) == pytest.approx(paper)
    mask = some_mask()
    counted = float(mask.sum()) / ROWS / (N_ITEMS - 1)
    assert float(GBCE(1.0, N_ITEMS).beta(negative, mask)) == pytest.approx(counted)
    everything = torch.zeros(3, N_ITEMS)
    own = torch.ones(3, N_ITEMS, dtype=torch.bool).scatter_(1, torch.tensor([[1], [4], [9]]), False)
    assert float(GBCE(0.7, N_ITEMS).beta(everything, own)) == pytest.approx(1.0), (
        "nothing to calibrate without a sample"
    )


def fitted(calibration: float, shares: Tensor, number: int) -> Tensor:
    """Return the probabilities that gbce leads to if items are chosen with ``shares``, drawn uniformly otherwise.

    Scores depend on the item alone; the expectation over rows and draws is written out.
    """
    logits = torch.zeros(len(shares), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16)
    beta = GBCE(calibration, len(shares)).beta(torch.zeros(1, number), None)
    drawn = number * (1 - shares) / (len(shares) - 1)  # expected number of draws of an item: not when it was chosen

    def closure():
        optimizer.zero_grad()
        loss = (shares * beta * functional.softplus(-logits) + drawn * functional.softplus(logits)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return torch.sigmoid(logits.detach())


def test_calibration_on_a_toy_catalogue():
    shares = torch.softmax(torch.linspace(0, 3, 20, dtype=torch.float64), 0)
    torch.testing.assert_close(fitted(1.0, shares, 4), shares, rtol=1e-4, atol=0)
    assert (fitted(0.0, shares, 4) > 1.5 * shares).all(), "sampling makes every item look more probable"


def choices(seed: int, rows: int) -> tuple[TopNData, Tensor, Tensor]:
    """Return a user per row with one item each, as data and as rows."""
    positives = torch.randint(N_ITEMS, (rows,), generator=torch.Generator().manual_seed(seed))
    return TopNData(rows, N_ITEMS, torch.arange(rows), positives), torch.arange(rows), positives


def of_items(table: Tensor, items: Tensor) -> Tensor:
    return table[:, items] if items.dim() == 1 else table.gather(1, items)


def test_softmax_of_all_items_is_the_cross_entropy():
    data, users, positives = choices(0, ROWS)
    table = 2 * torch.randn(ROWS, N_ITEMS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    drawn = make_sampler("all", data, 1).draw(users, positives, torch.Generator())
    left, right = (table.clone().requires_grad_() for _ in range(2))
    full = functional.cross_entropy(left / 0.7, positives)
    chosen = right.gather(1, positives[:, None]).squeeze(1)
    ours = make_loss("softmax", temperature=0.7)(chosen, of_items(right, drawn.items), drawn)
    full.backward()
    ours.backward()
    assert float(ours.detach()) == pytest.approx(float(full.detach()), abs=1e-9)
    torch.testing.assert_close(right.grad, left.grad)


def test_softmax_of_every_unseen_item_is_the_cross_entropy_without_the_seen():
    data = TopNData(1, N_ITEMS, torch.zeros(3, dtype=torch.int64), torch.tensor([4, 6, 30]))
    table = torch.randn(1, N_ITEMS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sampler = make_sampler("uniform", data, N_ITEMS - 3)
    drawn = sampler.draw(torch.tensor([0]), torch.tensor([6]), torch.Generator())
    assert drawn.log_counts.eq(0).all(), "each is expected once"
    unseen = torch.tensor([[item for item in range(N_ITEMS) if item not in (4, 6, 30)]])
    found = make_loss("softmax")(table[:, 6], table.gather(1, unseen), drawn)
    expected = functional.cross_entropy(table.index_fill(1, torch.tensor([4, 30]), -torch.inf), torch.tensor([6]))
    assert float(found) == pytest.approx(float(expected), abs=1e-7)


@pytest.mark.parametrize(("name", "unseen_only"), [("uniform", True), ("shared", False), ("popularity", True)])
def test_the_corrected_softmax_tends_to_the_full_one(name, unseen_only):
    """The gradient of the sampled loss comes near that of the full one as the sample grows."""
    rows = 300
    data, users, positives = choices(3, rows)
    table = torch.randn(rows, N_ITEMS, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 1.5
    assert len(positives.unique()) == N_ITEMS or name != "popularity"
    full = table.clone().requires_grad_()
    functional.cross_entropy(full, positives, reduction="sum").backward()
    errors, uncorrected = [], 0.0
    for number in (20, 500, 12_500):
        sampled = table.clone().requires_grad_()
        drawn = make_sampler(name, data, number).draw(users, positives, torch.Generator().manual_seed(number))
        arguments = sampled.gather(1, positives[:, None]).squeeze(1), of_items(sampled, drawn.items)
        (make_loss("softmax")(*arguments, drawn) * rows).backward()
        errors.append(float((sampled.grad - full.grad).norm() / full.grad.norm()))
        if name == "popularity":
            plain = table.clone().requires_grad_()
            arguments = plain.gather(1, positives[:, None]).squeeze(1), of_items(plain, drawn.items)
            (make_loss("softmax")(*arguments, Drawn(mask=drawn.mask)) * rows).backward()
            uncorrected = float((plain.grad - full.grad).norm() / full.grad.norm())
    # One over the root of the sample's size: five times less each time.
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 0.03
    assert name != "popularity" or uncorrected > 5 * errors[2]
    assert unseen_only == (drawn.items.dim() == 2)


def test_the_estimate_of_the_partition_is_unbiased():
    data, _, positives = choices(4, 60)
    user = torch.zeros(20_000, dtype=torch.int64)
    table = torch.randn(N_ITEMS, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    of_row = positives[0].expand(len(user))
    others = (table.exp() * (torch.arange(N_ITEMS) != positives[0])).sum()
    for name in ("uniform", "popularity"):
        sampler = make_sampler(name, data, 3, exponent=0.5)
        drawn = sampler.draw(user, of_row, torch.Generator().manual_seed(1))
        there = torch.ones_like(drawn.items, dtype=torch.bool) if drawn.mask is None else drawn.mask
        estimates = ((table[drawn.items] - drawn.log_counts).exp() * there).sum(1)
        covered = others
        if name == "popularity":
            covered = (table.exp() * torch.isin(torch.arange(N_ITEMS), positives)).sum() - table[positives[0]].exp()
        error = float(estimates.std()) / np.sqrt(len(estimates))
        assert float(estimates.mean()) == pytest.approx(float(covered), abs=4 * error)
