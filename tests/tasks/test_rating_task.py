import numpy as np
import polars as pl
import polars.testing
import pytest
import torch

from recbench.errors import RecbenchError
from recbench.tasks import rating

NAME = "rating/ml-100k-semisynthetic"


class Pairwise:
    def __init__(self, data):
        self.table = torch.rand(data.n_users, data.n_items, generator=torch.Generator().manual_seed(0))

    def predict(self, users, items):
        return self.table[users, items]


@pytest.fixture(scope="module")
def task(task_of):
    return task_of(NAME)


def test_does_not_depend_on_the_block_size_or_the_order(task, parts_of, monkeypatch):
    model, part = Pairwise(task.data), parts_of(NAME, "test")
    whole = task.evaluate(model, part)
    monkeypatch.setattr(rating, "PAIRS_AT_ONCE", 1001)
    assert task.evaluate(model, part).metrics == pytest.approx(whole.metrics, abs=1e-12)
    order = np.random.default_rng(0).permutation(len(part["users"]))
    mixed = task.evaluate(model, {name: values[order] for name, values in part.items()})
    assert mixed.metrics == pytest.approx(whole.metrics, abs=1e-12)
    tables = [evaluation.tables().per_user for evaluation in (mixed, whole)]
    pl.testing.assert_frame_equal(*tables, rel_tol=0, abs_tol=1e-12)


def test_a_constant_prediction_separates_nothing(task, parts_of):
    class Constant:
        def predict(self, users, items):
            return torch.full((len(users),), 0.5)

    class Shuffled:
        def predict(self, users, items):
            return torch.rand(len(users), generator=torch.Generator().manual_seed(1))

    part = parts_of(NAME, "test")
    constant, shuffled = (task.evaluate(model(), part) for model in (Constant, Shuffled))
    assert constant.metrics["auc"] == 0.5
    values = constant.tables().per_user["ndcg@10"].drop_nans()
    difference = constant.metrics["ndcg@10"] - shuffled.metrics["ndcg@10"]
    assert abs(difference) < 4 * np.sqrt(2) * values.std() / np.sqrt(len(values))


def test_an_epoch_has_every_observed_pair_once_and_pairs_of_the_whole_space(task):
    data = task.data
    batches = list(data.ratings(4096, 3).epoch(torch.Generator().manual_seed(0)))
    keys = torch.cat([batch.users * data.n_items + batch.items for batch in batches])
    expected = data.users * data.n_items + data.items
    assert torch.equal(keys.sort().values, expected.sort().values)
    labels = torch.cat([batch.labels for batch in batches])[keys.argsort()]
    assert torch.equal(labels, data.labels[expected.argsort()])
    space = torch.cat([batch.space_users * data.n_items + batch.space_items for batch in batches])
    assert len(space) == 3 * len(keys)
    # Uniform over all pairs: as often observed as pairs are observed at all.
    share, n = data.observed().mean().item(), len(space)
    observed = data.observed().flatten()[space].mean().item()
    assert abs(observed - share) < 4 * np.sqrt(share * (1 - share) / n)
    assert abs(space.double().mean().item() / data.n_pairs - 0.5) < 4 / np.sqrt(12 * n)


def test_propensities_explain_what_is_observed(task):
    """In the known world a pair is observed with its propensity: in every class the shares agree."""
    data = task.data
    observed = data.observed()
    for value in data.propensities.unique():
        cells = observed[data.propensities == value]
        error = np.sqrt(value.item() * (1 - value.item()) / len(cells))
        assert abs(cells.mean().item() - value.item()) < 4 * error


@pytest.mark.parametrize(
    ("predict", "sentence"),
    [
        (lambda users, items: torch.zeros(len(users), 2), "expected"),
        (lambda users, items: torch.full((len(users),), torch.inf), "NaN or infinite"),
    ],
)
def test_refuses_wrong_predictions(task, parts_of, predict, sentence):
    class Wrong:
        pass

    model = Wrong()
    model.predict = predict
    with pytest.raises(RecbenchError, match=sentence):
        task.evaluate(model, parts_of(NAME, "test"))


def test_finds_leaked_pairs(task, parts_of):
    assert task.lint(parts_of(NAME, "test")).findings == ()
    valid = parts_of(NAME, "valid")
    (finding,) = task.lint({name: values[:5] for name, values in valid.items()}).severe
    assert finding.message == "5 test pairs are also in the validation part"
