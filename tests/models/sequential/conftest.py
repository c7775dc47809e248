"""Small sequences for models of the next item."""

import pytest
import torch

from recbench.tasks.batches import Ragged
from recbench.tasks.sequential import SequenceData, Sequences, SequenceUserBatch

N_ITEMS = 12


def data_of(rows, n_items=N_ITEMS):
    users = torch.tensor([user for user, row in enumerate(rows) for _ in row])
    items = torch.tensor([item for row in rows for item in row])
    return SequenceData(len(rows), n_items, users, items, torch.arange(len(items)).double())


def batch_of(rows, n_items=N_ITEMS):
    offsets = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    sequence = Ragged(torch.tensor([item for row in rows for item in row], dtype=torch.int64), offsets)
    times = Ragged(sequence.values.double(), offsets)
    return SequenceUserBatch(torch.arange(len(rows)), sequence, n_items, sequence, times)


def sequences_of(rows):
    items = torch.tensor([item for row in rows for item in row])
    return Sequences(items, items.double(), tuple(len(row) for row in rows))


@pytest.fixture(scope="session")
def make_batch():
    """Return users of given sequences as they are scored."""
    return batch_of


@pytest.fixture(scope="session")
def make_sequences():
    """Return given sequences, the longest first, as models read them."""
    return sequences_of


@pytest.fixture
def data():
    return data_of([[0, 1, 2, 3, 4, 5, 6], [3, 1, 7, 8], [9, 10], [11], [5, 4, 3]])


@pytest.fixture(scope="session")
def cycles():
    """Item i + 1 always follows item i, of 30, and every item is about as popular as any other."""
    generator = torch.Generator().manual_seed(0)
    starts = torch.randint(30, (300,), generator=generator).tolist()
    return data_of([[(start + step) % 30 for step in range(10)] for start in starts], 30)


@pytest.fixture
def learns_the_cycle(cycles):
    """Train a model on the cycles, and return how often the next item of a cycle never seen whole is ranked first."""

    def run(model, epochs):
        (stage,) = model.procedure(cycles)
        (phase,) = stage.steps
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        generator = torch.Generator().manual_seed(0)
        for _ in range(epochs):
            for batch in phase.batches.epoch(generator):
                optimizer.zero_grad()
                phase.loss(batch).backward()
                optimizer.step()
        model.eval()
        rows = [[(start + step) % 30 for step in range(14)] for start in range(30)]
        with torch.no_grad():
            scores = model.score(batch_of(rows, 30))
            scores[torch.arange(30)[:, None], torch.tensor(rows)] = -torch.inf  # seen items may have any score
        return float((scores.argmax(1) == (torch.arange(30) + 14) % 30).double().mean())

    return run
