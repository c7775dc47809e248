import copy
from dataclasses import replace

import pytest
import torch

from recbench.errors import UsageError
from recbench.models.base import CTRModel, ModelConfig
from recbench.models.ctr.deepfm import DeepFM
from recbench.models.ctr.optfs import OptFS
from recbench.models.layers.backbone import embeddings
from recbench.models.procedure import Phase
from recbench.tasks.ctr import CTRBatch, CTRData, Field, FieldSpace
from recbench.training.checkpoint import Checkpoints
from recbench.training.optimizers import make_optimizer
from recbench.training.trainer import Trainer

N_ROWS, UNSEEN = 3000, 0
SCALE = 1.60653


def around(data, backbone="deepfm", backbone_config=None, **values):
    torch.manual_seed(0)
    config = OptFS.Config.parse({"backbone": backbone, "backbone_config": backbone_config or {}, **values}, "the test")
    return OptFS.create(config, data)


def run(stage, generator, epochs=None):
    """Run the stage as the trainer does, without validation; return the loss of the last batch."""
    optimizers = {step.name: make_optimizer(step) for step in stage.steps if isinstance(step, Phase)}
    for _ in range(epochs or stage.epochs):
        for step in stage.steps:
            if not isinstance(step, Phase):
                with torch.no_grad():
                    step.run()
                continue
            for batch in step.batches.epoch(generator):
                optimizers[step.name].zero_grad()
                step.loss(batch).backward()
                optimizers[step.name].step()


def searched(data, **values):
    """Return a model whose search has ended."""
    backbone = {"learning_rate": 0.02, "batch_size": 500, "embedding_dim": 4, "embedding_l2": 1e-4}
    model = around(data, "fm", backbone, search_epochs=8, gate_learning_rate=0.05, **values).train()
    generator = torch.Generator().manual_seed(0)
    for stage in model.procedure(data):
        if stage.name == "retrain":
            return model
        run(stage, generator)
    raise AssertionError


@pytest.fixture
def data(fields, rows):
    return CTRData(fields, rows)


@pytest.fixture(scope="module")
def planted():
    """Labels from 20 frequent values of one field; the other has 400 rare values, and each an id never seen."""
    generator = torch.Generator().manual_seed(0)
    fields = FieldSpace([Field("signal", False, 21, 0), Field("noise", False, 401, 21)])
    signal = torch.randint(1, 21, (N_ROWS,), generator=generator)
    noise = torch.randint(1, 401, (N_ROWS,), generator=generator)
    odds = torch.where(signal % 2 == 0, 2.0, -2.0)
    labels = torch.rand(N_ROWS, generator=generator) < odds.sigmoid()
    return CTRData(fields, CTRBatch(torch.stack([signal, 21 + noise], 1), {}, labels.float()))


@pytest.fixture(scope="module")
def trained(planted):
    """Return a model after the whole procedure."""
    backbone = {"learning_rate": 0.01, "batch_size": 500, "embedding_dim": 4, "hidden": [8], "epochs": 4, "patience": 2}
    model = around(planted, "deepfm", backbone, search_epochs=4, gate_learning_rate=0.1, sparsity=0.2)
    Trainer(
        model,
        planted,
        lambda: {"auc": float(model(planted.all_rows()).std())},
        metric="auc",
        device=torch.device("cpu"),
        seed=1,
        checkpoints=Checkpoints(None),
    ).fit()
    return model


def folded(model):
    """Return the backbone alone, with its gates folded into its tables."""
    state = {key: value for key, value in model.backbone.state_dict().items() if "parametrizations" not in key}
    tables = {f"{name}.weight": getattr(model.backbone, name).weight for name in ("embedding", "linear")}
    backbone = type(model.backbone)(model.backbone.config, model.fields)
    backbone.load_state_dict(state | tables)
    return backbone.train(model.training)


def test_is_the_backbone_at_first(data, rows):
    model = around(data, backbone_config={"batch_norm": True}).eval()
    torch.manual_seed(0)
    backbone = DeepFM(DeepFM.Config(batch_norm=True), data.fields).eval()
    assert torch.equal(model(rows), backbone(rows))
    assert (model.gates() == 1).all()


def test_search_with_open_gates_is_training_of_the_backbone(data):
    """With lambda = 0 and gates that stay as they are, bit for bit, while the temperature is 1."""
    values = {"batch_size": 64, "dropout": 0.3, "batch_norm": True, "weight_decay": 1e-3, "embedding_l2": 0.1}
    model = around(data, backbone_config=values, sparsity=0.0, rewind=1).train()
    stage = next(model.procedure(data))
    stage.steps[0].parameters[1]["lr"] = 0.0
    torch.manual_seed(0)
    backbone = DeepFM(DeepFM.Config(**values), data.fields).train()
    for each in (replace(stage, steps=stage.steps[:1]), next(backbone.procedure(data))):
        torch.manual_seed(1)
        run(each, torch.Generator().manual_seed(2), epochs=1)
    gated, alone = folded(model).state_dict(), backbone.state_dict()
    assert gated.keys() == alone.keys()
    assert all(torch.equal(gated[name], alone[name]) for name in alone)


def test_temperatures_of_the_published_schedule(data):
    model = around(data, search_epochs=5, temperature=5000)
    found = []
    for _ in range(5):
        found.append(float(model.gates.temperature))
        model.anneal()
    assert found == pytest.approx([1, 8.409, 70.71, 594.6, 5000], rel=1e-4)


def test_gates_end_open_or_closed(planted):
    gates = searched(planted, sparsity=0.05).gates
    assert gates.temperature == 2000
    openness = gates.openness().detach()
    assert (torch.minimum(openness, 1 - openness) < 1e-3).float().mean() >= 0.95


def test_a_higher_price_keeps_fewer_features(planted):
    kept = [float(searched(planted, sparsity=price).kept().float().mean()) for price in (0.0, 0.03, 0.1, 1.0)]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > 0.5
    assert kept[-1] < 0.1


def test_noise_is_dropped_and_signal_kept(planted):
    kept = searched(planted, sparsity=0.1).kept()
    assert kept[1:21].float().mean() > 0.9
    assert kept[22:].float().mean() < 0.5


def test_values_never_seen_only_pay(planted):
    """Their gradient is that of the price alone: lambda * sigmoid'(c), with lambda = sparsity / n."""
    model = around(planted, sparsity=0.5)
    model.search_loss(planted.all_rows()).backward()
    slope = torch.tensor(0.5).sigmoid() * (1 - torch.tensor(0.5).sigmoid())
    torch.testing.assert_close(model.gates.logits.grad[UNSEEN], 0.5 / 422 * slope[None])
    assert (searched(planted, sparsity=0.01).gates.logits[[UNSEEN, 21]] < 0.5).all()


def test_price_has_no_weight_decay_but_tables_do(data):
    model = around(data, backbone_config={"weight_decay": 0.1, "learning_rate": 0.01}, gate_learning_rate=0.3)
    optimizer = make_optimizer(next(model.procedure(data)).steps[0])
    weights, gates = optimizer.param_groups
    assert (weights["weight_decay"], weights["lr"]) == (0.1, 0.01)
    assert (gates["weight_decay"], gates["lr"]) == (0.0, 0.3)
    assert [id(parameter) for parameter in gates["params"]] == [id(model.gates.logits)]
    together = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert together == {id(parameter) for parameter in model.parameters()}


def test_retraining_starts_from_the_rewind_point_with_the_gates_found(planted):
    model = around(planted, "fm", {"batch_size": 500}, search_epochs=4, rewind=2, gate_learning_rate=0.2, sparsity=1.0)
    generator, at_end = torch.Generator().manual_seed(0), []
    for stage in model.train().procedure(planted):
        if stage.name == "retrain":
            break
        run(stage, generator)
        at_end.append(copy.deepcopy(model.state_dict()))
    earlier, later = at_end
    for name, value in model.state_dict().items():
        if name.endswith("logits"):
            assert torch.equal(value, later[name])
        elif not name.endswith(("temperature", "hard")):
            assert torch.equal(value, earlier[name])
            assert not torch.equal(value, later[name])
    assert id(model.gates.logits) not in {id(parameter) for parameter in stage.steps[0].parameters}


def test_closed_rows_can_be_dropped(trained, planted):
    kept, rows = trained.kept(), planted.all_rows()
    assert 0 < kept.sum() < len(kept)
    before = trained(rows)
    other = copy.deepcopy(trained)
    for module in (other.backbone.embedding, other.backbone.linear):
        module.parametrizations.weight.original.data[~kept] = 1e3
    assert torch.equal(other(rows), before)
    # Only the kept rows are stored, and one of zeros for all the others.
    backbone, place = folded(trained), torch.where(kept, kept.cumsum(0), 0)
    for module in (backbone.embedding, backbone.linear):
        zeros = torch.zeros(1, module.weight.shape[1])
        module.weight = torch.nn.Parameter(torch.cat([zeros, module.weight[kept]]))
    compact = CTRBatch(place[rows.ids], {}, rows.labels)
    assert torch.equal(backbone(compact), before)


def test_kept_rows_are_scaled_and_the_scale_can_be_folded(trained, planted):
    table, kept = trained.backbone.embedding, trained.kept()
    raw = table.parametrizations.weight.original
    torch.testing.assert_close(table.weight[kept], SCALE * raw[kept], rtol=1e-5, atol=0)
    assert (table.weight[~kept] == 0).all()
    assert torch.equal(folded(trained)(planted.all_rows()), trained(planted.all_rows()))


def test_gates_reach_multi_valued_and_dense_fields():
    fields = FieldSpace([Field("a", False, 3, 0), Field("price", False, 1, 3, dense=True)])
    rows = CTRBatch(torch.tensor([[1], [2]]), {}, torch.zeros(2), torch.tensor([[0.5], [2.0]]))
    model = around(CTRData(fields, rows), "lr")
    closed = model.gates.logits.data
    model.gates.hard.fill_(True)
    before = model(rows)
    closed[3] = -1.0
    price = model.backbone.linear.parametrizations.weight.original[3, 0]
    torch.testing.assert_close(before - model(rows), SCALE * torch.tensor([0.5, 2.0]) * price)


def test_a_closed_value_of_a_multi_valued_field_counts_as_zero(data, rows):
    model = around(data)
    table = model.backbone.embedding
    model.gates.hard.fill_(True)
    model.gates.logits.data[12:20] = -1.0  # all genres
    genres = [field.name for field in data.fields].index("genres")
    assert (table(rows)[:, genres] == 0).all()
    assert (table(rows)[:, :genres] != 0).any()


def test_explains_what_is_kept(trained, planted):
    explanation, kept = trained.explain(planted), trained.kept()
    n_kept = int(kept.sum())
    assert explanation.figures == {
        "features": 422,
        "features kept": n_kept,
        "share of features kept": pytest.approx(n_kept / 422),
        "embedding parameters before": 422 * 5,
        "embedding parameters after": n_kept * 5,
    }
    (table,) = explanation.parts
    assert table.columns["field"] == ["signal", "noise"]
    assert table.columns["features"] == [21, 401]
    assert table.columns["kept"] == [int(kept[:21].sum()), int(kept[21:].sum())]
    assert table.columns["share kept"] == pytest.approx(
        [float(kept[:21].float().mean()), float(kept[21:].float().mean())]
    )


def test_predictions_do_not_depend_on_the_batch(data, check_batch_size):
    check_batch_size(around(data).eval())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"search_epochs": 5, "rewind": 5}, r"rewind: expected an epoch below search_epochs \(5\), found 5"),
        ({"search_epochs": 1, "rewind": 0}, "search_epochs: .* greater than or equal to 2"),
        ({"temperature": 1.0}, "temperature: .* greater than 1"),
    ],
)
def test_wrong_configurations_are_one_sentence(values, message):
    with pytest.raises(UsageError, match=message):
        OptFS.Config.parse(values, "the command line")


def test_a_backbone_without_embeddings_is_refused(fields):
    class Constant(CTRModel):
        pass

    with pytest.raises(UsageError, match="embeddings of fields, found 'deepfm'"):
        OptFS(OptFS.Config(), fields, Constant(ModelConfig(), fields))


def test_gates_of_a_table_of_some_fields_are_those_of_its_own_ids(data):
    """FinalMLP's contexts have tables that number the ids of their fields anew."""
    model = OptFS.create(
        OptFS.Config(
            backbone="finalmlp", backbone_config={"gates": True, "fs1_context": ["genres"], "fs2_context": ["item"]}
        ),
        data,
    )
    model.gates.hard.fill_(True)
    model.gates.logits.data.fill_(-1.0)
    (item,) = (field for field in data.fields if field.name == "item")
    model.gates.logits.data[item.offset : item.offset + item.size] = 1.0
    found = {
        tuple(field.name for field in module.fields): [
            bool((module.weight[field.offset : field.offset + field.size] != 0).all()) for field in module.fields
        ]
        for module in embeddings(model.backbone)
    }
    assert found == {
        ("user", "genres", "item", "zip"): [False, False, True, False],
        ("genres",): [False],
        ("item",): [True],
    }
