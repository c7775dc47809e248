"""IPS-MF against its equations; with constant propensities it is naive MF."""

import numpy as np
import pytest
import torch

from recbench.models.debiased.ipsmf import IPSMF
from recbench.models.debiased.naivemf import NaiveMF
from recbench.tasks.rating import RatingBatch, RatingData

SHAPE = 20, 30


def make_data(propensities: np.ndarray) -> RatingData:
    rng = np.random.default_rng(5)
    users, items = (torch.from_numpy(ids) for ids in np.nonzero(rng.random(SHAPE) < 0.25))
    labels = torch.from_numpy(rng.integers(0, 2, len(users))).float()
    return RatingData(*SHAPE, users, items, labels, torch.tensor(propensities).float(), 0.4)


def make(model: type[NaiveMF], data: RatingData, **config: object) -> NaiveMF:
    torch.manual_seed(0)
    return model(model.Config.parse({"embedding_dim": 4, "batch_size": 32, **config}, "the test"), data)


def trained(model: NaiveMF, data: RatingData) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Five epochs of the model's procedure: the losses, and the parameters after."""
    phase = next(model.procedure(data)).steps[0]
    optimizer = torch.optim.Adam(phase.parameters, phase.learning_rate, weight_decay=phase.weight_decay)
    generator, losses = torch.Generator().manual_seed(1), []
    for batch in (batch for _ in range(5) for batch in phase.batches.epoch(generator)):
        optimizer.zero_grad()
        loss = phase.loss(batch)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, model.state_dict()


def test_constant_propensities_are_naive_mf() -> None:
    """With p = |O| / |D| the estimate is the mean; normalised, any constant will do."""
    data = make_data(np.ones(SHAPE))
    share = len(data.users) / data.n_pairs
    naive_losses, naive_parameters = trained(make(NaiveMF, data), data)
    for constant, normalise in ((share, False), (share, True), (0.7, True)):
        data = make_data(np.full(SHAPE, constant))
        losses, parameters = trained(make(IPSMF, data, propensity="known", normalise=normalise), data)
        assert losses == pytest.approx(naive_losses, rel=1e-4)
        for name, value in naive_parameters.items():
            assert torch.allclose(parameters[name], value, atol=1e-4), name


def test_another_constant_scales_the_loss() -> None:
    data = make_data(np.full(SHAPE, 0.7))
    batch = next(data.ratings(64).epoch(torch.Generator()))
    factor = len(data.users) / data.n_pairs / 0.7
    loss = make(IPSMF, data, propensity="known").loss(batch)
    expected = factor * make(NaiveMF, data).loss(batch)
    assert torch.allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("normalise", [False, True])
def test_loss_by_numpy(normalise: bool) -> None:
    data = make_data(np.random.default_rng(2).uniform(0.01, 0.9, SHAPE))
    model = make(IPSMF, data, propensity="known", clip=0.2, normalise=normalise)
    batch: RatingBatch = next(data.ratings(50).epoch(torch.Generator()))
    chances = model.predict(batch.users, batch.items).detach().double().numpy()
    errors = -np.log(np.where(batch.labels.numpy() == 1, chances, 1 - chances))
    assert data.propensities is not None
    weights = 1 / np.maximum(data.propensities.double().numpy()[batch.users, batch.items], 0.2)
    # The batch stands for its part of all pairs.
    size = weights.sum() if normalise else 50 / len(data.users) * data.n_pairs
    assert float(model.loss(batch).detach()) == pytest.approx((weights * errors).sum() / size, rel=1e-5)


def test_rarely_seen_labels_weigh_more() -> None:
    """Half the observed labels are positive and a fifth of all: a negative is seen four times as rarely."""
    data = make_data(np.ones(SHAPE))
    data.labels = torch.arange(len(data.users)).remainder(2).float()
    data.positive_share = 0.2
    none = torch.zeros(0, dtype=torch.long)
    model = make(IPSMF, data, clip=0.0, biases=False)
    with torch.no_grad():
        model.prediction.users.weight.zero_()
    first = [RatingBatch(data.users[[k]], data.items[[k]], data.labels[[k]], none, none) for k in (0, 1)]
    negative, positive = (float(model.loss(batch).detach()) for batch in first)
    assert negative / positive == pytest.approx(4, rel=0.03)
