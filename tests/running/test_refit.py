"""Benchmarks that judge the test part with a model trained again on training and validation data."""

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from recbench import run
from recbench.data.cards import load_card
from recbench.errors import RecbenchError, UsageError
from recbench.models.cf.ease import EASE
from recbench.resources import shipped
from recbench.running.plan import make_plan
from recbench.running.result import result_dir
from recbench.running.run import fit_for_test
from recbench.tasks.base import Development, SealedTest, load_benchmark
from recbench.tasks.topn import TopNTask


@pytest.fixture
def own_benchmark(tmp_path, monkeypatch):
    """Write a shipped benchmark anew as topn/own, with other keys."""

    def write(name="topn/ml-100k", **keys):
        content = yaml.safe_load(shipped("configs", "benchmarks", f"{name}.yaml").read_text())
        file = tmp_path / "configs" / "benchmarks" / "topn" / "own.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(content | keys))
        monkeypatch.chdir(tmp_path)

    return write


def go(tmp_path, benchmark, model, **values):
    result = run(benchmark, model, out=tmp_path / "results", tracking=False, tuned=False, **values)
    return result, result_dir(tmp_path / "results", benchmark, model, 1)


def test_test_is_of_a_model_of_both_parts_and_validation_of_one_of_training_alone(tmp_path, own_benchmark):
    own_benchmark(refit=True)
    plain, _ = go(tmp_path, "topn/ml-100k", "ease")
    result, _ = go(tmp_path, "topn/own", "ease")
    assert result.metrics.valid == plain.metrics.valid
    assert result.metrics.test["ndcg@10"] > plain.metrics.test["ndcg@10"]
    benchmark = load_benchmark("topn/ml-100k")
    prepared = benchmark.protocol.prepare(load_card("ml-100k"))
    parts = [prepared.part(name) for name in ("train", "valid")]
    joined = Development.of(prepared).joined()
    pairs = np.stack([joined.train["users"], joined.train["items"]])
    assert sorted(zip(*pairs, strict=True)) == sorted(
        pair for part in parts for pair in zip(part["users"], part["items"], strict=True)
    )
    task = TopNTask(benchmark, joined, torch.device("cpu"))
    model = EASE(EASE.Config(), task.data)
    with torch.no_grad():
        model.fit(task.data)
        expected, _ = task.test(model, SealedTest(prepared))
    assert result.metrics.test == expected.metrics


def test_the_final_training_takes_the_epochs_that_were_best(tmp_path, own_benchmark):
    own_benchmark(refit=True)
    result, folder = go(tmp_path, "topn/own", "bprmf", epochs=6, patience=1, learning_rate=0.02, l2=0.0)
    best = result.diagnostics["best_epoch"]
    assert 1 <= best["train"] <= 6
    first = min(6, best["train"] + 1)
    assert len(result.timing.epoch_s) == first + best["train"]
    assert f"final train epoch {best['train']}" in (folder / "log.txt").read_text()
    held_out = Development.of(load_benchmark("topn/own").protocol.prepare(load_card("ml-100k")))
    shown = pl.DataFrame(
        {"user": held_out.shared["user_ids"][held_out.valid["users"]]}
        | {"item": held_out.shared["item_ids"][held_out.valid["items"]]}
    )
    assert pl.read_parquet(folder / "predictions.parquet").join(shown, on=["user", "item"]).is_empty()


@pytest.mark.parametrize("name", ["topn/ml-1m-strong", "sequential/ml-1m-sasrec"])
def test_users_held_out_or_an_order_cannot_be_joined(name, own_benchmark):
    own_benchmark(name, refit=True)
    with pytest.raises(UsageError, match=r"own\.yaml: refit: true needs a protocol of interactions whose"):
        load_benchmark("topn/own")


def test_validation_items_cannot_be_trained_on_and_asked_for(own_benchmark):
    own_benchmark(refit=True, keep_valid=True)
    with pytest.raises(UsageError, match=r"own\.yaml: keep_valid and refit: with both true, validation items would be"):
        load_benchmark("topn/own")


def test_a_learning_rate_that_follows_validation_is_refused():
    from recbench.models.base import Model
    from recbench.models.procedure import Stage
    from recbench.training.checkpoint import Checkpoints
    from recbench.training.trainer import Trainer

    class Decaying(Model):
        def procedure(self, data):
            yield Stage("train", [], epochs=2, patience=1, lr_decay=0.1)

    settings = {"metric": "ndcg@10", "device": torch.device("cpu"), "seed": 1, "checkpoints": Checkpoints(None)}
    trainer = Trainer(Decaying(), None, dict, epochs={"train": 1}, **settings)
    with pytest.raises(RecbenchError, match="lr_decay follows validation"):
        trainer.fit()


@pytest.mark.parametrize(
    ("model", "values", "last"),
    [
        ("sgl", {"n_layers": 1, "contrast_weight": 0.001, "epochs": 2}, ("final train", 2)),
        ("simplex", {"num_negatives": 20, "max_history": 3, "aggregator": "mean", "epochs": 2}, ("final drop 1", 1)),
    ],
)
def test_the_final_training_goes_on_where_it_was_stopped(model, values, last, tmp_path, own_benchmark):
    own_benchmark(refit=True)
    small = {"embedding_dim": 8, "batch_size": 16384, "learning_rate": 0.01, "tuned": False}
    plan = make_plan("topn/own", model, small | values, 1)
    development = Development.of(plan.benchmark.protocol.prepare(plan.card))

    def fitted(folder, on_epoch):
        return fit_for_test(plan, development, tmp_path / folder, lambda task, data: None, on_epoch)

    def stop(epoch):
        if (epoch.stage, epoch.number) == last:
            raise KeyboardInterrupt

    whole = fitted("whole", lambda epoch: None)
    with pytest.raises(KeyboardInterrupt):
        fitted("stopped", stop)
    reached = []
    resumed = fitted("stopped", lambda epoch: reached.append((epoch.stage, epoch.number)))
    assert reached[-1] == last
    assert ("final train", 1) not in reached, "the checkpoint of the final training was read"
    assert resumed.history.best_epoch == whole.history.best_epoch
    assert resumed.valid == whole.valid
    state = resumed.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in whole.model.state_dict().items())
