"""IPS and DR in the semi-synthetic world: real MovieLens-100K relevance, known propensities, 500 exposures."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy as cross_entropy

from recbench.data.cards import load_card
from recbench.metrics.debiased import dr, ips, naive
from recbench.tasks.base import load_benchmark

DRAWS = 500
USERS = 150  # of the 943, a quarter of a million pairs: the draws take seconds


@dataclass
class Estimates:
    """Of the ideal loss, one for each draw."""

    ideal: float
    values: dict[str, Tensor]

    def bias(self, name: str) -> float:
        """Mean deviation in standard errors."""
        values = self.values[name]
        return float((values.mean() - self.ideal) / (values.std() / math.sqrt(DRAWS)))


@pytest.fixture(scope="module")
def estimates() -> Estimates:
    benchmark = load_benchmark("rating/ml-100k-semisynthetic")
    prepared = benchmark.protocol.prepare(load_card(benchmark.dataset))
    labels, p = (
        torch.tensor(prepared.part(part)[name][:USERS]).double().flatten()
        for part, name in (("truth", "labels"), ("shared", "propensities"))
    )
    # A simple predictor made of the biased log: the smoothed share of positive labels of each item.
    log = prepared.part("train")
    positive, seen = (np.bincount(log["items"], weights, prepared.meta["n_items"]) for weights in (log["labels"], None))
    predictions = torch.from_numpy((positive + 1) / (seen + 2)).repeat(USERS)
    errors = cross_entropy(predictions, labels, reduction="none")
    # An imputation that is wrong: every pseudo-label is the share of positive ones in the log.
    pseudo = torch.full_like(predictions, float(log["labels"].mean()))
    imputed = cross_entropy(predictions, pseudo, reduction="none")
    wrong_p = torch.full_like(p, float(p.mean()))
    n = len(labels)
    generator = torch.Generator().manual_seed(0)
    draws: list[tuple[Tensor, ...]] = []
    chances = p.float()
    for _ in range(DRAWS):
        o = (torch.rand(n, generator=generator) < chances).nonzero().squeeze(1)
        e = errors[o]
        draws.append(
            (
                naive(e),
                ips(e, p[o], n),
                ips(e, wrong_p[o], n),
                dr(e, imputed[o], p[o], imputed, n),
                dr(e, e, wrong_p[o], errors, n),
                dr(e, imputed[o], wrong_p[o], imputed, n),
            )
        )
    names = ["naive", "ips", "ips, wrong p", "dr, wrong ehat", "dr, wrong p", "dr, both wrong"]
    columns = torch.tensor(draws, dtype=torch.float64).T
    return Estimates(float(errors.mean()), dict(zip(names, columns, strict=True)))


@pytest.mark.parametrize("name", ["ips", "dr, wrong ehat"])
def test_unbiased_with_the_known_propensities(estimates: Estimates, name: str) -> None:
    assert abs(estimates.bias(name)) < 2


@pytest.mark.parametrize("name", ["naive", "ips, wrong p", "dr, both wrong"])
def test_biased_without(estimates: Estimates, name: str) -> None:
    assert abs(estimates.bias(name)) > 100


def test_exact_with_the_right_imputation(estimates: Estimates) -> None:
    assert torch.allclose(estimates.values["dr, wrong p"], torch.tensor(estimates.ideal, dtype=torch.float64))


def test_imputation_lowers_the_variance(estimates: Estimates) -> None:
    """A constant pseudo-label already explains part of the errors."""
    assert float(estimates.values["dr, wrong ehat"].std()) < float(estimates.values["ips"].std())
