import pytest
import torch
from torch import nn

from recbench.errors import UsageError
from recbench.models.base import parameter_count
from recbench.models.ctr.mimicking import Mimicking
from recbench.models.layers.embedding import FieldEmbedding
from recbench.models.layers.lowrank import FusedLinear, LowRankEmbedding, vocabularies
from recbench.models.registry import load_model
from recbench.tasks.ctr import CTRData
from recbench.training.checkpoint import Checkpoints
from recbench.training.trainer import Trainer

WHOLE = 1000.0
DEEP = {"hidden": [24, 24, 24], "embedding_dim": 6}
# With which configuration, which of its linear layers read the codes, and whether the reconstruction is left out.
BACKBONES = {
    "deepfm": (DEEP | {"batch_norm": True}, ["mlp.0"], False),
    "dnn": (DEEP, ["mlp.0"], True),
    "widedeep": (DEEP, ["mlp.0"], True),
    "fm": ({"embedding_dim": 6}, [], False),
    "xdeepfm": (DEEP, ["mlp.0"], False),
    "autoint": ({"embedding_dim": 6, "hidden": [24, 24]}, ["mlp.0"], False),
    "dcnv2": (DEEP, ["cross.layers.0", "mlp.0"], False),
}


@pytest.fixture
def create(fields, rows):
    """Make a model on the rows, with weights of size 1 in every table."""

    def create(backbone="deepfm", backbone_config=DEEP, seed=0, **values):
        torch.manual_seed(seed)
        config = Mimicking.Config(backbone=backbone, backbone_config=backbone_config, **values)
        data = CTRData(fields, rows)
        model = Mimicking.create(config, data)
        for module in model.modules():
            if isinstance(module, FieldEmbedding):
                nn.init.normal_(module.weight)
        return model.eval(), data

    return create


def flatten(model, rank):
    """Let the vectors of every table have that rank, about a mean where a row has always one value."""
    for module in model.modules():
        if isinstance(module, FieldEmbedding) and module.weight.shape[1] > 1:
            for field in vocabularies(module.fields):
                block = module.weight.data[field.offset : field.offset + field.size]
                mean = 0 if field.multi else torch.randn(block.shape[1])
                block.copy_(torch.randn(len(block), rank) @ torch.randn(rank, block.shape[1]) + mean)


@pytest.mark.parametrize("backbone", ["din", "qin", "infnet"])
def test_tables_of_low_rank_change_no_prediction_from_histories(history_data, backbone):
    """Of backbones that look up some of the fields, and read the table themselves."""
    torch.manual_seed(0)
    data = history_data()
    model = Mimicking.create(
        Mimicking.Config(backbone=backbone, backbone_config={"embedding_dim": 6}, embedding_rank=2, linear_rank=WHOLE),
        data,
    ).eval()
    flatten(model, 2)
    with torch.no_grad():
        before, numbers = model(data.all_rows()), parameter_count(model)
        model.compress(data)
        torch.testing.assert_close(model(data.all_rows()), before, rtol=1e-4, atol=1e-3)
    assert parameter_count(model) < numbers
    assert not any(isinstance(module, FusedLinear) for module in model.modules())


def test_a_backbone_of_another_task_is_refused(fields, rows):
    with pytest.raises(UsageError, match="backbone: expected a model of the task 'ctr', found 'ipsmf'"):
        Mimicking.create(Mimicking.Config(backbone="ipsmf"), CTRData(fields, rows))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_tables_of_low_rank_change_no_prediction(create, rows, backbone):
    config, fused, alone = BACKBONES[backbone]
    model, data = create(backbone, config, embedding_rank=2, linear_rank=WHOLE)
    flatten(model, 2)
    with torch.no_grad():
        before, numbers = model(rows), parameter_count(model)
        model.compress(data)
        torch.testing.assert_close(model(rows), before, rtol=1e-4, atol=1e-3)
    assert parameter_count(model) < numbers
    modules = dict(model.backbone.named_modules())
    assert isinstance(modules["embedding"], FieldEmbedding if alone else LowRankEmbedding)
    assert [name for name, module in modules.items() if isinstance(module, FusedLinear)] == ([] if alone else fused)
    assert all(modules[name].in_features == 4 * 2 for name in fused)


def test_what_stands_between_prevents_fusion(create):
    model, _ = create("autoint", {"hidden": [24, 24], "embedding_dropout": 0.2})
    assert not model.wiring.fused


def test_tracing_leaves_the_backbone_as_it_was(create, fields, rows):
    torch.manual_seed(3)
    alone = load_model("deepfm").create(load_model("deepfm").Config(batch_norm=True), CTRData(fields, rows))
    state = torch.get_rng_state()
    torch.manual_seed(3)
    config = Mimicking.Config(backbone_config={"batch_norm": True})
    model = Mimicking.create(config, CTRData(fields, rows))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert model.backbone.mlp.training
    assert all(torch.equal(value, model.backbone.state_dict()[key]) for key, value in alone.state_dict().items())


def test_which_layers(create):
    deep = DEEP | {"structure": "stacked"}
    perceptron, every = (create("dcnv2", deep, layers=layers)[0].wiring for layers in ("mlp", "all"))
    assert perceptron.linears == ["mlp.3", "mlp.6"]
    assert every.linears == ["cross.layers.1", "cross.layers.2", "mlp.0", "mlp.3", "mlp.6", "output"]
    assert list(perceptron.fused) == list(every.fused) == ["cross.layers.0"]


def test_statistics_are_of_the_outputs_before_batch_normalisation(create, rows):
    model, data = create(
        backbone_config=DEEP | {"batch_norm": True}, embedding_rank=WHOLE, linear_rank=5, activated=False
    )
    seen, mlp = [], model.backbone.mlp
    mlp[4].register_forward_hook(lambda module, args, output: seen.append(output.detach().double()))
    with torch.no_grad():
        model(rows)
        model.compress(data)
    (outputs,) = seen[:1]
    assert [type(layer) for layer in mlp[4]] == [nn.Linear, nn.Linear]
    axes = torch.linalg.eigh(torch.cov(outputs.T))[1][:, -5:]
    torch.testing.assert_close(mlp[4][1].weight @ mlp[4][1].weight.T, (axes @ axes.T).float(), rtol=1e-4, atol=1e-4)


def test_parameters_on_frappe(frappe, rows):
    ids = torch.stack([torch.randint(field.offset, field.offset + field.size, (500,)) for field in frappe], 1)
    data = CTRData(frappe, type(rows)(ids, {}, torch.randint(2, (500,)).float()))
    deep = {"hidden": [400, 400, 400], "batch_norm": True}
    config = Mimicking.Config(backbone_config=deep, embedding_rank=2, linear_rank=64)
    model = Mimicking.create(config, data)
    assert parameter_count(model) == 423_280
    with torch.no_grad():
        model.compress(data)
    layers = 2 * (160_400 - 51_664)
    table = 8 * 5_389 - 10 * (2 * 10 + 10)
    assert parameter_count(model) == 423_280 - layers - table - 10 * 8 * 400


@pytest.mark.parametrize("values", [{}, {"activated": True}, {"backbone": "dnn"}])
def test_a_state_brings_its_structure(create, rows, check_batch_size, values):
    values = {"embedding_rank": 0.7, "linear_rank": 0.6} | values
    model, data = create(**values)
    with torch.no_grad():
        model.compress(data)
        other, _ = create(**values, seed=9)
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(rows), model(rows))
        check_batch_size(other)


def train(model, data, validate):
    checkpoints, device = Checkpoints(None), torch.device("cpu")
    told = []
    trainer = Trainer(
        model, data, validate, metric="auc", device=device, seed=1, checkpoints=checkpoints, on_epoch=told.append
    )
    trainer.fit()
    return [(epoch.stage, epoch.valid["auc"]) for epoch in told]


def test_fine_tunes_as_the_backbone_was_trained(fields, rows):
    deep = DEEP | {"epochs": 2, "batch_size": 100, "max_norm": 3.0, "lr_decay": 0.5}
    values = {"finetune_epochs": 3, "finetune_learning_rate": 0.02}
    model = Mimicking.create(Mimicking.Config(backbone_config=deep, **values), CTRData(fields, rows))
    *_, compress, finetune = model.procedure(CTRData(fields, rows))
    assert (compress.name, finetune.name, finetune.epochs, finetune.patience) == ("compress", "finetune", 3, 3)
    (phase,) = finetune.steps
    assert (phase.learning_rate, phase.max_norm, phase.batches.n_samples) == (0.02, 3.0, 300)
    assert finetune.lr_decay == 0.5
    assert {id(parameter) for parameter in phase.parameters} == {id(parameter) for parameter in model.parameters()}


@pytest.mark.usefixtures("mirrored")
def test_compression_of_a_real_model_costs_little(task_of):
    """At 95 % of the variance little is lost, and a short fine-tuning brings the backbone's AUC back."""
    task = task_of("ctr/ml-100k")
    deep = {"hidden": [64, 64, 64], "epochs": 3, "batch_size": 1024, "learning_rate": 3e-3}
    config = Mimicking.Config(backbone_config=deep, activated=False, finetune_epochs=1)
    torch.manual_seed(1)
    model = Mimicking.create(config, task.data)
    size = parameter_count(model)

    def validate():
        with torch.no_grad():
            return task.watch(model)

    stages = train(model, task.data, validate)
    backbone = max(auc for stage, auc in stages if stage == "train")
    (compressed,), (tuned,) = ([auc for stage, auc in stages if stage == name] for name in ("compress", "finetune"))
    assert size / parameter_count(model) > 1.3
    assert compressed > backbone - 0.005
    assert tuned > backbone - 0.001
    explanation = model.explain(task.data)
    assert explanation.figures["parameters before"] == size
    assert explanation.figures["parameters after"] == parameter_count(model)
    assert explanation.figures["compression factor"] == size / parameter_count(model)
    assert explanation.figures["speed-up"] > 0
    (table,) = explanation.parts
    assert table.columns["part"][0] == "embedding"


@pytest.mark.parametrize("key", ["embedding_rank", "linear_rank"])
def test_a_rank_is_whole_or_a_share(key):
    for value in (0.5, 1, 7):
        assert getattr(Mimicking.Config(**{key: value}), key) == value
    with pytest.raises(UsageError, match=f"{key}: .*expected a whole number, the rank, or less than 1"):
        Mimicking.Config.parse({key: 2.5}, "the test")


def test_is_around_no_other_search(fields, rows):
    config = Mimicking.Config(backbone="optfs", backbone_config={"backbone": "fm"})
    with pytest.raises(UsageError, match="around no other, found 'optfs'"):
        Mimicking.create(config, CTRData(fields, rows))
