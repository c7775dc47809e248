"""The trainer on models small enough to know what must happen."""

import logging

import pytest
import torch
from torch import nn

from recbench.errors import RecbenchError
from recbench.models.procedure import Phase, Stage, Sweep
from recbench.training import checkpoint
from recbench.training.checkpoint import Checkpoints
from recbench.training.trainer import Trainer


class Batches:
    """Two samples a batch; counts its epochs."""

    n_samples = 6

    def epoch(self, generator):
        yield from torch.randn(6, generator=generator).split(2)


class Dot(nn.Module):
    """A number drawn towards the mean of its batches, by a procedure the test chooses."""

    def __init__(self, stages=None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.other = nn.Parameter(torch.zeros(()))
        self.register_buffer("sweeps", torch.zeros((), dtype=torch.int64))
        self.stages = stages or (lambda model: [Stage("train", [model.phase()], epochs=3)])
        self.calls = []

    @staticmethod
    def model_name():
        return "dot"

    def phase(self, name="fit", parameter=None):
        def loss(batch):
            self.calls.append(name)
            noise = torch.rand(())  # the global generator must survive a kill too
            return ((parameter if parameter is not None else self.weight) - batch - noise).square().mean()

        return Phase(name, Batches(), loss, [self.weight if parameter is None else parameter], 0.1)

    def procedure(self, data):
        yield from self.stages(self)


def trainer(model, values=(), folder=None, on_epoch=lambda epoch: None, metric="auc", identity="a"):
    judged = iter(values)
    torch.manual_seed(0)
    return Trainer(
        model,
        None,
        lambda: {metric: next(judged)},
        metric=metric,
        device=torch.device("cpu"),
        seed=1,
        checkpoints=Checkpoints(folder, identity),
        on_epoch=on_epoch,
    )


def stopping(epochs=10, patience=2):
    return lambda model: [Stage("train", [model.phase()], epochs, patience)]


@pytest.mark.parametrize(("metric", "sign"), [("auc", 1), ("logloss", -1)])
def test_stops_early_and_keeps_the_best_weights(metric, sign):
    weights = []
    model = Dot(stopping())
    fit = trainer(
        model,
        [sign * value for value in (1.0, 3.0, 2.0, 3.0, 9.0)],
        on_epoch=lambda epoch: weights.append(model.weight.item()),
        metric=metric,
    )
    history = fit.fit()
    assert len(weights) == 4  # two epochs without a better value, an equal one being none
    assert history.best_epoch == {"train": 2}
    assert model.weight.item() == weights[1] != weights[3]
    assert not model.training


def test_without_patience_all_epochs_are_run_and_the_last_weights_kept():
    told = []
    model = Dot()
    history = trainer(model, on_epoch=told.append).fit()
    assert [(epoch.stage, epoch.number, epoch.of) for epoch in told] == [("train", n, 3) for n in (1, 2, 3)]
    assert all(epoch.valid == {} and epoch.best is None for epoch in told)
    assert history.best_epoch == {}
    assert history.n_samples == 18
    assert len(history.epoch_s) == 3
    assert history.fit_s >= sum(history.epoch_s)
    assert history.samples_per_s == pytest.approx(18 / sum(history.epoch_s))
    assert history.device_ms_per_step is None


def test_phases_follow_each_other_or_alternate():
    def phases(alternate):
        return lambda model: [Stage("both", [model.phase("a"), model.phase("b", model.other)], 1, alternate=alternate)]

    in_turn, one_by_one = Dot(phases(True)), Dot(phases(False))
    trainer(in_turn).fit()
    trainer(one_by_one).fit()
    assert in_turn.calls == ["a", "b"] * 3
    assert one_by_one.calls == ["a"] * 3 + ["b"] * 3


def test_a_sweep_has_no_gradients_and_its_place():
    seen = []

    def stages(model):
        def sweep():
            seen.append((torch.is_grad_enabled(), len(model.calls)))

        return [Stage("train", [model.phase(), Sweep("count", sweep)], 2)]

    model = Dot(stages)
    trainer(model).fit()
    assert seen == [(False, 3), (False, 6)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_training(value):
    def stages(model):
        loss = model.phase().loss
        odd = Phase("odd", Batches(), lambda batch: loss(batch) * value, [model.weight], 0.1)
        return [Stage("train", [odd], 2)]

    with pytest.raises(RecbenchError, match=r"loss of phase 'odd' of dot is (nan|inf) in epoch 1.*lower learning_rate"):
        trainer(Dot(stages)).fit()


def two_stages(model):
    yield Stage("first", [model.phase("a")], 4, 2)
    yield Stage("second", [model.phase("b"), model.phase("c", model.other)], 5, 2, alternate=True)


class KilledError(Exception):
    pass


VALUES = [1.0, 2.0, 1.5, 1.7, 0.1, 0.3, 0.2, 0.35, 0.3]


@pytest.mark.parametrize("after", range(1, 9))
def test_killed_after_any_epoch_it_ends_the_same(after, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(checkpoint, "SPACING", 0.0)
    whole = Dot(two_stages)
    told = []
    history = trainer(whole, VALUES, on_epoch=lambda epoch: told.append((epoch.stage, epoch.number))).fit()

    count = iter(range(1, 100))

    def kill(epoch):
        if next(count) > after:
            raise KilledError

    with pytest.raises(KilledError):
        trainer(Dot(two_stages), VALUES, tmp_path / "checkpoint", kill).fit()
    resumed, again = Dot(two_stages), []
    with caplog.at_level(logging.INFO, logger="recbench"):
        found = trainer(
            resumed, VALUES[after:], tmp_path / "checkpoint", lambda epoch: again.append((epoch.stage, epoch.number))
        ).fit()
    assert again == told[after:]
    assert "resumed from a checkpoint" in caplog.text
    expected = whole.state_dict()
    assert all(torch.equal(expected[name], value) for name, value in resumed.state_dict().items())
    assert found.best_epoch == history.best_epoch
    assert len(found.epoch_s) == len(history.epoch_s)
    assert found.n_samples == history.n_samples


def test_a_seldom_saved_training_still_ends_the_same(tmp_path, monkeypatch):
    """The last checkpoint is old: of the first stage, while the second was running."""
    whole = Dot(two_stages)
    trainer(whole, VALUES).fit()
    monkeypatch.setattr(checkpoint, "SPACING", 1e9)

    def kill(epoch):
        if (epoch.stage, epoch.number) == ("second", 2):
            raise KilledError

    with pytest.raises(KilledError):
        trainer(Dot(two_stages), VALUES, tmp_path / "checkpoint", kill).fit()
    resumed = Dot(two_stages)
    trainer(resumed, VALUES[1:], tmp_path / "checkpoint").fit()
    assert torch.equal(resumed.weight, whole.weight)
    assert torch.equal(resumed.other, whole.other)


def test_a_checkpoint_of_another_run_is_not_used(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(checkpoint, "SPACING", 0.0)
    trainer(Dot(), folder=tmp_path / "checkpoint", identity="a").fit()
    assert (tmp_path / "checkpoint" / "state.pt").is_file()
    with caplog.at_level(logging.INFO, logger="recbench"):
        trainer(Dot(), folder=tmp_path / "checkpoint", identity="b").fit()
    assert "resumed" not in caplog.text
