"""The normalised graph of interactions against SciPy, its parts, views and contrasts."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbench.models.layers.graph import (
    InteractionGraph,
    LayerMean,
    drop_edges,
    info_nce,
    propagate,
    with_noise,
)

N_USERS, N_ITEMS, DIM = 12, 9, 5


@pytest.fixture
def pairs():
    """Interactions sorted by user; user 3 and item 7 have none."""
    there = torch.rand(N_USERS, N_ITEMS, generator=torch.Generator().manual_seed(1)) < 0.35
    there[3], there[:, 7] = False, False
    return there.nonzero().T.contiguous()


@pytest.fixture
def graph(pairs):
    return InteractionGraph(*pairs, N_USERS, N_ITEMS)


@pytest.fixture
def tables():
    generator = torch.Generator().manual_seed(2)
    return tuple(
        torch.randn(n, DIM, dtype=torch.float64, generator=generator, requires_grad=True) for n in (N_USERS, N_ITEMS)
    )


def adjacency(users, items):
    """D^-1/2 A D^-1/2 over users, then items."""
    block = sp.coo_matrix((np.ones(len(users)), (users.numpy(), items.numpy())), shape=(N_USERS, N_ITEMS))
    whole = sp.bmat([[None, block], [block.T, None]]).tocsr()
    with np.errstate(divide="ignore"):
        inverse = np.asarray(whole.sum(1)).ravel() ** -0.5
    scale = sp.diags(np.where(np.isinf(inverse), 0, inverse))
    return (scale @ whole @ scale).toarray()


def joined(pair):
    return torch.cat([part.detach() for part in pair]).double().numpy()


def powers(pairs, n_layers):
    matrix = adjacency(*pairs)
    return [np.linalg.matrix_power(matrix, k) for k in range(n_layers + 1)]


# Rows that repeat, few enough to be copied out, and so many that the whole matrix is multiplied.
LOOKUPS = {"copied": ([2, 2], [4]), "selected": (list(range(N_USERS)) * 2, [0, 0, 5, 7])}


@pytest.fixture(params=sorted(LOOKUPS))
def places(request):
    return tuple(torch.tensor(ids) for ids in LOOKUPS[request.param])


def test_the_two_ways_of_looking_up_are_both_taken(graph):
    kinds = [type(graph.at(*map(torch.tensor, ids))).__name__ for ids in LOOKUPS.values()]
    assert kinds == ["_Copied", "_Selected"]


def test_a_product_is_scipy_s(pairs, graph, tables):
    np.testing.assert_allclose(joined(graph.send(*tables)), adjacency(*pairs) @ joined(tables), atol=1e-6)


def test_the_matrix_is_symmetric(graph):
    users = graph.of_users
    again = graph.of_items.transposed()
    for name in ("offsets", "columns", "values"):
        assert torch.equal(getattr(users, name), getattr(again, name))


def test_indices_are_of_32_bits(graph):
    for block in (graph.of_users, graph.of_items):
        assert {block.offsets.dtype, block.columns.dtype} == {torch.int32}


def test_a_part_has_the_rows_asked_for(graph, tables, places):
    whole, part = graph.send(*tables), graph.at(*places).send(*tables)
    for of_all, rows, ids in zip(whole, part, places, strict=True):
        torch.testing.assert_close(rows, of_all[ids])


def test_gradient_of_the_whole_and_of_a_part(graph, tables, places):
    for part in (graph, graph.at(*places)):
        torch.autograd.gradcheck(lambda u, i, part=part: propagate(part, u, i), tables, fast_mode=True)


@pytest.mark.parametrize("with_first", [True, False])
@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_the_mean_has_equal_coefficients(pairs, graph, tables, n_layers, with_first):
    terms = powers(pairs, n_layers)[0 if with_first else 1 :]
    assert len(terms) == n_layers + with_first
    mean = LayerMean(graph, n_layers, with_first).everywhere(*tables)
    np.testing.assert_allclose(joined(mean), sum(terms) @ joined(tables) / len(terms), atol=1e-6)
    torch.autograd.gradcheck(LayerMean(graph, n_layers, with_first).everywhere, tables, fast_mode=True)


@pytest.mark.parametrize("with_first", [True, False])
@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_looked_up_means_are_those_of_all_nodes_and_so_are_their_gradients(graph, tables, places, n_layers, with_first):
    mean = LayerMean(graph, n_layers, with_first, noise=(0.0, 0.0))
    first_users, first_items, *views = mean.at(tables, *places)
    torch.testing.assert_close(first_users, tables[0][places[0]])
    torch.testing.assert_close(first_items, tables[1][places[1]])
    everywhere = mean.everywhere(*tables)
    for number, rows in enumerate(views):
        torch.testing.assert_close(rows, everywhere[number % 2][places[number % 2]])
    torch.autograd.gradcheck(lambda u, i: mean.at((u, i), *places), tables, fast_mode=True)


def test_no_layer_gives_the_tables(graph, tables, places):
    mean = LayerMean(graph, 0)
    assert all(torch.equal(*pair) for pair in zip(mean.everywhere(*tables), tables, strict=True))
    rows = mean.at(tables, *places)
    assert torch.equal(rows[0], rows[2])
    assert torch.equal(rows[1], rows[3])
    torch.autograd.gradcheck(lambda u, i: mean.at((u, i), *places), tables, fast_mode=True)


def test_everywhere_leaves_the_tables_alone(graph, tables):
    before = joined(tables)
    LayerMean(graph, 2, with_first=False).everywhere(*tables)
    np.testing.assert_array_equal(joined(tables), before)


def test_noise_leaves_the_gradient_as_it_is(graph, tables, places):
    """Its sign has none, so a noisy view is the mean plus a constant."""
    gradients = []
    for noise in (0.0, 0.3):
        users, items = LayerMean(graph, 2, noise=(noise,)).at(tables, *places)[2:]
        gradients.append(torch.autograd.grad((users.sum() + 2 * items.sum()), tables))
    for without, having in zip(*gradients, strict=True):
        torch.testing.assert_close(without, having)


@settings(deadline=None, max_examples=30)
@given(length=st.floats(1e-3, 10), dim=st.integers(1, 70), seed=st.integers(0, 1000))
def test_noise_has_its_length_and_the_row_s_signs(length, dim, seed):
    rows = torch.randn(20, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    noise = with_noise(rows.clone(), length) - rows
    torch.testing.assert_close(noise.norm(dim=1), torch.full((20,), length, dtype=torch.float64))
    assert torch.equal(noise.sign(), rows.sign())


def test_magnitudes_of_noise_are_uniform():
    rows = torch.ones(20_000, 2, dtype=torch.float64)
    noise = with_noise(rows.clone(), 1.0) - rows
    # tan of the angle is a ratio of two uniform numbers, whose distribution function is x / 2 up to 1.
    ratio = noise[:, 0] / noise[:, 1]
    for x in (0.25, 0.5, 1.0):
        assert float((ratio < x).double().mean()) == pytest.approx(x / 2, abs=0.01)


@pytest.mark.parametrize(("share", "left"), [(0.0, 30), (0.1, 27), (0.25, 22), (0.99, 0)])
def test_dropped_edges(share, left):
    users, items = torch.arange(30) // 3, torch.arange(30) % 7
    torch.manual_seed(0)
    kept = torch.stack(drop_edges(users, items, share))
    assert kept.shape == (2, left)
    assert len(kept.unique(dim=1).T) == left
    assert torch.equal(kept[0], kept[0].sort().values)
    assert {*map(tuple, kept.T.tolist())} <= {*zip(users.tolist(), items.tolist(), strict=True)}


def test_a_graph_of_fewer_edges_is_normalised_by_its_own_degrees(pairs, tables):
    torch.manual_seed(3)
    kept = drop_edges(*pairs, 0.4)
    graph = InteractionGraph(*kept, N_USERS, N_ITEMS)
    np.testing.assert_allclose(joined(graph.send(*tables)), adjacency(*kept) @ joined(tables), atol=1e-6)


def test_info_nce_is_its_formula_over_distinct_nodes():
    generator = torch.Generator().manual_seed(5)
    a, b = torch.randn(2, N_USERS, DIM, dtype=torch.float64, generator=generator)
    nodes = torch.tensor([4, 1, 4, 9, 1, 0])
    distinct = [0, 1, 4, 9]
    x, y = ((view / view.norm(dim=1, keepdim=True)).numpy()[distinct] for view in (a, b))
    exponentials = np.exp(x @ y.T / 0.2)
    expected = -np.log(np.diag(exponentials) / exponentials.sum(1)).mean()
    assert float(info_nce(a[nodes], b[nodes], nodes, 0.2)) == pytest.approx(expected, rel=1e-9)


def test_info_nce_of_identical_views_of_orthogonal_nodes():
    """The least it can be: log(1 + (n - 1) exp(-1 / temperature))."""
    view = 3 * torch.eye(6, dtype=torch.float64)
    expected = np.log(1 + 5 * np.exp(-1 / 0.5))
    assert float(info_nce(view, view, torch.arange(6), 0.5)) == pytest.approx(expected)
