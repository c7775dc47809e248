"""Nearest neighbours and sparse weights against dense computations."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recbench.models.layers import neighbours
from recbench.models.layers.neighbours import ItemWeights, bm25, idf, largest, nearest, rows_to_one
from recbench.tasks.batches import Ragged

N, F = 40, 25


@pytest.fixture
def left() -> sp.csr_matrix:
    return sp.random(N, F, density=0.3, format="csr", dtype=np.float32, random_state=1)


def kept(dense: np.ndarray, k: int) -> np.ndarray:
    """Return the k largest positive entries of every row, of equal ones the last."""
    result = np.zeros_like(dense)
    for row, values in zip(result, dense, strict=True):
        best = np.argsort(values, kind="stable")[-k:]
        row[best] = np.maximum(values[best], 0)
    return result


@pytest.mark.parametrize("at_once", [2**22, 60])
@pytest.mark.parametrize("k", [1, 5, 100])
def test_nearest_is_the_largest_of_the_dense_product(
    left: sp.csr_matrix, k: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "ENTRIES_AT_ONCE", at_once)
    shares = np.linspace(1, 2, N, dtype=np.float32)
    found = nearest(left, left.T.tocsr(), k, lambda values, rows, columns: values / shares[columns], np.arange(N))
    dense = (left @ left.T).toarray() / shares
    np.fill_diagonal(dense, 0)
    np.testing.assert_allclose(found.toarray(), kept(dense, k), rtol=1e-6)
    assert np.diff(found.indptr).max() <= k


def test_a_row_may_be_none_of_the_columns(left: sp.csr_matrix) -> None:
    found = nearest(left[:2], left.T.tocsr(), N, lambda values, rows, columns: values, np.array([10**6, 1]))
    dense = (left[:2] @ left.T).toarray()
    dense[1, 1] = 0
    np.testing.assert_allclose(found.toarray(), dense, rtol=1e-6)


def test_what_is_kept_of_equal_entries_does_not_depend_on_the_block() -> None:
    same = sp.csr_matrix(np.ones((6, 3), np.float32))

    def nearest_of(rows: list[int]) -> np.ndarray:
        own = np.array(rows)
        return nearest(same[rows], same.T.tocsr(), 2, lambda values, rows, columns: values, own).toarray()

    together = nearest_of([0, 1, 2, 3, 4, 5])
    assert together[0].tolist() == [0, 0, 0, 0, 3, 3]
    assert together[5].tolist() == [0, 0, 0, 3, 3, 0]
    for row in range(6):
        np.testing.assert_array_equal(nearest_of([row])[0], together[row])


def test_empty_rows_stay_empty() -> None:
    empty = sp.csr_matrix((3, 4), dtype=np.float32)
    assert nearest(empty, empty.T.tocsr(), 2, lambda values, rows, columns: values, np.arange(3)).nnz == 0
    assert largest(empty, 2).shape == (3, 4)


@pytest.mark.parametrize("k", [1, 3, 100])
def test_largest(left: sp.csr_matrix, k: int) -> None:
    np.testing.assert_array_equal(largest(left, k).toarray(), kept(left.toarray(), k))


def test_rows_to_one(left: sp.csr_matrix) -> None:
    left.data[left.indptr[3] : left.indptr[4]] = 0
    left.eliminate_zeros()
    sums = rows_to_one(left).toarray().sum(1)
    assert sums[3] == 0
    np.testing.assert_allclose(np.delete(sums, 3), 1, rtol=1e-6)


def test_weights_of_documents_by_hand() -> None:
    # Three documents of 1, 2 and 3 words, so 2 in the mean; the first word is in two of them.
    np.testing.assert_allclose(idf(3, np.array([2, 1])), [0.0, np.log(1.5)], atol=1e-7)
    expected = [2.2 / (1 + 1.2 * (0.25 + 0.75 * length / 2)) for length in (1, 2, 3)]
    np.testing.assert_allclose(bm25(np.array([1, 2, 3]), 2.0), expected, rtol=1e-6)
    assert bm25(np.array([2]), 2.0) == pytest.approx(1.0)


def test_item_weights_multiply_rows() -> None:
    weights = ItemWeights(N, 7)
    matrix = largest(sp.random(N, N, density=0.5, format="csr", dtype=np.float32, random_state=2), 6)
    weights.set(matrix)
    weights.set(largest(matrix, 4))  # fewer entries than before
    history = Ragged(torch.tensor([3, 5, 5, 39]), torch.tensor([0, 2, 2, 4]))
    dense = kept(matrix.toarray(), 4)
    expected = [dense[3] + dense[5], np.zeros(N), dense[5] + dense[39]]
    np.testing.assert_allclose(weights(history), expected, rtol=1e-6)
    again = ItemWeights(N, 7)
    again.load_state_dict(weights.state_dict())
    assert torch.equal(again(history), weights(history))
