"""The sequential task: what it hands out in training and at judging, and which items are ranked."""

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch

from recbench.errors import RecbenchError
from recbench.models.registry import load_model
from recbench.tasks.base import Development, load_benchmark
from recbench.tasks.batches import Ragged
from recbench.tasks.samplers import make_sampler
from recbench.tasks.sequential import SequenceData, Sequences, SequenceUserBatch, SequentialTask

NAME = "sequential/ml-100k"
ROWS = {0: [4, 2, 9, 2, 7], 2: [5], 3: [1, 3, 0, 8, 6, 5], 4: [7, 9]}


def data_of(rows, n_users=5, n_items=10):
    pairs = [(user, item) for user, row in rows.items() for item in row]
    users, items = torch.tensor(pairs).T
    return SequenceData(n_users, n_items, users, items, torch.arange(len(pairs)).double() * 10)


class Recorder:
    """Scores by a table of users and items, and keeps the batches it was given."""

    def __init__(self, scores):
        self.scores = scores
        self.batches = []

    def prepare_scoring(self):
        pass

    def score(self, batch):
        self.batches.append(batch)
        return self.scores[batch.users].clone()


def rows_of(ragged):
    return [values.tolist() for values in ragged.values.split(ragged.lengths.tolist())]


def test_models_of_interactions_get_every_pair_once():
    data = data_of(ROWS)
    assert data.items_return
    assert not data_of({0: [4, 2, 9]}).items_return
    assert rows_of(data.history) == [[2, 4, 7, 9], [], [5], [0, 1, 3, 5, 6, 8], [7, 9]]
    assert data.matrix().sum() == len(data.users) == 13
    assert rows_of(data.sequences) == [ROWS.get(user, []) for user in range(5)]
    assert rows_of(data.times)[3] == [60, 70, 80, 90, 100, 110]
    drawn = data.sample_unseen(torch.tensor([0]), 500, torch.Generator().manual_seed(0))
    assert set(drawn.flatten().tolist()) == {0, 1, 3, 5, 6, 8}


@pytest.mark.parametrize("max_length", [2, 4, 50])
def test_an_epoch_has_every_next_item_once(max_length):
    data = data_of(ROWS)
    source = data.next_items(2, max_length, make_sampler("uniform", data, 3))
    found = []
    for batch in source.epoch(torch.Generator().manual_seed(0)):
        assert list(batch.sequences.sizes) == sorted(batch.sequences.sizes, reverse=True)
        assert batch.negatives.shape == (len(batch), 3)
        assert not data.seen(batch.users, batch.negatives).any()
        columns = batch.users, batch.sequences.items, batch.sequences.times, batch.positives
        found += list(zip(*(column.tolist() for column in columns), strict=True))
    expected = [(user, *step) for user, row in ROWS.items() for step in list(pairwise(row))[-max_length:]]
    assert sorted((user, item, after) for user, item, _, after in found) == sorted(expected)
    assert all(data.sequences.values[int(time) // 10] == item for _, item, time, _ in found)
    assert source.n_samples == len(found)


def test_epochs_differ_and_follow_from_the_generator():
    generator = torch.Generator().manual_seed(0)
    users = torch.randint(40, (400,), generator=generator).sort().values
    items = torch.randint(50, (400,), generator=generator)
    data = SequenceData(40, 50, users, items, torch.arange(400).double())
    source = data.next_items(8, 10, make_sampler("uniform", data, 1))

    def epoch(generator):
        return torch.cat([torch.stack([b.users, b.positives, b.negatives[:, 0]]) for b in source.epoch(generator)], 1)

    same, again = (torch.Generator().manual_seed(3) for _ in range(2))
    first, second = epoch(same), epoch(same)
    assert torch.equal(first, epoch(again))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("rows", [1, 2, 3, 9])
def test_rectangles_hold_all_positions_and_nothing_else(rows):
    sizes = (5, 3, 3, 1)
    sequences = Sequences(torch.arange(12), torch.arange(12.0), sizes)
    values = torch.arange(1.0, 25).view(12, 2)
    rectangles = sequences.rectangles(rows)
    parts = values.split([rectangle.size for rectangle in rectangles])
    padded = [rectangle.pad(part) for rectangle, part in zip(rectangles, parts, strict=True)]
    back = [rectangle.flat(values) for rectangle, values in zip(rectangles, padded, strict=True)]
    assert torch.equal(torch.cat(back), values)
    sequence = 0
    for cells in padded:
        for row in cells:
            size = sizes[sequence]
            start = sum(sizes[:sequence])
            assert torch.equal(row[:size], values[start : start + size])
            assert not row[size:].any()
            sequence += 1
    assert sequence == len(sizes)
    assert sequences.from_end().tolist() == [4, 3, 2, 1, 0, 2, 1, 0, 2, 1, 0, 0]
    assert sequences.last().tolist() == [4, 7, 10, 11]


def test_the_recent_items_of_users_who_have_any():
    data = data_of(ROWS)
    sequences, places = data.user_batch(torch.tensor([4, 1, 3, 0])).recent(3)
    assert places.tolist() == [2, 3, 0]
    assert sequences.sizes == (3, 3, 2)
    assert sequences.items.tolist() == [8, 6, 5, 9, 2, 7, 7, 9]
    assert sequences.times.tolist() == [90, 100, 110, 20, 30, 40, 120, 130]


def test_at_test_the_sequence_ends_with_what_is_shown(task_of, parts_of):
    task, train = task_of(NAME), parts_of(NAME, "train")
    valid, test = parts_of(NAME, "valid"), parts_of(NAME, "test")
    model = Recorder(torch.zeros(task.data.n_users, task.data.n_items))
    task.evaluate(model, valid)
    at_valid = model.batches[-1]
    model.batches.clear()
    task.evaluate(model, test, seen=valid)
    at_test = model.batches[-1]
    assert isinstance(at_test, SequenceUserBatch)
    for number, user in list(enumerate(at_test.users.tolist()))[:20]:
        own = train["items"][train["users"] == user].tolist()
        assert rows_of(at_valid.sequence)[number] == own
        shown = valid["items"][valid["users"] == user].tolist()
        assert rows_of(at_test.sequence)[number] == own + shown
        assert rows_of(at_test.history)[number] == sorted({*own, *shown})
        times = rows_of(at_test.sequence_times)[number]
        assert times == sorted(times)
        assert times[-1] == valid["times"][valid["users"] == user]


def test_what_is_seen_is_not_ranked_where_it_does_not_return(task_of, parts_of):
    task = task_of(NAME)
    assert not task.ranks_seen
    known = torch.zeros(task.data.n_users, task.data.n_items)
    for part in ("train", "valid"):
        arrays = parts_of(NAME, part)
        known[torch.tensor(arrays["users"]).long(), torch.tensor(arrays["items"]).long()] = 1.0
    evaluation = task.evaluate(Recorder(known), parts_of(NAME, "test"), seen=parts_of(NAME, "valid"))
    assert (evaluation.tables().predictions["score"] == 0).all()


def sessions(repeated):
    """Return a task of sessions not in training, of which the second asks for an item clicked before."""
    train = {"users": [0, 0, 0, 1, 1], "items": [0, 1, 0 if repeated else 2, 2, 3], "times": [0.0, 1, 2, 0, 1]}
    test = {"users": [2, 3], "items": [2, 4], "times": [9.0, 9], "history_users": [2, 3, 3]}
    test |= {"history_items": [1, 4, 3], "history_times": [0.0, 1, 2]}
    parts = [{name: np.array(values) for name, values in part.items()} for part in (train, test)]
    shared = {"user_ids": np.array(list("abcd")), "item_ids": np.array(list("vwxyz"))}
    meta = {"n_users": 4, "n_items": 5, "fold_in": True}
    development = Development(shared, parts[0], parts[1], meta, "", pl.Series)
    return SequentialTask(load_benchmark("sequential/diginetica"), development, torch.device("cpu")), parts[1]


def test_sessions_that_come_back_to_items_have_all_items_ranked():
    scores = torch.zeros(4, 5)
    scores[2, 2] = scores[3, 4] = 1.0
    found = {}
    for repeated in (True, False):
        task, part = sessions(repeated)
        assert task.ranks_seen == repeated
        model = Recorder(scores)
        evaluation = task.evaluate(model, part, metrics=["hit@1", "mrr@20"])
        assert rows_of(model.batches[-1].sequence) == [[1], [4, 3]]
        assert rows_of(model.batches[-1].history) == [[1], [3, 4]]
        found[repeated] = evaluation.metrics["hit@1"], len(evaluation.tables().predictions)
        assert evaluation.diagnostics["users_without_history"] == 0
    assert found == {True: (1.0, 10), False: (0.5, 7)}


def test_a_file_may_list_what_a_model_may():
    frame = pl.DataFrame({"user": list("ccdd"), "item": list("xwzy"), "score": [2.0, 1.0, 2.0, 1.0]})
    task, part = sessions(repeated=True)
    assert task.judge_file(frame, part, part).metrics["hit@20"] == 1.0
    task, part = sessions(repeated=False)
    with pytest.raises(RecbenchError, match="only unseen items are ranked"):
        task.judge_file(frame, part, part)


@pytest.mark.parametrize("name", ["popularity", "ease", "itemknn"])
def test_models_of_the_top_n_tasks_are_baselines(task_of, parts_of, name):
    """They score as on a log without order; those that score from histories read what is shown, too."""
    task = task_of(NAME)
    model = load_model(name)
    assert "sequential" in model.tasks
    fitted = model.create(model.Config(), task.data)
    (stage,) = fitted.procedure(task.data)
    with torch.no_grad():
        stage.steps[0].run()
        evaluation = task.evaluate(fitted.eval(), parts_of(NAME, "test"), seen=parts_of(NAME, "valid"))
    assert evaluation.metrics["recall@10"] > 0.03
    assert evaluation.diagnostics["users_without_history"] == 0


def test_times_travel_with_items():
    batch = data_of(ROWS).user_batch(torch.tensor([3, 0]))
    assert isinstance(batch.sequence_times, Ragged)
    assert batch.sequence_times.values.dtype == torch.float64
    assert rows_of(batch.sequence) == [ROWS[3], ROWS[0]]
    assert rows_of(batch.sequence_times)[1] == [0, 10, 20, 30, 40]
