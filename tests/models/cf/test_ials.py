"""iALS: every half sweep is the exact minimum of the objective written out in numpy's terms."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from recbench.models.cf import ials
from recbench.models.cf.ials import IALS
from recbench.models.procedure import Sweep
from recbench.tasks.interactions import TopNData, UserBatch
from recbench.tasks.topn import TopNTask

N_USERS, N_ITEMS = 40, 25


@pytest.fixture
def x() -> Tensor:
    x = torch.rand(N_USERS, N_ITEMS, generator=torch.Generator().manual_seed(3)) < 0.25
    x[4] = False  # a user without interactions
    x[:, 7] = False
    x[0] = True
    return x


@pytest.fixture
def data(x: Tensor) -> TopNData:
    users, items = x.nonzero().T.contiguous()
    return TopNData(N_USERS, N_ITEMS, users, items)


def make(data: TopNData, nu: float = 1.0, dim: int = 6) -> IALS:
    torch.manual_seed(1)
    return IALS(IALS.Config(embedding_dim=dim, alpha0=0.3, l2=0.05, nu=nu), data).double()


def sweep(model: IALS, data: TopNData) -> None:
    (stage,) = model.procedure(data)
    (step,) = stage.steps
    assert isinstance(step, Sweep)
    step.run()


def objective(x: Tensor, w: Tensor, h: Tensor, config: IALS.Config) -> Tensor:
    x = x.double()
    scores = w @ h.T
    user_scale = (x.sum(1) + config.alpha0 * N_ITEMS) ** config.nu
    item_scale = (x.sum(0) + config.alpha0 * N_USERS) ** config.nu
    penalty = (user_scale * w.square().sum(1)).sum() + (item_scale * h.square().sum(1)).sum()
    return (x * (scores - 1) ** 2).sum() + config.alpha0 * scores.square().sum() + config.l2 * penalty


@pytest.mark.parametrize("nu", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("numbers_at_once", [2**22, 200])
@pytest.mark.parametrize("dim", [1, 6, 60])  # fewer than any row has, than some have, more than any has
def test_users_solve_the_normal_equations(
    data: TopNData, x: Tensor, nu: float, numbers_at_once: int, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ials, "NUMBERS_AT_ONCE", numbers_at_once)
    model = make(data, nu, dim)
    sweep(model, data)
    w = model.user_factors.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(x, w, model.item_factors, model.config), w)
    assert float(gradient.abs().max()) < 1e-10
    assert float(model.user_factors[4].abs().max()) < 1e-12


@pytest.mark.parametrize("dim", [6, 60])
def test_items_solve_the_normal_equations(data: TopNData, x: Tensor, dim: int) -> None:
    model = make(data, dim=dim)
    before = model.user_factors.clone()
    sweep(model, data)
    h = model.item_factors.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(x, before, h, model.config), h)
    assert float(gradient.abs().max()) < 1e-10


def test_the_objective_never_increases(data: TopNData, x: Tensor) -> None:
    model = make(data)
    values = [objective(x, model.user_factors, model.item_factors, model.config)]
    for _ in range(10):
        sweep(model, data)
        values.append(objective(x, model.user_factors, model.item_factors, model.config))
    assert all(after <= before for before, after in pairwise(values))
    assert values[-1] < 0.8 * values[0]


def test_scores_are_inner_products_of_factors_that_a_checkpoint_holds(data: TopNData) -> None:
    model = make(data)
    sweep(model, data)
    expected = (model.user_factors @ model.item_factors.T)[[2, 0, 4]]
    other = IALS(model.config, data).double()
    other.load_state_dict(model.state_dict())
    for scorer in (model, other):
        scorer.prepare_scoring()
        torch.testing.assert_close(scorer.score(data.user_batch(torch.tensor([2, 0, 4]))), expected)


def test_users_never_seen_get_the_factors_of_one_with_their_history(data: TopNData) -> None:
    model = make(data)
    sweep(model, data)
    model.prepare_scoring()
    strangers = UserBatch(torch.tensor([10**6, 10**6 + 1]), data.history.take(torch.tensor([3, 5])), N_ITEMS)
    torch.testing.assert_close(model.score(strangers), (model.user_factors @ model.item_factors.T)[[3, 5]])


@pytest.mark.usefixtures("mirrored")
def test_learns_for_users_who_are_not_in_training(task_of: Callable[[str], TopNTask]) -> None:
    task = task_of("topn/ml-1m-strong")
    torch.manual_seed(1)
    model = IALS.create(IALS.Config(embedding_dim=16), task.data)
    with torch.no_grad():
        for _ in range(4):
            sweep(model, task.data)
        assert task.watch(model)["ndcg@100"] > 0.3


def test_initial_factors_have_a_standard_deviation_of_a_tenth_over_root_d() -> None:
    torch.manual_seed(0)
    data = TopNData(2000, 2000, torch.tensor([0]), torch.tensor([0]))
    model = IALS(IALS.Config(embedding_dim=64), data)
    assert float(model.user_factors.std()) == pytest.approx(0.1 / 8, rel=0.02)
