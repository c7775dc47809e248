import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from recbench.errors import UsageError
from recbench.models.ctr.infnet import INFNet, Reading
from recbench.tasks.batches import Ragged
from recbench.tasks.ctr import CTRBatch, CTRData, Field, FieldSpace

KINDS = ["fields", "sequences", "tasks"]
every_form = pytest.mark.parametrize(
    "form",
    [{}, {"residual": False}, {"gate_with": "previous"}, {"sequence_proxies": 3, "key_dim": 3}, {"num_blocks": 1}],
    ids=["default", "no residual", "previous", "proxies", "one block"],
)


@pytest.fixture
def data(history_data):
    return history_data(3)


@pytest.fixture
def build(data, spread):
    def build(data=data, **values):
        torch.manual_seed(0)
        return spread(INFNet.create(INFNet.Config(**({"embedding_dim": 4, "num_blocks": 3} | values)), data))

    return build


def attend(attention, queries, tokens, mask=None):
    """Attention as it is printed: softmax(Q W_Q (X W_K)^T / sqrt(d_k)) X W_V."""
    keys, values = tokens @ attention.key.weight.T, tokens @ attention.value.weight.T
    scores = (queries @ attention.query.weight.T) @ keys.transpose(1, 2) / keys.shape[2] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], -torch.inf)
    return scores.softmax(2).nan_to_num() @ values


def test_shapes_stay_through_the_blocks(build, data):
    model = build(sequence_proxies=2)
    tokens, proxies, mask = model.tokens(data.all_rows())
    n_tokens, n_proxies = dict(zip(KINDS, (4, 6, 3), strict=True)), dict(zip(KINDS, (4, 2, 2), strict=True))
    for number, block in enumerate(model.blocks, 1):
        tokens, proxies = block(tokens, proxies, mask)
        # Of the last block the logits need nothing but the tasks.
        made = KINDS if number < 3 else ["tasks"]
        assert {kind: value.shape for kind, value in tokens.items()} == {
            kind: (200, n_tokens[kind], 4) for kind in made
        }
        assert {kind: value.shape for kind, value in proxies.items()} == {
            kind: (200, n_proxies[kind], 4) for kind in made
        }
    assert model(data.all_rows()).shape == (200, 3)


def test_proxies_are_as_many_as_sequences_and_sums_of_them(build, data):
    model = build()
    rows = data.all_rows()
    _, proxies, _ = model.tokens(rows)
    history = rows.multi["history"]
    projected = model.sequence_proxies.projection(model.embedding.weight[history.values])
    sums = torch.zeros(200, 4).index_add(0, history.rows(), projected)
    torch.testing.assert_close(proxies["sequences"], sums[:, None])


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("gate_with", ["refreshed", "previous"])
def test_a_block_is_the_printed_equations(build, data, residual, gate_with):
    model = build(residual=residual, gate_with=gate_with, key_dim=3)
    tokens, proxies, mask = model.tokens(data.all_rows())
    block = model.blocks[0]
    gated, refreshed = block(tokens, proxies, mask)
    for kind in KINDS:
        others = [other for other in KINDS if other != kind]
        read, ask = torch.zeros_like(proxies[kind]), torch.zeros_like(tokens["tasks"])
        for other in others:
            where = mask if other == "sequences" else None
            read = read + attend(block.refresh[kind].attentions[other], proxies[kind], tokens[other], where)
            if kind == "tasks":
                ask = ask + attend(block.ask.attentions[other], tokens["tasks"], tokens[other], where)
        expected = proxies[kind] + read if residual else read
        torch.testing.assert_close(refreshed[kind], expected)
        gating = expected if gate_with == "refreshed" else proxies[kind]
        gate = block.gates[kind](gating.flatten(1)).sigmoid()
        queried = tokens[kind]
        if kind == "tasks":
            queried = queried + ask if residual else ask
        torch.testing.assert_close(gated[kind], queried * gate[:, None])


def test_gates_are_shared_by_tokens_and_start_at_a_half(build, data):
    model = build()
    tokens, proxies, mask = model.tokens(data.all_rows())
    tokens["fields"] = torch.randn(200, 4, 4)
    gated, _ = model.blocks[0](tokens, proxies, mask)
    ratio = gated["fields"] / tokens["fields"]
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-4, atol=1e-4)
    assert ratio.std() > 0.01
    for parameter in model.blocks[0].gates["fields"][-1].parameters():
        parameter.data.zero_()
    gated, _ = model.blocks[0](tokens, proxies, mask)
    torch.testing.assert_close(gated["fields"], tokens["fields"] / 2)


def test_cost_is_linear_in_the_length_of_sequences(build, data):
    rows = data.all_rows()

    def flops(length):
        fields = FieldSpace(
            Field("history", True, 15, 20, sequence=length, vocabulary="item") if field.sequence else field
            for field in data.fields
        )
        model = build(CTRData(fields, rows, data.labels))
        with FlopCounterMode(display=False) as counter:
            model(rows)
        return counter.get_total_flops()

    assert flops(40) - flops(20) == 2 * (flops(20) - flops(10)) > 0


def test_padding_and_order_of_a_sequence_do_not_count(build, data):
    rows = data.all_rows()
    history = rows.multi["history"]
    starts, ends = history.offsets[:-1][history.rows()], history.offsets[1:][history.rows()]
    backwards = history.values[starts + ends - 1 - torch.arange(len(ends))]
    assert not torch.equal(backwards, history.values)
    turned = CTRBatch(rows.ids, rows.multi | {"history": Ragged(backwards, history.offsets)}, rows.labels, rows.dense)
    longer = FieldSpace(
        Field("history", True, 15, 20, sequence=9, vocabulary="item") if field.sequence else field
        for field in data.fields
    )
    model, padded = build(), build(CTRData(longer, rows, data.labels))
    torch.testing.assert_close(model(turned), model(rows))
    torch.testing.assert_close(padded(rows), model(rows))


def test_tasks_inform_the_fields(build, data):
    """Without task tokens the fields' proxies read sequences alone; with them, a task's logit depends on all tasks."""
    model = build()
    model(data.all_rows())[:, 0].sum().backward()
    assert (model.task_vectors.grad.abs().sum(1) > 0).all()
    tokens, proxies, mask = model.tokens(data.all_rows())
    tokens["tasks"] = torch.zeros_like(tokens["tasks"])
    _, refreshed = model.blocks[0](tokens, proxies, mask)
    alone = model.blocks[0].refresh["fields"].attentions["sequences"](proxies["fields"], tokens["sequences"], mask)
    torch.testing.assert_close(refreshed["fields"], proxies["fields"] + alone)


def test_without_cross_attention_nothing_of_a_row_reaches_the_tasks(build, data, monkeypatch):
    """So that no part costs as much as attention when it is taken out: an auc of one half is left of any."""
    rows = data.all_rows()
    model = build()
    assert (model(rows).std(0) > 1e-3).all()
    monkeypatch.setattr(Reading, "forward", lambda self, queries, tokens, mask: queries)
    logits = model(rows)
    assert torch.equal(logits, logits[:1].expand_as(logits))


def test_one_task_without_sequences_pools_the_fields_by_attention(rows, fields, spread):
    data = CTRData(fields, rows)
    torch.manual_seed(0)
    model = spread(INFNet.create(INFNet.Config(embedding_dim=4, num_blocks=1), data))
    tokens = model.embedding(rows)
    block = model.blocks[0]
    task = model.task_vectors + attend(block.ask.attentions["fields"], model.task_vectors[None], tokens)
    shared = model.shared_vectors + attend(
        block.refresh["tasks"].attentions["fields"], model.shared_vectors[None], tokens
    )
    gate = block.gates["tasks"](shared.flatten(1)).sigmoid()
    torch.testing.assert_close(model(rows), model.towers.towers[0](task[:, 0] * gate).squeeze(1))


def test_attention_to_a_single_token_has_no_query(history_data, build):
    model = build(history_data(1))
    attention = model.blocks[0].refresh["fields"].attentions["tasks"]
    queries, token = torch.randn(5, 3, 4), torch.randn(5, 1, 4)
    assert attention.query is None
    torch.testing.assert_close(attention(queries, token, None), attention.value(token).expand(5, 3, 4))


@every_form
def test_every_weight_has_a_part_in_the_logits(build, data, form):
    model = build(**form)
    model.loss(data.all_rows()).backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []


@every_form
def test_predictions_do_not_depend_on_the_batch(build, data, check_batch_size, form):
    check_batch_size(build(**form), data.all_rows())


def test_weights_of_another_number_of_tasks_are_refused(build):
    with pytest.raises(UsageError, match=r"task_weights: expected 3 numbers, for click, like, share, found 1"):
        build(task_weights=(1,))
