"""The test part is out of reach: by type, by what a model is handed, and for a model that cheats."""

import gc
import inspect
import types
from typing import get_type_hints

import numpy as np
import pytest
import torch

from recbench import run
from recbench.data.cards import load_card
from recbench.data.store import Prepared
from recbench.errors import RecbenchError
from recbench.models.base import ClosedFormRecommender
from recbench.models.registry import load_model
from recbench.running.result import RECORD, read_result
from recbench.running.run import fit
from recbench.tasks.base import Development, SealedTest, Task, load_benchmark
from recbench.tasks.registry import TASKS
from recbench.training.trainer import Trainer

OF_TASK = {"topn": ("topn/ml-100k", "bprmf"), "kg": ("kg/ml-100k", "kgat"), "ctr": ("ctr/ml-100k", "deepfm")}
OF_TASK["rating"] = ("rating/ml-100k-semisynthetic", "drjl")
FORBIDDEN = (Prepared, SealedTest)
CODE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.CodeType, types.FrameType)


def reachable(*roots):
    """Yield every object that can be had from the roots by attributes, items, closures and bound methods.

    Not the globals of modules: whoever imports the package can of course open its cache.
    """
    seen, waiting = set(), list(roots)
    while waiting:
        found = waiting.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        if isinstance(found, types.FunctionType):
            waiting += [cell.cell_contents for cell in found.__closure__ or ()]
            waiting += found.__defaults__ or ()
        elif isinstance(found, types.MethodType):
            waiting += [found.__self__, found.__func__]
        elif isinstance(found, dict):
            waiting += [*found.keys(), *found.values()]
        elif not isinstance(found, CODE):
            waiting += [value for value in gc.get_referents(found) if not isinstance(value, types.ModuleType)]


@pytest.mark.parametrize("name", sorted(OF_TASK))
def test_nothing_a_model_is_handed_leads_to_held_out_labels(name, task_of, parts_of):
    benchmark, model_name = OF_TASK[name]
    task = task_of(benchmark)
    torch.manual_seed(0)
    model = load_model(model_name)
    model = model.create(model.Config(), task.data)
    batches = [next(iter(step.batches.epoch(torch.Generator()))) for step in phases(model, task.data)]
    held_out = {part: parts_of(benchmark, part) for part in ("valid", "test")}
    objects = list(reachable(task.data, model, *batches))
    assert not [found for found in objects if isinstance(found, (*FORBIDDEN, Development, Task, Trainer, np.memmap))]
    assert not holds(objects, held_out["valid"])
    assert not holds(objects, held_out["test"])
    # What the evaluator itself works with has the validation part, which shows that the search finds what is there.
    objects = list(reachable(Development.of(prepared_of(benchmark)), task))
    assert holds(objects, held_out["valid"])
    assert not holds(objects, held_out["test"])
    assert not [found for found in objects if isinstance(found, FORBIDDEN)]


def prepared_of(name):
    benchmark = load_benchmark(name)
    return benchmark.protocol.prepare(load_card(benchmark.dataset))


def holds(objects, part):
    """Say whether one of the objects is an array of the part."""
    arrays = [found for found in objects if isinstance(found, np.ndarray)]
    dense = [found for found in objects if isinstance(found, torch.Tensor) and found.layout == torch.strided]
    arrays += [found.detach().numpy() for found in dense]
    wanted = [part[name] for name in ("items", "ids", "labels") if name in part]
    return any(a.shape == values.shape and np.array_equal(a, values) for a in arrays for values in wanted)


def phases(model, data):
    return [step for stage in model.procedure(data) for step in stage.steps if hasattr(step, "batches")]


def test_training_and_tuning_take_what_has_no_test_part():
    assert get_type_hints(fit)["development"] is Development
    assert "sealed" not in inspect.signature(fit).parameters
    assert set(inspect.signature(Development).parameters) == {
        "shared",
        "train",
        "valid",
        "meta",
        "split_sha256",
        "vocabulary",
    }
    for task in TASKS.values():
        assert list(inspect.signature(task.training_data).parameters) == ["self", "development"]


class Searcher(ClosedFormRecommender):
    """Searches all of memory for the sealed test part."""

    found = None

    def fit(self, data):
        type(self).found = [found for found in gc.get_objects() if type(found) is SealedTest]

    def score(self, batch):
        return torch.zeros(len(batch), self.n_items)


class Thief(Searcher):
    """And opens it."""

    def fit(self, data):
        super().fit(data)
        self.known = [found.open() for found in self.found]


@pytest.fixture
def cheater(monkeypatch):
    """Run a model class of this module."""

    def go(model, out):
        monkeypatch.setattr("recbench.running.plan.load_model", lambda name: model)
        return run("topn/ml-100k", model.model_name(), out=out, tracking=False, tuned=False)

    return go


def test_a_sealed_part_does_not_exist_while_a_model_trains(cheater, tmp_path):
    result = cheater(Searcher, tmp_path)
    assert Searcher.found == []
    assert result.metrics.test["ndcg@10"] < 0.05  # scores like the random one
    log = (tmp_path / "topn/ml-100k/searcher/seed-1/log.txt").read_text()
    assert log.count("test labels opened") == 1
    assert log.index("test labels opened") < log.index("test: ")


def test_a_run_whose_test_part_was_opened_before_fails(cheater, tmp_path, monkeypatch):
    sealed = SealedTest(prepared_of("topn/ml-100k"))
    monkeypatch.setattr("recbench.running.run.SealedTest", lambda prepared: sealed)
    with pytest.raises(RecbenchError, match="opened before"):
        cheater(Thief, tmp_path)
    record = read_result(tmp_path / "topn/ml-100k/thief/seed-1" / RECORD)
    assert record.status == "failed"
    assert record.metrics is None
