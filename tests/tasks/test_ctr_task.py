import numpy as np
import polars as pl
import pytest
import torch

from recbench.errors import RecbenchError
from recbench.tasks import ctr

NAME, TASKS = "ctr/ml-100k", "ctr/ml-100k-tasks"


class Weights:
    """A logit from single- and multi-valued fields."""

    def __init__(self, n_ids):
        self.weight = torch.randn(n_ids, 1, generator=torch.Generator().manual_seed(0))

    def __call__(self, batch):
        genres = batch.multi["genres"]
        bags = torch.nn.functional.embedding_bag(genres.values, self.weight, genres.offsets[:-1], mode="mean")
        return self.weight[batch.ids].sum((1, 2)) + bags.squeeze(1)


@pytest.fixture(scope="module")
def task(task_of):
    return task_of(NAME)


def test_does_not_depend_on_the_block_size(task, parts_of, monkeypatch):
    model, part = Weights(task.fields.n_ids), parts_of(NAME, "valid")
    whole = task.evaluate(model, part)
    monkeypatch.setattr(ctr, "ROWS_AT_ONCE", 777)
    blocked = task.evaluate(model, part)
    assert whole.metrics == pytest.approx(blocked.metrics, abs=1e-9)
    np.testing.assert_allclose(whole.tables().predictions["score"], blocked.tables().predictions["score"], atol=1e-9)


def test_does_not_depend_on_the_order_of_rows(task, parts_of):
    model, part = Weights(task.fields.n_ids), parts_of(NAME, "valid")
    order = np.random.default_rng(0).permutation(len(part["labels"]))
    mixed = {name: part[name][order] for name in ("ids", "labels", "groups")}
    lengths = np.diff(part["genres_offsets"])[order]
    mixed["genres_offsets"] = np.concatenate([[0], np.cumsum(lengths)])
    mixed["genres_values"] = np.concatenate(
        [part["genres_values"][part["genres_offsets"][row] : part["genres_offsets"][row + 1]] for row in order]
    )
    there, here = task.evaluate(model, mixed), task.evaluate(model, part)
    assert there.metrics == pytest.approx(here.metrics, abs=1e-9)


def test_a_constant_prediction_separates_nothing(task, parts_of):
    metrics = task.evaluate(lambda batch: torch.zeros(len(batch)), parts_of(NAME, "valid")).metrics
    assert metrics["auc"] == 0.5
    assert metrics["logloss"] == pytest.approx(np.log(2))


def test_an_epoch_has_every_row_once(task, parts_of):
    train = parts_of(NAME, "train")
    batches = list(task.data.rows(5000).epoch(torch.Generator().manual_seed(0)))
    ids = torch.cat([batch.ids for batch in batches]).numpy()
    order, expected = np.lexsort(ids.T), np.lexsort(train["ids"].T)
    np.testing.assert_array_equal(ids[order], train["ids"][expected])
    # Genres belong to the item: every row still has those of its own.
    item = [field.name for field in task.fields.single].index("item")
    genres_of = {}
    for row in range(2000):
        low, high = train["genres_offsets"][row : row + 2]
        genres_of[int(train["ids"][row, item])] = train["genres_values"][low:high].tolist()
    for batch in batches[:2]:
        offsets, values = batch.multi["genres"].offsets.tolist(), batch.multi["genres"].values.tolist()
        for row in range(500):
            known = genres_of.get(int(batch.ids[row, item]))
            assert known is None or values[offsets[row] : offsets[row + 1]] == known


def test_ids_stay_inside_their_fields(task, parts_of):
    for part in ("train", "valid", "test"):
        arrays = parts_of(NAME, part)
        for column, field in enumerate(task.fields.single):
            ids = arrays["ids"][:, column]
            assert field.offset <= ids.min() <= ids.max() < field.offset + field.size
            assert part != "train" or ids.min() > field.offset  # nothing in training is unseen


@pytest.mark.parametrize(
    ("forward", "sentence"),
    [
        (lambda batch: torch.zeros(len(batch), 2), r"returned shape \(10000, 2\), expected \(10000,\)"),
        (lambda batch: torch.full((len(batch),), torch.nan), "NaN or infinite"),
    ],
)
def test_refuses_wrong_predictions(task, parts_of, forward, sentence):
    with pytest.raises(RecbenchError, match=sentence):
        task.evaluate(forward, parts_of(NAME, "valid"))


def test_a_model_of_any_number_of_labels_may_give_a_column(task, parts_of):
    model, part = Weights(task.fields.n_ids), parts_of(NAME, "valid")
    assert task.evaluate(lambda batch: model(batch)[:, None], part).metrics == task.evaluate(model, part).metrics


def test_what_models_know_of_the_labels_and_the_items(task, task_of):
    assert task.data.labels == ("label",)
    assert task.data.items is None
    assert task_of(TASKS).data.labels == ("like", "love")
    history = task_of(TASKS).fields.sequences
    assert [(field.name, field.sequence, field.vocabulary) for field in history] == [("history", 50, "item")]
    some = task_of(TASKS).data.take(torch.tensor([5, 3]))
    assert (len(some), some.labels, some.items) == (2, ("like", "love"), task_of(TASKS).data.items)
    assert some.all_rows().labels.tolist() == task_of(TASKS).data.all_rows().labels[[5, 3]].tolist()


class Two:
    """Two logits a row, one the other's opposite."""

    def __init__(self, n_ids):
        self.one = Weights(n_ids)

    def __call__(self, batch):
        logits = self.one(batch)
        return torch.stack([logits, -logits], 1)


def test_several_labels_are_measured_one_by_one_and_averaged(task_of, parts_of):
    several, part = task_of(TASKS), parts_of(TASKS, "test")
    model = Two(several.fields.n_ids)
    found = several.evaluate(model, part)
    of_each = {}
    for place, label in enumerate(("like", "love")):
        one = task_of("ctr/ml-100k-history").evaluate(
            lambda batch, place=place: model(batch)[:, place], part | {"labels": part["labels"][:, place]}
        )
        of_each[label] = one
    expected = {f"{name}:{label}": value for label, one in of_each.items() for name, value in one.metrics.items()}
    means = {name: np.mean([one.metrics[name] for one in of_each.values()]) for name in of_each["like"].metrics}
    assert found.metrics == pytest.approx(expected | means, abs=1e-12)
    assert found.diagnostics["positive_share"] == pytest.approx({"like": 0.5629, "love": 0.2478})
    undefined = {f"gauc:{label}": one.diagnostics["undefined"]["gauc"] for label, one in of_each.items()}
    assert found.diagnostics["undefined"] == undefined

    tables, parts = found.tables(), {label: one.tables() for label, one in of_each.items()}
    assert tables.predictions.columns == ["row", "score:like", "score:love"]
    for label, other in parts.items():
        assert tables.predictions[f"score:{label}"].equals(other.predictions["score"])
        assert tables.per_user[f"auc:{label}~linearised"].equals(other.per_user["auc~linearised"])
        for name, table in other.others.items():
            own = tables.others[name].filter(pl.col("label_name") == label).drop("label_name")
            assert own.equals(table, null_equal=True)


def test_the_mean_of_values_per_user_is_the_metric(task_of, parts_of):
    """gauc and uauc leave out other users for one label than for the other."""
    task, part = task_of(TASKS), parts_of(TASKS, "test")
    names = [*task.benchmark.metrics, "uauc"]
    found = task.evaluate(Two(task.fields.n_ids), part, metrics=names)
    values = found.tables().per_user
    assert values["uauc:like~linearised"].is_nan().sum() != values["uauc:love~linearised"].is_nan().sum()
    measured = [name for name in found.metrics if f"{name}~linearised" in values.columns]
    assert {"auc", "gauc", "uauc", "logloss", "auc:like", "uauc:love"} <= set(measured)
    for name in measured:
        mean = values[f"{name}~linearised"].fill_nan(None).mean()
        assert mean == pytest.approx(found.metrics[name], abs=1e-9), name
    both = values.select("auc:like", "auc:love", "auc").to_numpy()
    np.testing.assert_allclose(both[:, 2], both[:, :2].mean(1))


def test_only_some_metrics_are_measured_in_training(task_of, parts_of):
    found = task_of(TASKS).evaluate(Two(task_of(TASKS).fields.n_ids), parts_of(TASKS, "valid"), metrics=["auc"])
    assert set(found.metrics) == {"auc", "auc:like", "auc:love"}


def test_one_logit_for_several_labels_is_refused(task_of, parts_of):
    with pytest.raises(RecbenchError, match=r"returned shape \(10001,\), expected \(10001, 2\)"):
        task_of(TASKS).evaluate(Weights(task_of(TASKS).fields.n_ids), parts_of(TASKS, "valid"))


def test_finds_rows_of_the_training_part(task, parts_of):
    assert task.lint(parts_of(NAME, "test")).findings == ()
    train = parts_of(NAME, "train")
    upto = train["genres_offsets"][3]
    repeated = {"ids": train["ids"][:3], "labels": train["labels"][:3], "genres_values": train["genres_values"][:upto]}
    (finding,) = task.lint(repeated | {"genres_offsets": train["genres_offsets"][:4]}).findings
    assert finding.message == "3 of 3 test rows have the same fields as a training row"
    assert not finding.severe
