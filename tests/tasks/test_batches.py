from itertools import pairwise

import numpy as np
import pytest
import torch

from recbench.tasks.batches import Ragged, blocks, to_device


@pytest.fixture
def world():
    """Rows of lengths 0 to 6, some empty at the start, in the middle and at the end."""
    rng = np.random.default_rng(5)
    lengths = np.array([0, 3, 0, 6, 1, 2, 0, 0, 4, 5, 0])
    rows = [rng.integers(0, 100, length) for length in lengths]
    ragged = Ragged(torch.tensor(np.concatenate(rows)), torch.tensor(np.concatenate([[0], np.cumsum(lengths)])))
    return rows, ragged


def as_rows(ragged):
    edges = ragged.offsets.tolist()
    return [ragged.values[a:b].tolist() for a, b in pairwise(edges)]


def test_lengths_and_row_numbers(world):
    rows, ragged = world
    assert len(ragged) == len(rows)
    assert ragged.lengths.tolist() == [len(row) for row in rows]
    assert ragged.rows().tolist() == [number for number, row in enumerate(rows) for _ in row]


@pytest.mark.parametrize("wanted", [[3], [0], [], [10, 0, 9, 9, 3, 2, 1], list(range(11))])
def test_take_is_numpy_indexing(world, wanted):
    rows, ragged = world
    taken = ragged.take(torch.tensor(wanted, dtype=torch.int64))
    assert as_rows(taken) == [rows[row].tolist() for row in wanted]
    assert taken.offsets[0] == 0


@pytest.mark.parametrize("size", [1, 2, 4, 11, 100])
def test_split_gives_consecutive_blocks(world, size):
    rows, ragged = world
    parts = list(ragged.split(size))
    assert [len(part) for part in parts] == [len(rows[i : i + size]) for i in range(0, len(rows), size)]
    assert [row for part in parts for row in as_rows(part)] == [row.tolist() for row in rows]


def test_split_of_a_permuted_take(world):
    rows, ragged = world
    order = torch.tensor([9, 8, 7, 6, 5, 4, 3, 2, 1, 0])
    parts = list(ragged.take(order).split(3))
    assert [row for part in parts for row in as_rows(part)] == [rows[i].tolist() for i in order.tolist()]


@pytest.mark.parametrize("length", [1, 3, 6, 9])
def test_padded_has_the_last_values_in_front(world, length):
    rows, ragged = world
    values, there = ragged.padded(length)
    assert values.dtype == torch.int64
    assert there.dtype == torch.bool
    kept = [row[-length:].tolist() for row in rows]
    assert values.tolist() == [row + [0] * (length - len(row)) for row in kept]
    assert there.tolist() == [[column < len(row) for column in range(length)] for row in kept]


def test_padded_without_rows_or_values(world):
    _, ragged = world
    values, there = ragged.take(torch.tensor([0, 2])).padded(3)
    assert values.tolist() == [[0] * 3] * 2
    assert not there.any()
    values, there = ragged.take(torch.tensor([], dtype=torch.int64)).padded(3)
    assert values.shape == there.shape == (0, 3)


def test_blocks_and_to_device():
    assert [block.tolist() for block in blocks(torch.arange(5), 2)] == [[0, 1], [2, 3], [4]]
    moved = to_device(np.array([1, 2], dtype=np.int32), torch.device("cpu"))
    assert moved.dtype == torch.int64
