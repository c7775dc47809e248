"""iHAS: gates, clusters, and a backbone for each cluster."""

import pytest
import torch
from sklearn.metrics import adjusted_rand_score, roc_auc_score

from recbench.errors import UsageError
from recbench.models.base import parameter_count
from recbench.models.ctr.ihas import IHAS
from recbench.models.layers.clustering import k_means, nearest
from recbench.tasks.ctr import CTRBatch, CTRData, Field, FieldSpace
from recbench.training.checkpoint import Checkpoints
from recbench.training.trainer import Trainer

SMALL = {"embedding_dim": 6, "hidden": [16, 8], "batch_size": 100, "epochs": 2}


@pytest.fixture
def data(fields, rows):
    return CTRData(fields, rows)


def build(data, seed=0, **values):
    torch.manual_seed(seed)
    backbone_config = values.pop("backbone_config", SMALL)
    values = {"backbone": "dnn", "search_epochs": 2} | values
    return IHAS.create(IHAS.Config(backbone_config=backbone_config, **values), data).eval()


def spread_out(model):
    """Give the backbone's tables weights that are not negligible."""
    generator = torch.Generator().manual_seed(1)
    torch.nn.init.normal_(model.backbone.embedding.weight, generator=generator)
    return model


def trained(model, data, stages=None):
    def told(epoch):
        if stages is not None:
            stages.append(epoch.stage)

    trainer = Trainer(
        model,
        data,
        lambda: {"auc": float(model.training)},
        metric="auc",
        device=torch.device("cpu"),
        seed=1,
        checkpoints=Checkpoints(None),
        on_epoch=told,
    )
    trainer.fit()
    return model


def clustered(data, **values):
    """Return a model whose rows are clustered, with gates that differ by the row, before its backbones are trained."""
    model = spread_out(build(data, **values))
    model.gates[0].bias.data.zero_()
    stages = model.procedure(data)
    next(stages)
    with torch.no_grad():
        model.backbone.embedding.weight.mul_(2)
    next(stages)
    return model


@pytest.mark.parametrize("backbone", ["dnn", "deepfm", "autoint"])
def test_open_gates_change_nothing(data, rows, backbone):
    model = spread_out(build(data, backbone=backbone, backbone_config={"embedding_dim": 6}, sparsity=0, polarisation=0))
    alone = model.config.make_backbone(data).eval()
    alone.load_state_dict(model.backbone.state_dict())
    assert not torch.allclose(model(rows), alone(rows), atol=1e-3)
    model.gates[0].bias.data.fill_(1000)
    assert torch.equal(model(rows), alone(rows))
    torch.testing.assert_close(model.backbone.loss(rows), alone.loss(rows))


def planted(n=4000):
    """Two groups of rows: fields 0 to 3 tell the label of one, 4 to 7 of the other; elsewhere they have one value."""
    generator = torch.Generator().manual_seed(3)
    group = torch.randint(2, (n,), generator=generator)
    tells = (torch.arange(8) >= 4) == (group == 1)[:, None]
    effects = torch.tensor([-1.5, -0.5, 0.5, 1.5])[torch.rand(8, 4, generator=generator).argsort(1)]
    values = torch.randint(4, (n, 8), generator=generator)
    logits = 1.5 * (effects.gather(1, values.T).T * tells).sum(1)
    labels = (torch.rand(n, generator=generator) < logits.sigmoid()).float()
    ids = torch.where(tells, 2 + values, 1) + 6 * torch.arange(8)
    fields = FieldSpace(Field(str(number), False, 6, 6 * number) for number in range(8))
    return CTRData(fields, CTRBatch(ids, {}, labels)), group


def searched(data, whole=False, **values):
    """Return a model after its search, or after its whole training."""
    backbone = {"embedding_dim": 4, "hidden": [16], "dropout": 0.0, "embedding_l2": 0.0, "learning_rate": 1e-2}
    backbone |= {"batch_size": 128, "epochs": 2}
    model = build(data, backbone_config=backbone, clusters=2, search_epochs=12, **values)
    if whole:
        return trained(model, data)
    (phase,) = next(model.procedure(data)).steps
    optimizer, generator = torch.optim.Adam(phase.parameters, 1e-2), torch.Generator().manual_seed(1)
    model.train()
    for _ in range(12):
        for batch in phase.batches.epoch(generator):
            optimizer.zero_grad()
            phase.loss(batch).backward()
            optimizer.step()
    return model.eval()


def probabilities(model, rows):
    with torch.no_grad():
        return model.gates[0](model.backbone.embedding.forward(rows)).sigmoid()


def test_recovers_the_planted_groups_and_their_fields():
    data, group = planted()
    model = searched(data, whole=True)
    rows = data.all_rows()
    clusters = model.clusters_of(rows)
    assert adjusted_rand_score(group, clusters) > 0.9
    explanation = model.explain(data)
    table, matrix = explanation.parts
    for number, kept in enumerate(matrix.values):
        own = int(group[clusters == number].float().mean() > 0.5)
        right = sum(kept[4 * own : 4 * own + 4])
        assert right > 0
        assert right >= 0.9 * sum(kept)
    # What is kept, in the mean over rows, is less than all; the clusters together are told apart from the mean.
    figures = explanation.figures
    dimensions = torch.tensor(table.columns["dimensions"], dtype=torch.float64)
    shares = torch.tensor(table.columns["rows"]) / 4000
    assert figures["dimensions kept, mean over rows"] == pytest.approx(float((shares * dimensions).sum()))
    assert figures["dimensions kept, mean over rows"] < figures["dimensions of the backbone"] == 8 * 4
    assert table.columns["embedding parameters"] == (6 * dimensions).tolist()
    assert figures["embedding parameters kept, all clusters"] == 6 * dimensions.sum()
    assert figures["embedding parameters of the backbone"] == 48 * 4
    assert figures["parameters that find the cluster"] == 48 * 4 + 8 * (4 * 4 + 4)
    assert parameter_count(model) == 48 * 4 + 8 * (4 * 4 + 4) + 2 * (48 * 4 + 33 * 16 + 17)


def test_polarisation_decides_gates_and_then_both_ways_to_gate_agree():
    data, _ = planted()
    rows = data.all_rows()
    undecided = []
    for polarisation in (0.0, 0.2):
        model = searched(data, sparsity=0.2, polarisation=polarisation)
        found = probabilities(model, rows)
        undecided.append(float(((found > 0.1) & (found < 0.9)).float().mean()))
    assert undecided[1] < undecided[0]
    with torch.no_grad():
        decided = roc_auc_score(rows.labels, model(rows))
        drawn = roc_auc_score(rows.labels, model.train()(rows))
    assert drawn == pytest.approx(decided, abs=1e-2)


def test_sparsity_closes_gates():
    data, _ = planted()
    found = [probabilities(searched(data, sparsity=sparsity), data.all_rows()) for sparsity in (0.0, 0.2, 2.0)]
    opened = [float((part > 0.5).float().mean()) for part in found]
    assert opened[0] > opened[1] > opened[2]


def test_one_cluster_is_one_mask_for_all_rows(data, rows):
    model = clustered(data, clusters=1)
    assert model.masks.shape == (1, 24)
    assert 0 < model.masks.sum() < 24
    assert (model.clusters_of(rows) == 0).all()
    (member,) = model.members
    whole = model(rows)
    alone = model.config.make_backbone(data).eval()
    alone.load_state_dict(member.state_dict())
    inputs = alone.embedding(rows) * model.masks.view(4, 6)
    torch.testing.assert_close(whole, alone.mlp(inputs.flatten(1)).squeeze(1))
    # The dimensions that are not kept are not needed: other values there change nothing.
    member.embedding.weight.data[:12] += ~model.masks.view(4, 6)[0]  # the first field's ids
    assert torch.equal(model(rows), whole)


def test_every_row_is_scored_by_the_backbone_of_its_cluster(data, rows):
    model = clustered(data, clusters=3)
    for number, member in enumerate(model.members):
        torch.nn.init.normal_(member.embedding.weight, generator=torch.Generator().manual_seed(number))
    clusters = model.clusters_of(rows)
    assert len(clusters.unique()) == 3
    distances = torch.cdist(model.gated(rows)[1], model.centroids)
    assert torch.equal(distances.argmin(1), clusters)
    scores = torch.stack([member(rows) for member in model.members])
    torch.testing.assert_close(model(rows), scores.gather(0, clusters[None]).squeeze(0))


def test_clusters_depend_on_no_label(data, rows):
    other = CTRData(data.fields, CTRBatch(rows.ids, rows.multi, 1 - rows.labels))
    assert torch.equal(clustered(data, clusters=3).centroids, clustered(other, clusters=3).centroids)


def test_backbones_start_from_the_initial_weights(data):
    first = spread_out(build(data)).backbone.state_dict()
    model = clustered(data, clusters=2)
    assert len(model.members) == 2
    for member in model.members:
        assert all(torch.equal(value, first[name]) for name, value in member.state_dict().items())
    assert torch.equal(model.router[0].weight, 2 * first["embedding.weight"])


def test_each_backbone_is_trained_on_its_own_rows(data, rows):
    model = spread_out(build(data, clusters=3))
    stages = model.procedure(data)
    next(stages)
    stage = next(stages)
    assert [step.name for step in stage.steps] == ["cluster 0", "cluster 1", "cluster 2"]
    for number, (step, member) in enumerate(zip(stage.steps, model.members, strict=True)):
        seen = torch.cat([batch.ids for batch in step.batches.epoch(torch.Generator().manual_seed(0))])
        own = rows.ids[model.clusters_of(rows) == number]
        assert sorted(seen.tolist()) == sorted(own.tolist())
        assert {*map(id, step.parameters)} == {*map(id, member.parameters())}


def test_small_clusters_are_merged(data, rows):
    shares = clustered(data, clusters=8, min_share=0).sizes / len(rows)
    assert len(shares) == 8
    assert shares.min() < 0.1
    model = clustered(data, clusters=8, min_share=0.1)
    assert 1 <= len(model.sizes) < 8
    assert model.sizes.min() >= 0.1 * len(rows)
    assert model.sizes.sum() == len(rows)
    assert torch.equal(torch.bincount(model.clusters_of(rows)), model.sizes)


def test_k_means_finds_blobs_and_is_repeatable():
    generator = torch.Generator().manual_seed(0)
    middles = torch.tensor([[0.0, 0], [10, 0], [0, 10], [10, 10]])
    points = middles.repeat(50, 1) + torch.randn(200, 2, generator=generator)
    centroids = k_means(points, 4, torch.Generator().manual_seed(1))
    assert adjusted_rand_score(torch.arange(4).repeat(50), nearest(points, centroids)) == 1
    means = torch.stack([points[nearest(points, centroids) == number].mean(0) for number in range(4)])
    torch.testing.assert_close(centroids, means)
    assert torch.equal(k_means(points, 4, torch.Generator().manual_seed(1)), centroids)
    assert len(k_means(middles.repeat(5, 1), 9, torch.Generator().manual_seed(1))) == 4


def test_a_new_model_takes_up_saved_clusters(data, rows):
    stages = []
    model = trained(build(data, clusters=3), data, stages)
    assert stages == ["search"] * 2 + ["train"] * 2
    other = build(data, clusters=3, seed=6)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(rows), model(rows))


def test_predictions_do_not_depend_on_the_batch(data, check_batch_size):
    check_batch_size(spread_out(build(data)))
    check_batch_size(clustered(data, clusters=3))


def test_a_backbone_without_dimensions_is_refused(data):
    with pytest.raises(UsageError, match="backbone 'lr': expected a model with embeddings of several dimensions"):
        build(data, backbone="lr", backbone_config={})


def test_clusters_that_keep_nothing_are_a_warning(data, caplog):
    """Gates start closed: without a search none is open."""
    stages = IHAS.create(IHAS.Config(backbone="fm", clusters=1), data).procedure(data)
    next(stages)
    next(stages)
    assert "1 clusters keep no dimension" in caplog.text
