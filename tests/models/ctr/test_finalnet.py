import pytest
import torch
from torch.nn import functional

from recbench.errors import UsageError
from recbench.models.base import parameter_count
from recbench.models.ctr.finalnet import FactorisedLayer, FieldGate, FinalNet


@pytest.mark.parametrize("residual", ["concat", "sum"])
@pytest.mark.parametrize("gate", [True, False])
def test_parameter_count_on_frappe(frappe, residual, gate):
    """BARS' two branches, [400, 400] and [400]; the plain layers have as many parameters as those of a perceptron."""
    config = FinalNet.Config(
        embedding_dim=10, hidden1=(400, 400), hidden2=(400,), batch_norm=True, gate=gate, residual=residual
    )
    times = 2 if residual == "sum" else 1
    first = times * ((200 if gate else 100) * 400 + 400 + 400 * 400 + 400) + 2 * 800 + 401
    second = times * (100 * 400 + 400) + 800 + 401
    expected = 53_890 + first + second + (10 * 10 + 10 if gate else 0)
    assert parameter_count(FinalNet(config, frappe)) == expected


@pytest.mark.parametrize("residual", ["concat", "sum"])
def test_a_layer_multiplies_its_halves(residual):
    layer, x = FactorisedLayer(5, 4, residual), torch.randn(3, 5)
    half = 2 if residual == "concat" else 4
    h2 = x @ layer.linear.weight[:half].T + layer.linear.bias[:half]
    h1 = x @ layer.linear.weight[half:].T + layer.linear.bias[half:]
    expected = torch.cat([h2, h1 * h2], 1) if residual == "concat" else h2 + h1 * h2
    torch.testing.assert_close(layer(x), expected)
    assert layer(x).shape == (3, 4)


def test_a_layer_whose_second_half_is_one_is_linear():
    layer, x = FactorisedLayer(5, 4, "sum"), torch.randn(3, 5)
    layer.linear.weight.data[4:] = 0.0
    layer.linear.bias.data[4:] = 1.0
    torch.testing.assert_close(layer(x), 2 * functional.linear(x, layer.linear.weight[:4], layer.linear.bias[:4]))


def test_the_gate_starts_at_one_and_mixes_fields_within_a_dim():
    gate, embeddings = FieldGate(3), torch.randn(4, 3, 5)
    assert torch.equal(gate(embeddings), torch.cat([embeddings, embeddings], 1))
    torch.nn.init.normal_(gate.linear.weight)
    gates = torch.einsum("fg,bgd->bfd", gate.linear.weight, embeddings) + 1
    torch.testing.assert_close(gate(embeddings)[:, 3:], embeddings * gates)


def test_one_branch_is_plain_cross_entropy(make, rows):
    model = make(FinalNet, hidden2=(), embedding_l2=0.0)
    expected = functional.binary_cross_entropy_with_logits(model(rows), rows.labels)
    torch.testing.assert_close(model.loss(rows), expected)


def test_two_branches_learn_from_their_mean(make, rows):
    model = make(FinalNet, gate=True, embedding_l2=0.0)
    y1, y2 = model.branch_logits(rows).unbind(1)
    final = model(rows)
    assert torch.equal(final, (y1 + y2) / 2)
    p = final.detach().sigmoid()
    terms = [final.sigmoid(), y1.sigmoid(), y2.sigmoid()]
    expected = sum(functional.binary_cross_entropy(q, t) for q, t in zip(terms, [rows.labels, p, p], strict=True))
    torch.testing.assert_close(model.loss(rows), expected)
    found = torch.autograd.grad(model.loss(rows), list(model.parameters()))
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_the_branches_share_nothing_but_the_embeddings(make, rows):
    model = make(FinalNet)
    before = model.branch_logits(rows)
    model.branches[1][-1].weight.data.zero_()
    after = model.branch_logits(rows)
    assert torch.equal(before[:, 0], after[:, 0])
    assert after[:, 1].unique().numel() == 1


def test_odd_widths_cannot_be_halved():
    with pytest.raises(UsageError, match=r"hidden2: residual = concat expects even widths, found \[6, 5\]"):
        FinalNet.Config(hidden2=(6, 5))
    FinalNet.Config(hidden2=(6, 5), residual="sum")


@pytest.mark.parametrize("form", [{}, {"hidden2": ()}, {"gate": True, "residual": "sum"}])
def test_predictions_do_not_depend_on_the_batch(make, check_batch_size, form):
    check_batch_size(make(FinalNet, dropout1=0.5, **form))
