import pytest
import torch

from recbench.models.base import parameter_count
from recbench.models.ctr.fm import FM
from recbench.models.ctr.xdeepfm import CIN, XDeepFM


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ({"maps": (64,), "hidden": (400, 400, 400), "batch_norm": True}, 429_809),
        ({"maps": (64, 64, 64), "hidden": ()}, 147_984),
    ],
)
def test_parameter_count_on_frappe(frappe, values, count):
    assert parameter_count(XDeepFM(XDeepFM.Config(embedding_dim=10, **values), frappe)) == count


def test_one_layer_of_halves_is_a_factorisation_machine(make, rows):
    cin, fm = make(XDeepFM, embedding_dim=6, maps=(1,), hidden=()), make(FM, embedding_dim=6)
    cin.cin.layers[0].weight.data = ((1 - torch.eye(4)) / 2).reshape(1, 16)
    cin.output.weight.data.fill_(1.0)
    cin.output.bias.data.fill_(0.3)
    shared = {name: cin.state_dict()[name] for name in ("embedding.weight", "linear.weight")}
    fm.load_state_dict(shared | {"bias": torch.tensor(0.3)})
    torch.testing.assert_close(cin(rows), fm(rows), rtol=1e-4, atol=1e-4)


def test_layers_equal_the_explicit_sums():
    torch.manual_seed(0)
    cin, x0 = CIN(3, (4, 2)), torch.randn(5, 3, 6)
    maps, expected = x0, []
    for layer, before, after in zip(cin.layers, (3, 4), (4, 2), strict=True):
        torch.nn.init.normal_(layer.bias)
        weight = layer.weight.view(after, 3, before)
        maps = torch.stack(
            [
                sum(weight[h, i, j] * x0[:, i] * maps[:, j] for i in range(3) for j in range(before)) + layer.bias[h]
                for h in range(after)
            ],
            1,
        )
        expected.append(maps.sum(2))
    torch.testing.assert_close(cin(x0), torch.cat(expected, 1), rtol=1e-4, atol=1e-4)


def test_perceptron_is_added(make, rows):
    both = make(XDeepFM)
    alone = make(XDeepFM, hidden=())
    alone.load_state_dict({name: value for name, value in both.state_dict().items() if not name.startswith("mlp")})
    perceptron = both.mlp(both.embedding(rows).flatten(1)).squeeze(1)
    torch.testing.assert_close(both(rows) - alone(rows), perceptron, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("hidden", [(), (8, 8)])
def test_predictions_do_not_depend_on_the_batch(make, check_batch_size, hidden):
    check_batch_size(make(XDeepFM, hidden=hidden, dropout=0.5, batch_norm=True))
