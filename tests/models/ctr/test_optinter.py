"""OptInter: its special cases, its search, and what is left of its tables."""

import pytest
import torch
from torch.nn import functional

from recbench.errors import UsageError
from recbench.models.base import parameter_count
from recbench.models.ctr.optinter import FACTORISE, MEMORISE, NAIVE, OptInter
from recbench.models.layers.pairs import CrossEmbedding, CrossValues, field_pairs
from recbench.tasks.ctr import CTRBatch, CTRData, Field, FieldSpace
from recbench.training.checkpoint import Checkpoints
from recbench.training.trainer import Trainer

SMALL = {"embedding_dim": 6, "hidden": [16, 8]}


@pytest.fixture
def data(fields, rows):
    return CTRData(fields, rows)


def build(data, seed=0, **values):
    torch.manual_seed(seed)
    backbone_config = values.pop("backbone_config", SMALL)
    return OptInter.create(OptInter.Config(backbone_config=backbone_config, **values), data).eval()


def spread_out(model):
    """Give the backbone's tables weights that are not negligible."""
    generator = torch.Generator().manual_seed(1)
    torch.nn.init.normal_(model.backbone.embedding.weight, generator=generator)
    return model


def trained(model, data, epochs_told=None):
    trainer = Trainer(
        model,
        data,
        lambda: {"auc": 0.5 + float(model.batches_seen) / 1e6},
        metric="auc",
        device=torch.device("cpu"),
        seed=1,
        checkpoints=Checkpoints(None),
        on_epoch=lambda epoch: None if epochs_told is None else epochs_told.append(epoch),
    )
    trainer.fit()
    return model


@pytest.mark.parametrize(("method", "name"), [(MEMORISE, "memorise"), (FACTORISE, "factorise"), (NAIVE, "naive")])
def test_one_hot_shares_are_the_special_case_bit_for_bit(data, rows, method, name):
    search, special = spread_out(build(data)), spread_out(build(data, choices=name))
    search.logits.data.copy_(1000 * functional.one_hot(torch.full((3,), method), 3))
    assert torch.equal(search(rows), special(rows))
    assert len(torch.unique(special(rows))) > 100


@pytest.mark.parametrize("backbone", ["dnn", "deepfm", "widedeep", "xdeepfm"])
def test_without_pairs_is_the_backbone_bit_for_bit(data, rows, backbone):
    model = build(data, choices="naive", backbone=backbone, backbone_config={"embedding_dim": 6})
    spread_out(model)
    torch.manual_seed(0)
    alone = model.config.make_backbone(data).eval()
    assert parameter_count(model) == parameter_count(alone)
    alone.load_state_dict(model.backbone.state_dict())
    assert torch.equal(model(rows), alone(rows))


def test_is_the_network_over_embeddings_and_pairs_side_by_side(data, rows):
    model = spread_out(build(data, pair_dim=5))
    model.logits.data.normal_()
    shares = model.logits.softmax(1)
    pairs = field_pairs(data.fields)
    second_table = model.factorised.weight[torch.searchsorted(model.factorised.ids, rows.ids)]
    memorised = model.memorised.weight[model.memorised.rows(rows.ids)]
    products = second_table[:, pairs[:, 0]] * second_table[:, pairs[:, 1]]
    mixture = shares[:, 0, None] * memorised + shares[:, 1, None] * products
    inputs = torch.cat([model.backbone.embedding(rows).flatten(1), mixture.flatten(1)], 1)
    first, *others = model.backbone.mlp
    weight = torch.cat([first.weight, model.weight.flatten(1)], 1)
    assert weight.shape[1] == inputs.shape[1] == 4 * 6 + 3 * 5  # all fields, and pairs of the three single-valued
    hidden = functional.linear(inputs, weight, first.bias)
    for layer in others:
        hidden = layer(hidden)
    torch.testing.assert_close(model(rows), hidden.squeeze(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("n", "s1", "s2", "numbers", "width"), [(26, 20, 10, 13, 4030), (24, 40, 4, 0, 2064)])
def test_published_input_widths(n, s1, s2, numbers, width):
    """39 * 20 + 325 * 10 on Criteo, 24 * 40 + 276 * 4 on Avazu."""
    fields = FieldSpace(
        Field(str(column), False, 1 if column >= n else 3, 3 * column, dense=column >= n)
        for column in range(n + numbers)
    )
    ids = torch.stack([torch.randint(3, (20,)) + 3 * column for column in range(n)], 1)
    data = CTRData(fields, CTRBatch(ids, {}, torch.zeros(20), torch.zeros(20, numbers) if numbers else None))
    for choices in ("search", "memorise", "factorise"):
        model = build(data, choices=choices, pair_dim=s2, backbone_config={"embedding_dim": s1, "hidden": [3]})
        assert model.backbone.mlp[0].in_features + model.weight.flatten(1).shape[1] == width


def test_joint_values_are_counted_and_rare_ones_share_a_row():
    fields = FieldSpace(
        [Field("a", False, 4, 0), Field("m", True, 5, 4), Field("b", False, 3, 9), Field("c", False, 2, 12)]
    )
    ids = torch.tensor([[1, 10, 12], [1, 10, 13], [2, 10, 12], [3, 11, 12]])
    values = CrossValues.of(fields, ids, 2)
    assert values.pairs.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert values.counts.tolist() == [1, 0, 1]  # (1, 10) twice, nothing of a and c, (10, 12) twice
    embedding = CrossEmbedding(values, 3)
    assert embedding.weight.shape == (2 + 3, 3)
    assert embedding.rows(ids).tolist() == [[0, 3, 1], [0, 3, 4], [2, 3, 1], [2, 3, 4]]
    unseen = torch.tensor([[0, 9, 12], [3, 10, 13]])
    assert embedding.rows(unseen).tolist() == [[2, 3, 4], [2, 3, 4]]
    part = embedding.take(torch.tensor([1, 2]))
    assert torch.equal(part(ids), embedding(ids)[:, 1:])
    assert part.weight.shape == (1 + 2, 3)


def test_keys_of_pairs_do_not_overlap(rows, fields):
    values = CrossValues.of(fields, rows.ids, 1)
    assert (values.keys.diff() > 0).all()
    first, second = rows.ids[:, values.pairs[:, 0]], rows.ids[:, values.pairs[:, 1]]
    found = CrossEmbedding(values, 1).rows(rows.ids)
    for pair in range(3):
        joint = torch.stack([first[:, pair], second[:, pair]], 1).unique(dim=0, return_inverse=True)[1]
        assert len({*zip(joint.tolist(), found[:, pair].tolist(), strict=True)}) == len(joint.unique())


def test_temperature_falls_with_training_batches_alone(data, rows):
    model = build(data)
    batch = rows.take(torch.arange(4))
    model.logits.data.normal_()

    def entropy():
        shares = (model.logits.detach() / model.temperature).softmax(1)
        return float(-(shares * shares.clamp_min(1e-30).log()).sum())

    entropies = []
    for step, expected in ((0, 1.0), (10_000, 0.5), (19_800, 0.01), (25_000, 0.01)):
        model.batches_seen.fill_(step)
        assert float(model.temperature) == pytest.approx(expected, abs=1e-6)
        entropies.append(entropy())
    assert entropies[0] > entropies[1] > entropies[2]
    assert entropies[2] == pytest.approx(entropies[3], rel=1e-2)
    model.batches_seen.zero_()
    model(batch)
    assert model.batches_seen == 0
    model.train().loss(batch)
    assert model.batches_seen == 1


def planted(n=20_000):
    """The label has a random table over fields (0, 1), an inner product over (2, 3), and nothing of (4, 5).

    A joint value of (0, 1) is in some 300 rows, one of (2, 3) in about one.
    """
    generator = torch.Generator().manual_seed(3)
    sizes = [9, 9, 151, 151, 5, 5]
    ids = torch.stack([1 + torch.randint(size - 1, (n,), generator=generator) for size in sizes], 1)
    signs = torch.randint(2, (9, 9), generator=generator) * 2.0 - 1
    left, right = torch.randn(2, 151, 2, generator=generator)
    products = (left[ids[:, 2]] * right[ids[:, 3]]).sum(1)
    logits = 2 * signs[ids[:, 0], ids[:, 1]] + 2 * products
    labels = (torch.rand(n, generator=generator) < logits.sigmoid()).float()
    starts = torch.tensor([0, *sizes]).cumsum(0)[:-1]
    fields = FieldSpace(
        Field(str(number), False, size, int(start))
        for number, (size, start) in enumerate(zip(sizes, starts, strict=True))
    )
    return CTRData(fields, CTRBatch(ids + starts, {}, labels))


@pytest.fixture(scope="module")
def found():
    """A model after search and retraining on the planted data, its data, and the stages it went through."""
    data, stages = planted(), []
    backbone = {"embedding_dim": 4, "hidden": [16], "epochs": 1, "batch_size": 256, "learning_rate": 1e-2}
    backbone |= {"embedding_l2": 0.0, "dropout": 0.0}
    search = {"choice_learning_rate": 0.01, "temperature_decay": 5e-4, "search_epochs": 4, "min_count": 6}
    return trained(build(data, backbone_config=backbone, pair_l2=1e-4, **search), data, stages), data, stages


def test_recovers_the_planted_choices(found):
    model, data, _ = found
    choice = {tuple(pair): number for number, pair in enumerate(field_pairs(data.fields).tolist())}
    assert model.choices[choice[0, 1]] == MEMORISE
    assert model.choices[choice[2, 3]] == FACTORISE
    nothing = model.shares[choice[4, 5]]
    assert nothing[NAIVE] > nothing.max() - 0.1
    assert torch.equal(model.shares.argmax(1), model.choices)


def test_keeps_only_the_rows_of_pairs_that_use_them(found):
    model, data, _ = found
    pairs = field_pairs(data.fields)
    values = CrossValues.of(data.fields, data.all_rows().ids, 6)
    memorised, factorised = model.choices == MEMORISE, model.choices == FACTORISE
    assert 0 < memorised.sum() < len(pairs)
    assert len(model.memorised.weight) == int((values.counts + 1)[memorised].sum())
    sizes = torch.tensor([field.size for field in data.fields])
    assert len(model.factorised.weight) == int(sizes[pairs[factorised].unique()].sum())
    assert model.weight.shape[1] == int((memorised | factorised).sum())
    everything = build(data, choices="memorise", min_count=6, backbone_config=model.config.backbone_config)
    assert model.memorised.weight.numel() < everything.memorised.weight.numel()
    explanation = model.explain(data)
    assert explanation.figures["parameters if all were memorised"] == everything.memorised.weight.numel()
    own = model.memorised.weight.numel() + model.factorised.weight.numel()
    assert explanation.figures["parameters of pairs"] == own
    counts = [explanation.figures[f"pairs, {name}"] for name in ("memorise", "factorise", "naive")]
    assert counts == torch.bincount(model.choices, minlength=3).tolist()
    table, matrix = explanation.parts
    assert table.columns["pair"][0] == "0 x 1"
    assert table.columns["method"][0] == "memorise"
    assert matrix.values[1][0] == matrix.values[0][1] == 2


def test_searches_then_trains(found):
    assert [epoch.stage for epoch in found[2]] == ["search"] * 4 + ["train"]


def test_starts_again_from_the_initial_weights(data):
    model = build(data, backbone_config=SMALL | {"batch_size": 50})
    first = {name: value.clone() for name, value in model.state_dict().items()}
    stages = model.procedure(data)
    next(stages)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-3, 3)
    model.logits.data.copy_(torch.tensor([[0.0, 0, 9], [9, 0, 0], [0, 9, 0]]))
    model.batches_seen += 100
    (step,) = next(stages).steps
    assert model.choices.tolist() == [NAIVE, MEMORISE, FACTORISE]
    now = model.state_dict()
    assert "logits" not in now
    assert all(torch.equal(value, now[name]) for name, value in first.items() if name.startswith("backbone."))
    assert torch.equal(now["weight"], first["weight"][:, [1, 2]])
    counts = model.memorised.values.counts
    assert len(counts) == 1
    start = len(build(data).memorised.values.keys) + 1  # of the second pair's rare joint values
    assert torch.equal(now["memorised.weight"][-1], first["memorised.weight"][start])
    trained_now = {id(parameter) for group in step.parameters for parameter in group["params"]}
    assert trained_now == {id(parameter) for parameter in model.parameters()}


def test_a_new_model_takes_up_a_saved_choice(found):
    model, data, _ = found
    other = build(data, seed=5, **{key: getattr(model.config, key) for key in ("backbone_config", "min_count")})
    other.load_state_dict(model.state_dict())
    part = data.all_rows().take(torch.arange(100))
    assert torch.equal(other(part), model(part))


@pytest.mark.parametrize("choices", ["search", "memorise", "factorise"])
def test_predictions_do_not_depend_on_the_batch(data, check_batch_size, choices):
    check_batch_size(spread_out(build(data, choices=choices)))


def test_a_backbone_without_a_perceptron_is_refused(data):
    with pytest.raises(UsageError, match="backbone 'fm': expected a model with a perceptron"):
        build(data, backbone="fm", backbone_config={})


def test_fewer_than_two_fields_are_refused():
    fields = FieldSpace([Field("a", False, 3, 0), Field("m", True, 3, 3)])
    data = CTRData(fields, CTRBatch(torch.zeros(4, 1, dtype=torch.int64), {}, torch.zeros(4)))
    with pytest.raises(UsageError, match="at least two in the benchmark, found 1"):
        build(data)
