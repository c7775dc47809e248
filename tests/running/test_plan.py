from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import model_validator

from recbench.errors import UsageError
from recbench.models.base import ModelConfig
from recbench.running import plan as plans
from recbench.running.plan import make_plan, parse_assignments
from recbench.running.settings import Settings


def test_values_are_read_as_yaml_and_numbers_as_people_write_them():
    words = ["hidden=[64,32]", "learning_rate=1e-3", "l2=5E2", "tracking=off", "name=text", "a=1=2", "empty="]
    assert parse_assignments(words) == {
        "hidden": [64, 32],
        "learning_rate": 0.001,
        "l2": 500.0,
        "tracking": False,
        "name": "text",
        "a": "1=2",
        "empty": None,
    }


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", ".nan", ".inf"])
def test_numbers_that_are_none_are_refused(value):
    with pytest.raises(UsageError, match="learning_rate"):
        make_plan("ctr/ml-100k", "lr", parse_assignments([f"learning_rate={value}"]), 1)


def plan(values=(), seed=1, benchmark="ctr/ml-100k", model="lr"):
    return make_plan(benchmark, model, parse_assignments(["tuned=off", *values]), seed)


def test_identity_is_what_decides_the_numbers():
    assert plan().identity() == plan(["device=cpu", "threads=1", "tracking=off"]).identity()
    others = [plan(["epochs=1"]), plan(["precision=bfloat16"]), plan(seed=2), plan(model="fm")]
    assert len({other.identity() for other in [plan(), *others]}) == 5


def test_a_default_that_is_given_is_the_same_run():
    config = plan().config
    assert plan([f"epochs={config.epochs}"]).identity() == plan().identity()


def test_settings_are_apart_from_the_configuration():
    made = plan(["threads=2", "epochs=3"])
    assert (made.settings.threads, made.config.epochs) == (2, 3)
    assert not set(Settings.model_fields) & set(made.model.Config.model_fields)
    assert made.config_from == "default + given"
    assert plan().config_from == "default"


def test_tuned_values_of_a_part_that_is_replaced_are_left_out(monkeypatch):
    tuned = SimpleNamespace(config={"num_negatives": 7, "learning_rate": 0.02}, trials=1, tune_s=1.0)
    monkeypatch.setattr(plans, "find_tuned", lambda benchmark, model: (Path("tuned.yaml"), tuned))
    assert make_plan("topn/ml-100k", "bprmf", {"sampler": "hard"}, 1).config.num_negatives == 7
    config = make_plan("topn/ml-100k", "bprmf", {"sampler": "all"}, 1).config
    assert (config.num_negatives, config.learning_rate) == (1, 0.02)
    with pytest.raises(UsageError, match=r"num_negatives: expected only with sampler = .*in the given values\)$"):
        make_plan("topn/ml-100k", "bprmf", {"sampler": "all", "num_negatives": 7}, 1)


@pytest.mark.parametrize("error", [ValueError, UsageError])
def test_a_fault_of_several_keys_is_one_sentence(error):
    class Config(ModelConfig):
        low: int = 1
        high: int = 2

        @model_validator(mode="after")
        def _in_order(self):
            if self.low > self.high:
                raise error(f"low: expected at most high = {self.high}, found {self.low}")
            return self

    with pytest.raises(UsageError, match=r"^low: expected at most high = 2, found 3 \(in the test\)$"):
        Config.parse({"low": 3}, "the test")
