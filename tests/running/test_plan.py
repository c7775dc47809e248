import pytest

from recbench.errors import UsageError
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
