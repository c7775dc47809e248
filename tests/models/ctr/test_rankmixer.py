import pytest
import torch
from torch.nn import functional

from recbench.errors import UsageError
from recbench.models.base import parameter_count
from recbench.models.ctr.rankmixer import MixerLayer, RankMixer, mix


def test_parameter_count_on_frappe(frappe):
    """2 k L T D^2 matrices of the perceptrons, as the paper has it, and what is small beside them."""
    config = RankMixer.Config(embedding_dim=10, num_tokens=5, token_dim=20, num_layers=3, expansion=4)
    perceptrons = 2 * 4 * 3 * 5 * 20**2
    biases, norms = 3 * 5 * (4 * 20 + 20), 3 * 4 * 20
    tokens = 5 * (20 * 20 + 20)
    assert parameter_count(RankMixer(config, frappe)) == 53_890 + tokens + perceptrons + biases + norms + 21


def test_mixing_puts_heads_of_the_same_number_together():
    tokens = torch.tensor([[[1, 2, 3, 4], [5, 6, 7, 8]]])
    assert mix(tokens).tolist() == [[[1, 2, 5, 6], [3, 4, 7, 8]]]


def test_mixing_twice_changes_nothing():
    tokens = torch.randn(3, 4, 12)
    assert torch.equal(mix(mix(tokens)), tokens)


def test_each_token_has_a_perceptron_of_its_own():
    torch.manual_seed(0)
    layer, tokens = MixerLayer(2, 4, 3), torch.randn(5, 2, 4)
    torch.nn.init.normal_(layer.up_bias)
    torch.nn.init.normal_(layer.down_bias)
    mixed = functional.layer_norm(mix(tokens) + tokens, (4,))
    for t in range(2):
        hidden = functional.gelu(mixed[:, t] @ layer.up[t] + layer.up_bias[t])
        mapped = hidden @ layer.down[t] + layer.down_bias[t]
        expected = functional.layer_norm(mapped + mixed[:, t], (4,))
        torch.testing.assert_close(layer(tokens)[:, t], expected, rtol=1e-4, atol=1e-5)


def test_a_group_of_fields_makes_one_token(make, rows):
    model = make(RankMixer, num_tokens=2, token_dim=8)
    assert model.widths == [20, 20]
    embeddings = model.embedding(rows)
    tokens = torch.stack([model.projections[t](embeddings[:, 2 * t : 2 * t + 2].flatten(1)) for t in range(2)], 1)
    expected = model.output(model.layers(tokens).mean(1)).squeeze(1)
    torch.testing.assert_close(model(rows), expected)


def test_groups_need_not_be_equal(make, rows):
    model = make(RankMixer, num_tokens=3, token_dim=6)
    assert model.widths == [20, 10, 10]
    assert model(rows).shape == (300,)


def test_impossible_tokens_are_errors(make):
    with pytest.raises(UsageError, match="token_dim: expected a multiple of num_tokens = 5, found 32"):
        RankMixer.Config(num_tokens=5)
    with pytest.raises(UsageError, match="num_tokens: expected at most the number of fields, 4, found 8"):
        make(RankMixer, num_tokens=8)


def test_predictions_do_not_depend_on_the_batch(make, check_batch_size):
    check_batch_size(make(RankMixer))
