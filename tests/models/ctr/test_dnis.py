import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch.nn.functional import binary_cross_entropy as cross_entropy

from recbench.errors import UsageError
from recbench.models.ctr.deepfm import DeepFM
from recbench.models.ctr.dnis import DNIS, Repeated, by_frequency, hold_out, occurrences
from recbench.models.ctr.fm import FM
from recbench.models.debiased.naivemf import NaiveMF
from recbench.models.layers.backbone import BackboneModel
from recbench.tasks.ctr import CTRBatch, CTRData, Field, FieldSpace
from recbench.tasks.rating import RatingData
from recbench.training.checkpoint import Checkpoints
from recbench.training.optimizers import make_optimizer
from recbench.training.trainer import Trainer

N_FREQUENT, N_RARE, N_ITEMS, RANK = 60, 240, 60, 8


def around(data, backbone="deepfm", backbone_config=None, **values):
    torch.manual_seed(0)
    config = DNIS.Config.parse({"backbone": backbone, "backbone_config": backbone_config or {}, **values}, "the test")
    return DNIS.create(config, data)


def spread(model, size=0.5):
    """Give the tables weights that are not negligible."""
    generator = torch.Generator().manual_seed(1)
    for module in model.selected.values():
        torch.nn.init.normal_(module.parametrizations.weight.original, std=size, generator=generator)
    return model


def step(phase, batch):
    """Make one step of a phase, as the trainer does."""
    optimizer = make_optimizer(phase)
    optimizer.zero_grad()
    phase.loss(batch).backward()
    optimizer.step()


def first(phase):
    return next(iter(phase.batches.epoch(torch.Generator().manual_seed(0))))


def fit(model, data, validate, metric="logloss"):
    torch.manual_seed(0)
    return Trainer(
        model,
        data,
        lambda: {metric: validate()},
        metric=metric,
        device=torch.device("cpu"),
        seed=1,
        checkpoints=Checkpoints(None),
    ).fit()


@pytest.fixture
def data(fields, rows):
    return CTRData(fields, rows)


@pytest.fixture(scope="module")
def planted():
    """Users with 40 ratings and a rank-8 signal, and users with 6 and a rank-1 signal; and what users really like."""
    generator = torch.Generator().manual_seed(3)
    n_users = N_FREQUENT + N_RARE
    of_users = torch.randn(n_users, RANK, generator=generator)
    of_users[N_FREQUENT:, 1:] = 0
    of_items = torch.randn(N_ITEMS, RANK, generator=generator)
    likes = (1.2 * of_users @ of_items.T).sigmoid()
    numbers = torch.tensor([45] * N_FREQUENT + [6] * N_RARE)
    users = torch.arange(n_users).repeat_interleave(numbers)
    items = torch.cat([torch.randperm(N_ITEMS, generator=generator)[:number] for number in numbers.tolist()])
    labels = (torch.rand(len(users), generator=generator) < likes[users, items]).float()
    return RatingData(n_users, N_ITEMS, users, items, labels, None, 0.5), likes


MF = {"embedding_dim": RANK, "biases": False, "weight_decay": 1e-3, "learning_rate": 0.02, "batch_size": 512}


def logloss(model, likes):
    """Return the expected log loss over all pairs."""
    users, items = torch.cartesian_prod(torch.arange(len(likes)), torch.arange(N_ITEMS)).T
    with torch.no_grad():
        return float(cross_entropy(model.predict(users, items), likes.flatten()))


@pytest.fixture(scope="module")
def searched(planted):
    """Return a factorisation after the whole procedure that kept a quarter of its entries."""
    data, likes = planted
    config = MF | {"epochs": 30, "patience": 3}
    model = around(data, "naivemf", config, blocks=[0.2, 0.8], search_epochs=15, keep=0.25, holdout=0.2)
    fit(model, data, lambda: logloss(model, likes))
    return model


def test_is_the_backbone_at_first(data, rows):
    model = around(data, backbone_config={"batch_norm": True}).eval()
    torch.manual_seed(0)
    backbone = DeepFM(DeepFM.Config(batch_norm=True), data.fields).eval()
    assert torch.equal(model(rows), backbone(rows))
    torch.manual_seed(0)
    assert torch.equal(model.loss(rows), backbone.loss(rows))


def test_is_the_matrix_factorisation_at_first(planted):
    data, _ = planted
    model = around(data, "naivemf", {"embedding_dim": 4})
    torch.manual_seed(0)
    alone = NaiveMF(NaiveMF.Config(embedding_dim=4), data)
    users, items = data.users[:50], data.items[:50]
    assert torch.equal(model.predict(users, items), alone.predict(users, items))
    assert list(model.selected) == ["prediction.users", "prediction.items"]
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in alone.parameters()) + 2 * 5 * 4


def test_a_row_of_alpha_with_a_single_one_keeps_a_single_dimension(data):
    model = spread(around(data, "fm", {"embedding_dim": 6}))
    (selection,) = model.selections
    selection.alpha.data[2] = torch.eye(6)[3]
    in_block, weight = selection.blocks == 2, model.backbone.embedding.weight
    assert 0 < in_block.sum() < len(in_block)
    assert (weight[in_block][:, 3] != 0).all()
    assert (weight[in_block][:, [0, 1, 2, 4, 5]] == 0).all()
    assert (weight[~in_block] != 0).all()
    assert list(model.selected) == ["embedding"], "first-order weights have one dimension"


def test_gradient_of_alpha_by_finite_differences(data, rows):
    model = spread(around(data, "fm", {"embedding_dim": 3})).double()
    (alpha,) = model.alphas()
    rows = CTRBatch(rows.ids, rows.multi, rows.labels.double())
    (found,) = torch.autograd.grad(model.selection_loss(rows), alpha)
    for block in range(5):
        for k in range(3):
            losses = []
            for change in (1e-5, -1e-5):
                alpha.data[block, k] += change
                losses.append(model.selection_loss(rows).item())
                alpha.data[block, k] -= change
            assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(float(found[block, k]), abs=1e-8, rel=1e-5)


def test_gradient_of_alpha_is_a_sum_over_the_rows_of_its_block(data, rows):
    model = spread(around(data, "fm", {"embedding_dim": 3}, l1=0.0))
    (selection,) = model.selections
    table = model.backbone.embedding.parametrizations.weight.original
    # With alpha = 1 the gradient with respect to the table is that with respect to the selected embedding.
    upstream, found = torch.autograd.grad(
        BackboneModel.loss(model, rows) - model.backbone.penalty(), [table, selection.alpha]
    )
    expected = torch.zeros(5, 3).index_add_(0, selection.blocks, upstream * table.detach())
    torch.testing.assert_close(found, expected)


def test_selection_step_has_the_same_mean_size_in_every_block(data):
    model = spread(around(data, selection_learning_rate=0.03))
    alpha = model.alphas()[0]
    procedure = model.train().procedure(data)
    next(procedure)
    _, selection = next(procedure).steps
    before = alpha.detach().clone()
    step(selection, first(selection))
    torch.testing.assert_close((alpha - before).abs().mean(1), torch.full((5,), 0.03))
    assert (alpha > 1).any()
    with torch.no_grad():
        selection.project()
    assert (alpha <= 1).all()
    alpha.data[0, 0] = -0.5
    with torch.no_grad():
        selection.project()
    assert alpha[0, 0] == 0
    assert selection.optimizer == "sgd"


def test_a_block_without_gradient_stays(data):
    model = around(data, "fm", l1=0.0)
    (alpha,) = model.alphas()
    (alpha.sum() * 0).backward()
    assert (alpha.grad == 0).all()


def test_search_trains_tables_on_training_rows_and_alpha_on_held_out_ones(data):
    model = around(data, backbone_config={"batch_size": 64}, holdout=0.2)
    procedure = model.procedure(data)
    warm_up, search, retrain = next(procedure), next(procedure), next(procedure)
    tables, selection = search.steps
    assert search.alternate
    assert [len(list(each.batches.epoch(torch.Generator()))) for each in (tables, selection)] == [4, 4]
    tower_and_alpha = {id(parameter) for parameter in (*model.backbone.mlp.parameters(), *model.alphas())}
    trained = {id(parameter) for parameter in tables.parameters}
    assert not trained & tower_and_alpha
    assert trained | tower_and_alpha == {id(parameter) for parameter in model.parameters()}
    assert [id(parameter) for parameter in selection.parameters] == [id(alpha) for alpha in model.alphas()]
    for stage, n_rows in ((warm_up, 240), (retrain, 300)):
        (phase,) = stage.steps
        assert phase.batches.n_samples == n_rows
        assert not {id(parameter) for parameter in phase.parameters} & {id(alpha) for alpha in model.alphas()}


def test_held_out_rows_are_no_training_rows(data, rows):
    marked = CTRData(data.fields, CTRBatch(rows.ids, rows.multi, torch.arange(300.0)))
    train, held_out = (part.all_rows().labels for part in hold_out(marked, 0.1))
    assert (len(train), len(held_out)) == (270, 30)
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(300))
    assert torch.equal(held_out, hold_out(marked, 0.1)[1].all_rows().labels), "a run that goes on has the same ones"


def test_held_out_ratings_are_no_training_ratings(planted):
    data, _ = planted
    pairs = [{*zip(part.users.tolist(), part.items.tolist(), strict=True)} for part in hold_out(data, 0.25)]
    assert not pairs[0] & pairs[1]
    assert len(pairs[1]) == round(0.25 * len(data.users))
    assert pairs[0] | pairs[1] == {*zip(data.users.tolist(), data.items.tolist(), strict=True)}


def test_held_out_rows_begin_anew_within_an_epoch(data):
    source = Repeated(data.rows(100), 7, 100)
    batches = list(source.epoch(torch.Generator().manual_seed(0)))
    assert [len(batch) for batch in batches] == [100] * 7
    assert source.n_samples == 700
    assert not torch.equal(batches[0].ids, batches[3].ids), "in another order"


def test_blocks_are_by_frequency():
    counts = torch.tensor([0, 9, 4, 4, 1, 30, 2, 0, 3, 5])
    assert by_frequency(counts, (0.2, 0.3, 0.5)).tolist() == [2, 0, 1, 1, 2, 0, 2, 2, 2, 1]
    assert by_frequency(counts, (1.0,)).tolist() == [0] * 10


def test_occurrences_are_those_of_training_rows(data, rows, planted):
    expected = np.zeros(40)
    for ids in (rows.ids.flatten(), rows.multi["genres"].values):
        np.add.at(expected, ids.numpy(), 1)
    assert occurrences(data, "embedding").tolist() == expected.tolist()
    ratings, _ = planted
    assert occurrences(ratings, "prediction.users").tolist() == [45] * N_FREQUENT + [6] * N_RARE
    assert int(occurrences(ratings, "prediction.items").sum()) == len(ratings.items)


def test_a_dense_field_occurs_in_every_row():
    fields = FieldSpace([Field("a", False, 3, 0), Field("price", False, 1, 3, dense=True)])
    rows = CTRBatch(torch.tensor([[1], [2], [1]]), {}, torch.zeros(3), torch.tensor([[0.5], [2.0], [1.0]]))
    assert occurrences(CTRData(fields, rows), "embedding").tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize("keep", [0.05, 0.35, 1.0])
def test_pruning_keeps_the_largest_entries_of_the_selected_embedding(data, rows, keep):
    model = spread(around(data, "fm", {"embedding_dim": 10}, keep=keep))
    (selection,) = model.selections
    torch.nn.init.uniform_(selection.alpha)
    before = model.backbone.embedding.weight.detach().clone()
    model.prune()
    after = model.backbone.embedding.weight.detach()
    kept = after != 0
    assert int(kept.sum()) == round(keep * 40 * 10)
    assert torch.equal(after[kept], before[kept])
    if keep < 1:
        assert before[kept].abs().min() >= before[~kept].abs().max()
    # Stored sparsely, the pruned table predicts the same.
    stored = csr_array(after.numpy())
    assert stored.nnz == kept.sum()
    alone = FM(FM.Config(embedding_dim=10), data.fields)
    linear = model.backbone.linear.weight
    alone.load_state_dict(
        {"embedding.weight": torch.tensor(stored.toarray()), "linear.weight": linear, "bias": model.backbone.bias}
    )
    assert torch.equal(alone(rows), model(rows))


def test_pruned_entries_stay_zero_in_retraining(data):
    model = spread(around(data, backbone_config={"batch_size": 100}, keep=0.3)).train()
    *_, retrain = model.procedure(data)
    (phase,) = retrain.steps
    before = model.backbone.embedding.weight.detach().clone()
    for batch in phase.batches.epoch(torch.Generator().manual_seed(0)):
        step(phase, batch)
    after = model.backbone.embedding.weight.detach()
    assert torch.equal(after == 0, before == 0)
    assert not torch.equal(after, before)
    assert all((alpha == 1).all() for alpha in model.alphas())


def test_frequent_users_with_a_signal_of_higher_rank_are_given_more(searched):
    of_users, _ = searched.selections
    frequent, rare = of_users.alpha.mean(1).tolist()
    assert frequent > rare + 0.1
    summary = of_users.summary()
    assert summary["rows"] == [N_FREQUENT, N_RARE]
    more, fewer = summary["dimensions kept of a row"]
    assert more > 2 * fewer


def test_mixed_dimensions_beat_a_uniform_one_of_the_same_size(searched, planted):
    data, likes = planted
    torch.manual_seed(0)
    uniform = NaiveMF(NaiveMF.Config(**MF | {"embedding_dim": RANK // 4, "epochs": 60, "patience": 5}), data)
    fit(uniform, data, lambda: logloss(uniform, likes))
    kept = searched.explain(data).figures["embedding parameters after"]
    assert kept == sum(parameter.numel() for parameter in uniform.parameters())
    assert logloss(searched, likes) < logloss(uniform, likes)


def test_explains_what_is_kept(searched, planted):
    data, _ = planted
    explanation = searched.explain(data)
    n_entries = (N_FREQUENT + N_RARE + N_ITEMS) * RANK
    assert explanation.figures == {
        "embedding parameters before": n_entries,
        "embedding parameters after": n_entries // 4,
        "share of embedding parameters kept": 0.25,
    }
    for table, selection in zip(explanation.parts, searched.selections, strict=True):
        columns = table.columns
        assert columns["block"] == ["1", "2"]
        assert columns["mean selection weight"] == pytest.approx(selection.alpha.mean(1).tolist())
        kept = np.dot(columns["rows"], columns["dimensions kept of a row"])
        assert kept == pytest.approx(int(selection.mask.sum()))


def test_predictions_do_not_depend_on_the_batch(data, check_batch_size):
    check_batch_size(spread(around(data)).eval())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"blocks": [0.5, 0.6]}, r"blocks: expected shares whose sum is 1, found \[0.5, 0.6\]"),
        ({"blocks": []}, r"blocks: expected shares whose sum is 1, found \[\]"),
        ({"blocks": [1.5, -0.5]}, "blocks.1: .* greater than 0"),
        ({"holdout": 0}, "holdout: .* greater than 0"),
        ({"holdout": 1}, "holdout: .* less than 1"),
        ({"keep": 0}, "keep: .* greater than 0"),
    ],
)
def test_wrong_configurations_are_one_sentence(values, message):
    with pytest.raises(UsageError, match=message):
        DNIS.Config.parse(values, "the command line")


def test_backbones_that_cannot_be_searched_are_refused(data, planted):
    ratings, _ = planted
    with pytest.raises(UsageError, match="more than one dimension, found 'lr'"):
        around(data, "lr")
    with pytest.raises(UsageError, match="a model of the task 'ctr', found 'naivemf'"):
        around(data, "naivemf")
    with pytest.raises(UsageError, match="a model of the task 'rating', found 'deepfm'"):
        around(ratings, "deepfm")
    with pytest.raises(UsageError, match="trained in one phase, found 'drjl'"):
        next(around(ratings, "drjl").procedure(ratings))


def test_too_few_rows_to_hold_any_out_are_refused(data):
    few = data.take(torch.arange(3))
    with pytest.raises(UsageError, match=r"some but not all of 3 training rows, found 0\.1"):
        next(around(few).procedure(few))


def test_only_users_and_items_have_frequencies_of_ratings(planted):
    ratings, _ = planted
    with pytest.raises(UsageError, match=r"the names users and items, found 'prediction\.countries'"):
        occurrences(ratings, "prediction.countries")
