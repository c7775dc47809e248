import dataclasses

import pytest
import torch

from recbench.errors import UsageError
from recbench.models.base import parameter_count
from recbench.models.ctr.finalmlp import Context, FinalMLP
from recbench.models.layers.embedding import FieldEmbedding
from recbench.tasks.batches import Ragged
from recbench.tasks.ctr import CTRBatch, Field, FieldSpace

BOARD = {
    "embedding_dim": 10,
    "hidden1": (400,),
    "hidden2": (100,),
    "batch_norm": True,
    "num_heads": 5,
    "gate_hidden": (400,),
}


def test_parameter_count_on_frappe():
    # BARS counts a padding row in each table of a field: 10, and again those of user and item, for the gates.
    sizes = [955, 4083, 8, 8, 3, 4, 3, 10, 81, 234]
    names = ["user", "item", *map(str, range(8))]
    fields = FieldSpace(
        Field(name, False, size, sum(sizes[:n])) for n, (name, size) in enumerate(zip(names, sizes, strict=True))
    )
    config = FinalMLP.Config(**BOARD, fs1_context=("user",), fs2_context=("item",))
    assert parameter_count(FinalMLP(config, fields)) == 253_392 - 10 * (10 + 2)


def without_interaction(model):
    model.bilinear.data.zero_()
    return model


def test_without_gates_and_bilinear_form_it_is_the_sum_of_two_perceptrons(make, rows):
    model = without_interaction(make(FinalMLP, gates=False, num_heads=1))
    flat = model.embedding(rows).flatten(1)
    expected = model.output1(model.mlp1(flat)) + model.output2(model.mlp2(flat))
    torch.testing.assert_close(model(rows), expected.squeeze(1))


def test_bilinear_form_pairs_the_heads(make, rows):
    model = make(FinalMLP, gates=False, num_heads=2, hidden1=(8,), hidden2=(4,))
    whole = model(rows)
    flat = model.embedding(rows).flatten(1)
    x1, x2 = model.mlp1(flat), model.mlp2(flat)
    explicit = sum(((x1[:, 4 * h : 4 * h + 4] @ model.bilinear[h]) * x2[:, 2 * h : 2 * h + 2]).sum(1) for h in range(2))
    torch.testing.assert_close(whole - without_interaction(model)(rows), explicit, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("contexts", [{}, {"fs1_context": ("user",), "fs2_context": ("genres", "item")}])
def test_gates_of_zero_output_change_nothing(make, rows, contexts):
    gated = make(FinalMLP, **contexts)
    plain = make(FinalMLP, gates=False)
    plain.load_state_dict({name: value for name, value in gated.state_dict().items() if not name.startswith("gates")})
    assert not torch.equal(gated(rows), plain(rows))
    for _, gate in gated.gates:
        gate[-1].weight.data.zero_()
        gate[-1].bias.data.zero_()
    assert torch.equal(gated(rows), plain(rows))


def test_a_gate_is_twice_the_sigmoid_of_a_perceptron_of_its_context(make, rows):
    model = make(FinalMLP, fs1_context=("item",), dropout1=0.0, dropout2=0.0)
    torch.nn.init.normal_(model.gates[0][0].embedding.weight)
    item = model.gates[0][0].embedding.weight[rows.ids[:, 1] - model.fields[2].offset]
    flat = model.embedding(rows).flatten(1)
    x1 = model.mlp1(flat * 2 * model.gates[0][1](item).sigmoid())
    x2 = model.mlp2(flat * 2 * model.gates[1](rows).sigmoid())
    x1_heads, x2_heads = x1.view(len(rows), 4, -1), x2.view(len(rows), 4, -1)
    pairs = torch.einsum("bhi,hij,bhj->b", x1_heads, model.bilinear, x2_heads)
    expected = (model.output1(x1) + model.output2(x2)).squeeze(1) + pairs
    torch.testing.assert_close(model(rows), expected, rtol=1e-4, atol=1e-4)


def test_a_context_has_the_vectors_of_its_fields_alone(fields, rows):
    """Every kind of field: single, multi-valued, dense, and one that shares a vocabulary; in the order of all."""
    number = Field("price", False, 1, 40, dense=True)
    history = dataclasses.replace(fields[2], name="history", multi=True, sequence=5)
    fields = FieldSpace([*fields, number, history])
    offsets = torch.arange(0, 601, 2)
    clicked = Ragged(fields[2].offset + torch.arange(600) % fields[2].size, offsets)
    rows = CTRBatch(rows.ids, rows.multi | {"history": clicked}, rows.labels, torch.rand(300, 1))
    names = ("history", "genres", "price", "item")
    context = Context(fields, names, 4, "fs1_context")
    whole = FieldEmbedding(fields, 4)
    used = {"item": 2, "genres": 1, "price": 4}
    assert len(context.embedding.weight) == sum(fields[n].size for n in used.values())
    for name in used:
        own = next(field for field in context.embedding.fields if field.name == name)
        same = fields[used[name]]
        whole.weight.data[same.offset : same.offset + same.size] = context.embedding.weight.data[
            own.offset : own.offset + own.size
        ]
    expected = whole(rows)[:, [1, 2, 4, 5]].flatten(1)
    assert torch.equal(context(rows), expected)


def test_gradients_reach_the_learned_vector(make, rows):
    model = make(FinalMLP)
    model.loss(rows).backward()
    assert model.gates[0][0].vector.grad.abs().sum() > 0


def test_the_tables_of_the_contexts_are_penalised(make):
    model = make(FinalMLP, embedding_l2=2.0, fs1_context=("user",))
    expected = model.embedding.weight.square().sum() + model.gates[0][0].embedding.weight.square().sum()
    torch.testing.assert_close(model.penalty(), expected)


def test_an_unknown_context_is_an_error(make):
    with pytest.raises(UsageError, match=r"unknown field 'usr'; did you mean user.*fs2_context"):
        make(FinalMLP, fs2_context=("usr",))


@pytest.mark.parametrize("widths", [{"hidden1": (8, 6)}, {"hidden2": (10,)}, {"hidden1": ()}])
def test_heads_must_divide_the_streams(widths):
    with pytest.raises(UsageError, match=f"{next(iter(widths))}: expected a last width that num_heads = 4 divides"):
        FinalMLP.Config(**widths)


@pytest.mark.parametrize("form", [{}, {"gates": False}, {"fs1_context": ("user",), "fs2_context": ("genres",)}])
def test_predictions_do_not_depend_on_the_batch(make, check_batch_size, form):
    check_batch_size(make(FinalMLP, dropout1=0.5, batch_norm=True, **form))
