"""Products with a constant sparse matrix against SciPy, and their gradient."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recbench.models.layers.sparse import SparseMatrix

SHAPE = (7, 5)


@pytest.fixture
def entries():
    """30 entries of a 7 x 5 matrix: some of the same place, rows 3 and column 2 without any."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.tensor([0, 1, 2, 4, 5, 6])[torch.randint(6, (30,), generator=generator)]
    columns = torch.tensor([0, 1, 3, 4])[torch.randint(4, (30,), generator=generator)]
    return rows, columns, torch.randn(30, generator=generator, dtype=torch.float64)


@pytest.fixture
def matrix(entries):
    rows, columns, values = entries
    made = SparseMatrix(rows, columns, SHAPE)
    made.set_values(values)
    return made


def scipy_matrix(rows, columns, values):
    return sp.coo_matrix((values.numpy(), (rows.numpy(), columns.numpy())), shape=SHAPE).toarray()


def test_product_adds_up_entries_of_the_same_place(entries, matrix):
    dense = torch.randn(5, 3, dtype=torch.float64)
    product = matrix(dense)
    np.testing.assert_allclose(product.numpy(), scipy_matrix(*entries) @ dense.numpy(), atol=1e-12)
    assert not product[3].any()


def test_gradient(matrix):
    dense = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(matrix, (dense,))


def test_gradient_accepts_a_transposed_upstream(entries, matrix):
    dense = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3, 7, dtype=torch.float64).T
    matrix(dense).backward(upstream)
    np.testing.assert_allclose(dense.grad.numpy(), scipy_matrix(*entries).T @ upstream.numpy(), atol=1e-12)


def test_replaced_values(entries, matrix):
    rows, columns, values = entries
    dense = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    before = matrix(dense)
    matrix.set_values(-2 * values)
    torch.testing.assert_close(matrix(dense), -2 * before)
    before.sum().backward()  # of the values at the time of the product
    np.testing.assert_allclose(dense.grad.numpy()[:, 0], scipy_matrix(rows, columns, values).sum(0), atol=1e-12)


def test_state_is_the_values_alone(entries, matrix):
    rows, columns, _ = entries
    again = SparseMatrix(rows, columns, SHAPE).double()
    again.load_state_dict(matrix.state_dict())
    dense = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.equal(again(dense), matrix(dense))
    assert torch.equal(*(torch.autograd.grad(made(dense).square().sum(), dense)[0] for made in (again, matrix)))
