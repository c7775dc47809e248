"""What every model, benchmark, suite and tuned configuration must keep, whoever writes it."""

import contextlib
import re
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import ValidationError

from recbench.data.cards import load_card
from recbench.data.protocols import Protocol
from recbench.errors import UsageError
from recbench.metrics.names import higher_is_better
from recbench.models.base import parameter_count
from recbench.models.layers.history import HistoryModel
from recbench.models.registry import load_model, model_names
from recbench.resources import shipped
from recbench.running.plan import make_plan
from recbench.running.suite import load_suite, suite_names
from recbench.running.tuned import Tuned
from recbench.tasks.base import benchmark_names, load_benchmark, read_config
from recbench.tasks.ctr import CTRData
from recbench.tasks.interactions import TopNData
from recbench.tasks.kg import KGData, Triples
from recbench.tasks.rating import RatingData
from recbench.tasks.registry import TASKS
from recbench.tasks.sequential import SequenceData
from recbench.training.checkpoint import Checkpoints
from recbench.training.trainer import Trainer

MODELS = sorted(model_names())
# Nothing to publish, no number for a public benchmark, or none that was found.
WITHOUT_REFERENCE = {"popularity", "random", "gdcn", "mimicking", "outrank", "optfs", "dnis", "optinter", "ihas"}
WITHOUT_PARAMETERS = {"random"}
BENCHMARK_OF_TASK = {
    "topn": "topn/ml-100k",
    "kg": "kg/ml-100k",
    "ctr": "ctr/ml-100k",
    "rating": "rating/ml-100k-semisynthetic",
    "sequential": "sequential/ml-100k",
}
HISTORY_BENCHMARK, TASKS_BENCHMARK = "ctr/ml-100k-history", "ctr/ml-100k-tasks"
WITHOUT_MODELS = {"kgc"}
TUNED = sorted(shipped("configs", "tuned").rglob("*.yaml"))
N_USERS, N_ITEMS, N_ROWS = 150, 220, 1200

every_model = pytest.mark.parametrize("name", MODELS)


def benchmark_of(model):
    """Return the benchmark whose data a model needs."""
    if getattr(model, "multi_task", False):
        return TASKS_BENCHMARK
    return HISTORY_BENCHMARK if issubclass(model, HistoryModel) else BENCHMARK_OF_TASK[model.tasks[0]]


def cut_interactions(data):
    kept = (data.users < N_USERS) & (data.items < N_ITEMS)
    return data.users[kept], data.items[kept], kept


def small(task):
    """Return a corner of a task's real training data, small enough for every model."""
    data = task.data
    if isinstance(data, CTRData):
        rows = next(data.rows(N_ROWS).epoch(torch.Generator().manual_seed(0)))
        return CTRData(data.fields, rows, data.labels, data.items)
    if isinstance(data, SequenceData):
        users, items = data.sequences.rows(), data.sequences.values
        kept = (users < N_USERS) & (items < N_ITEMS)
        return SequenceData(N_USERS, N_ITEMS, users[kept], items[kept], data.times.values[kept])
    users, items, kept = cut_interactions(data)
    if isinstance(data, RatingData):
        propensities = data.propensities[:N_USERS, :N_ITEMS]
        return RatingData(N_USERS, N_ITEMS, users, items, data.labels[kept], propensities, data.positive_share)
    if isinstance(data, KGData):
        facts = data.graph.take(torch.nonzero(data.graph.heads < N_ITEMS).squeeze(1))
        others = facts.tails[facts.tails >= N_ITEMS].unique()
        tails = torch.where(facts.tails < N_ITEMS, facts.tails, N_ITEMS + torch.searchsorted(others, facts.tails))
        graph = Triples(facts.heads, facts.relations, tails)
        return KGData(N_USERS, N_ITEMS, users, items, N_ITEMS + len(others), data.n_relations, graph)
    return TopNData(N_USERS, N_ITEMS, users, items)


@pytest.fixture(scope="module")
def data_of(task_of):
    made = {}

    def get(model):
        benchmark = benchmark_of(model)
        if benchmark not in made:
            made[benchmark] = small(task_of(benchmark))
        return made[benchmark]

    return get


def short_config(model):
    """Two epochs; otherwise the defaults, which are what users get."""
    fields = model.Config.model_fields
    values = {"epochs": 2, "batch_size": 256, "search_epochs": 2, "rewind": 1}
    values["backbone_config"] = {key: values[key] for key in ("epochs", "batch_size")}
    return model.Config.parse({key: value for key, value in values.items() if key in fields}, "the test")


def build(model, data, seed=1):
    torch.manual_seed(seed)
    return model.create(short_config(model), data)


def scores(model, data, block=10**6):
    """Return what the model's task would judge it by, computed in blocks of that size."""
    model.eval()
    with torch.no_grad():
        if isinstance(data, CTRData):
            rows = next(data.rows(N_ROWS).epoch(torch.Generator().manual_seed(0)))
            return torch.cat([model(part) for part in rows.split(block)])
        if isinstance(data, RatingData):
            pairs = torch.cartesian_prod(torch.arange(N_USERS), torch.arange(N_ITEMS)).split(block)
            return torch.cat([model.predict(pair[:, 0], pair[:, 1]) for pair in pairs])
        model.prepare_scoring()
        users = torch.arange(N_USERS).split(block)
        return torch.cat([model.score(data.user_batch(part)) for part in users])


def expected_shape(data):
    if isinstance(data, CTRData):
        return data.all_rows().labels.shape
    return (N_USERS * N_ITEMS,) if isinstance(data, RatingData) else (N_USERS, N_ITEMS)


def train(model, data, folder=None, identity="", on_epoch=lambda epoch: None, seed=1):
    """Train as a run does; the validation value is a function of the weights, so early stopping is exercised."""
    torch.manual_seed(seed)
    trainer = Trainer(
        model,
        data,
        lambda: {"auc": float(scores(model, data).double().std())},
        metric="auc",
        device=torch.device("cpu"),
        seed=seed,
        checkpoints=Checkpoints(folder, identity),
        on_epoch=on_epoch,
    )
    return trainer.fit()


@pytest.fixture(scope="module")
def trained(data_of):
    """Return a model that was trained for two epochs, its data and its training's history."""
    made = {}

    def get(name):
        if name not in made:
            model = load_model(name)
            data = data_of(model)
            built = build(model, data)
            made[name] = built, data, train(built, data)
        return made[name]

    return get


@every_model
def test_the_file_is_the_registration(name):
    model = load_model(name)
    assert model.model_name() == name == model.__module__.rpartition(".")[2]
    assert set(model.tasks) <= set(TASKS)
    assert model.tasks


@every_model
def test_is_documented(name):
    model = load_model(name)
    first = (model.__doc__ or "").strip().splitlines()[0]
    assert first.endswith(".")
    assert 20 < len(first) <= 120
    document = (Path(__import__(model.__module__, fromlist=["x"]).__file__)).read_text()
    assert re.search(r"^Departures", document, re.MULTILINE), "the module says where it departs from its source"


@every_model
def test_has_a_published_reference(name):
    reference = load_model(name).reference
    if name in WITHOUT_REFERENCE:
        assert reference is None
        return
    assert reference is not None
    assert reference.source
    assert reference.benchmark.partition("/")[0] in TASKS
    assert reference.benchmark.partition("/")[2]
    assert reference.tolerance > 0
    higher_is_better(reference.metric)


@every_model
def test_configuration_round_trips(name):
    model = load_model(name)
    config = model.Config()
    assert model.Config.parse(config.model_dump(mode="json"), "a result") == config
    with pytest.raises(ValidationError):
        config.anything = 1
    if model.Config.model_fields:
        near = next(iter(model.Config.model_fields))
        with pytest.raises(UsageError, match=f"unknown key '{near}x'; did you mean .*{near}"):
            model.Config.parse({f"{near}x": 1}, "the test")


@every_model
def test_configuration_has_types_and_bounds(name):
    config = load_model(name).Config
    for key, field in config.model_fields.items():
        wrong = {"not": "a value"}
        with pytest.raises(UsageError, match=key):
            config.parse({key: wrong}, "the test")
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert field.metadata, f"{key} has no bounds"
            with pytest.raises(UsageError, match=key):
                config.parse({key: -1}, "the test")
    for number in (float("nan"), float("inf")):
        for key, field in config.model_fields.items():
            if isinstance(field.default, float):
                with pytest.raises(UsageError, match=key):
                    config.parse({key: number}, "the test")


@every_model
def test_search_space_is_inside_the_bounds(name):
    config = load_model(name).Config
    for key, space in config.search_space().items():
        default = config.model_fields[key].default
        if "choices" in space:
            assert default in space["choices"]
            values = space["choices"]
        else:
            assert space["low"] <= default <= space["high"], f"{key}: the default is the first trial"
            assert space["low"] > 0 or not space["log"]
            values = [space["low"], space["high"]]
            assert isinstance(space["low"], int) == isinstance(space["high"], int) == isinstance(default, int), key
        for value in values:
            assert getattr(config.parse({key: value}, "the search space"), key) == value


@every_model
def test_weights_follow_from_the_seed(name, data_of):
    model = load_model(name)
    data = data_of(model)
    first, again, other = (build(model, data, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    differs = any(not torch.equal(first[key], other[key]) for key in first)
    assert differs or model.deterministic


@every_model
def test_a_model_of_one_label_says_so(name, task_of):
    model = load_model(name)
    if model.tasks != ("ctr",):
        pytest.skip("for click models")
    data = small(task_of(TASKS_BENCHMARK))
    if model.multi_task:
        assert build(model, data)(data.all_rows()).shape == (N_ROWS, 2)
    else:
        with pytest.raises(UsageError, match="learns one label, and this benchmark has 2: like, love; use a model"):
            build(model, data)


@every_model
def test_trains(name, trained):
    model, _, history = trained(name)
    assert history.fit_s > 0
    assert len(history.epoch_s) >= 1 or name in WITHOUT_PARAMETERS
    assert (parameter_count(model) > 0) == (name not in WITHOUT_PARAMETERS)
    assert not model.training


@every_model
def test_scores_are_finite_and_of_the_right_shape(name, trained):
    model, data, _ = trained(name)
    found = scores(model, data)
    assert found.shape == expected_shape(data)
    assert torch.isfinite(found).all()
    assert found.double().std() > 0
    if isinstance(data, RatingData):
        assert 0 <= found.min() <= found.max() <= 1


@every_model
@pytest.mark.parametrize("block", [1, 37])
def test_scores_do_not_depend_on_the_batch(name, block, trained):
    model, data, _ = trained(name)
    if block == 1 and not isinstance(data, TopNData):
        block = 501
    torch.testing.assert_close(scores(model, data, block), scores(model, data), rtol=1e-4, atol=1e-5)


@every_model
def test_scoring_changes_nothing(name, trained):
    model, data, _ = trained(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first = scores(model, data)
    assert torch.equal(first, scores(model, data))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@every_model
def test_state_is_all_there_is(name, trained):
    """A new model with the old one's state gives the same scores: nothing is hidden in other attributes."""
    model, data, _ = trained(name)
    other = build(type(model), data, seed=7)
    other.load_state_dict(model.state_dict())
    assert torch.equal(scores(other, data), scores(model, data))


@every_model
def test_gradients_reach_every_parameter(name, data_of):
    model = load_model(name)
    data = data_of(model)
    built = build(model, data)
    missing = {key for key, parameter in built.named_parameters() if parameter.requires_grad}
    for stage in built.procedure(data):
        built.train()
        for step in stage.steps:
            if not hasattr(step, "loss"):
                continue
            for batch in list(step.batches.epoch(torch.Generator().manual_seed(0)))[:3]:
                built.zero_grad()
                loss = step.loss(batch)
                assert loss.shape == ()
                loss.backward()
                groups = [item["params"] if isinstance(item, dict) else [item] for item in step.parameters]
                own = {id(parameter) for group in groups for parameter in group}
                for key, parameter in built.named_parameters():
                    if id(parameter) in own and parameter.grad is not None and parameter.grad.abs().sum() > 0:
                        missing.discard(key)
    assert not missing


class KilledError(Exception):
    pass


@every_model
def test_goes_on_where_it_was_killed(name, trained, tmp_path, monkeypatch):
    """Stopped in the last epoch but one, a training ends the same bit for bit."""
    monkeypatch.setattr("recbench.training.checkpoint.SPACING", 0.0)
    model, data, history = trained(name)
    told = []

    def stop(epoch):
        told.append((epoch.stage, epoch.number))
        if len(told) >= max(1, len(history.epoch_s) - 1):
            raise KilledError

    interrupted = build(type(model), data)
    with contextlib.suppress(KilledError):
        train(interrupted, data, tmp_path / "checkpoint", on_epoch=stop)
    resumed = build(type(model), data)
    again = train(resumed, data, tmp_path / "checkpoint")
    left, right = model.state_dict(), resumed.state_dict()
    assert all(torch.equal(left[key], right[key]) for key in left)
    assert again.best_epoch == history.best_epoch
    assert len(again.epoch_s) == len(history.epoch_s)
    assert again.n_samples == history.n_samples


@pytest.mark.parametrize("name", benchmark_names())
def test_benchmark_loads(name):
    benchmark = load_benchmark(name)
    assert benchmark.task in {*TASKS, *WITHOUT_MODELS}
    assert benchmark.title
    assert isinstance(higher_is_better(benchmark.primary_metric), bool)
    assert load_card(benchmark.dataset).name == benchmark.dataset
    assert isinstance(benchmark.protocol, Protocol)


def test_every_task_has_a_benchmark_and_every_model_one():
    tasks = {name.partition("/")[0] for name in benchmark_names()}
    assert tasks - WITHOUT_MODELS == set(TASKS) == set(BENCHMARK_OF_TASK)


def test_a_benchmark_without_models_says_so():
    with pytest.raises(UsageError, match="is a kgc benchmark"):
        make_plan("kgc/nations", "ease", {}, 1)


@pytest.mark.parametrize("name", suite_names())
def test_suite_loads(name):
    suite = load_suite(name)
    assert suite.title
    for entry in suite.runs:
        assert len(set(entry.models)) == len(entry.models)
        for model in entry.models:
            assert make_plan(entry.benchmark, model, entry.values, suite.seeds[0]).seed == suite.seeds[0]


def test_every_model_is_in_a_suite_of_at_least_five_seeds():
    suites = [load_suite(name) for name in suite_names()]
    models = {model for suite in suites if len(suite.seeds) >= 5 for entry in suite.runs for model in entry.models}
    assert models == set(MODELS)


@pytest.mark.parametrize("path", TUNED, ids=lambda path: path.stem)
def test_tuned_configuration_loads(path):
    tuned = read_config(path, lambda content: Tuned(**content))
    assert path == shipped("configs", "tuned", tuned.benchmark, f"{tuned.model}.yaml")
    model, benchmark = load_model(tuned.model), load_benchmark(tuned.benchmark)
    assert benchmark.task in model.tasks
    assert tuned.metric == benchmark.primary_metric
    assert tuned.model_version == model.version, "the model has changed since it was tuned"
    assert set(tuned.config) <= set(model.Config.search_space())
    model.Config.parse(tuned.config, str(path))
    assert tuned.default_value is not None
    better = higher_is_better(tuned.metric)
    assert tuned.value >= tuned.default_value if better else tuned.value <= tuned.default_value
    assert tuned.trials > 0
    assert tuned.tune_s > 0


def test_every_shipped_yaml_is_found_by_name():
    found = {path.relative_to(shipped("configs")).as_posix() for path in shipped("configs").rglob("*.yaml")}
    named = {f"benchmarks/{name}.yaml" for name in benchmark_names()}
    named |= {f"suites/{name}.yaml" for name in suite_names()}
    assert found == named | {path.relative_to(shipped("configs")).as_posix() for path in TUNED}
    for name in found:
        assert isinstance(yaml.safe_load(shipped("configs", name).read_text()), dict)
