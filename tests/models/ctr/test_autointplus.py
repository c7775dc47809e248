import pytest
import torch

from recbench.errors import UsageError
from recbench.models.base import parameter_count
from recbench.models.ctr.autoint import AutoInt
from recbench.models.ctr.autointplus import AutoIntPlus


def test_parameter_count_of_bars_on_frappe(frappe):
    config = AutoIntPlus.Config(
        embedding_dim=10,
        head_dim=32,
        num_heads=4,
        num_layers=5,
        identity_residual=True,
        layer_norm="before",
        hidden=(400, 400, 400),
        batch_norm=True,
    )
    assert parameter_count(AutoIntPlus(config, frappe)) == 622_180


def test_it_is_autoint_with_a_perceptron(make, rows):
    """Without batch normalisation bit for bit the same model as AutoInt with ``hidden``."""
    left, right = make(AutoIntPlus, hidden=(8, 8)), make(AutoInt, hidden=(8, 8))
    assert torch.equal(left(rows), right(rows))


def test_needs_a_perceptron():
    with pytest.raises(UsageError, match="hidden"):
        AutoIntPlus.Config.parse({"hidden": []}, "the test")


@pytest.mark.parametrize("batch_norm", [False, True])
def test_predictions_do_not_depend_on_the_batch(make, check_batch_size, batch_norm):
    check_batch_size(make(AutoIntPlus, hidden=(8, 8), batch_norm=batch_norm))
