import io
import lzma
import pickle
import sys
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from recbench import resources
from recbench.errors import RecbenchError, UsageError

MIRROR = Path(resources.mirror() or "none")
VALUES = {"row": "user", "value": "item"}
KEYS = {"key": "user", "value": "item"}
CELLS = {"row": "user", "column": "item", "value": "rating"}


def original(name):
    """Return the bytes of a file of the mirror."""
    if not MIRROR.is_dir():
        pytest.skip("RECBENCH_MIRROR names no folder")
    path = MIRROR / name
    return path.read_bytes() if path.is_file() else lzma.decompress((MIRROR / f"{name}.xz").read_bytes())


def saved(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def rebuilt(frame, shape):
    matrix = np.zeros(shape)
    matrix[frame["user"].cast(int).to_numpy(), frame["item"].cast(int).to_numpy()] = frame["rating"].to_numpy()
    return matrix


def test_npz(read):
    content = saved(pairs=np.array([[3, 10], [4, 2]], dtype=">u4"), scores=np.array([[0.5], [2]], dtype=np.float16))
    assert read("npz", content, {"1": "item", "0": "user"}, array="pairs").rows() == [("10", "3"), ("2", "4")]
    assert read("npz", content, {"0": "rating"}, array="scores")["rating"].to_list() == [0.5, 2.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (saved(other=np.ones(2)), "there is no array 'pairs'; found: other"),
        (saved(pairs=np.ones(2)), r"the array 'pairs' has the shape \(2,\), expected two dimensions"),
        (saved(pairs=np.ones((2, 1))), "there is no column '1'; found: 0"),
        (saved(pairs=np.array([["a"]])), "the array 'pairs' is of the type <U1, expected numbers"),
        (saved(pairs=np.array([[{}]], dtype=object)), "the array 'pairs' cannot be read: Object arrays"),
        (saved(pairs=np.ones((9, 2)))[:-30], "not a NumPy archive"),
        (
            saved(pairs=np.ones((9, 2))).replace(b"\0\0\xf0?", b"\0\0\xf1?", 1),
            "the array 'pairs' cannot be read: Bad CRC",
        ),
        (b"user,item\n", "not a NumPy archive"),
        (b"", "not a NumPy archive"),
    ],
)
def test_npz_faults(read, content, message):
    with pytest.raises(RecbenchError, match=rf"raw\.txt: {message}"):
        read("npz", content, {"0": "user", "1": "item"}, array="pairs")


def test_npz_of_real_data(read):
    frame = read("npz", original("citeulike-a/citeulike-a.npz"), {"0": "user", "1": "item"}, array="train_data")
    assert (frame.height, frame["user"].n_unique()) == (199_435, 5_551)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("value", "columns", "rows"),
    [
        ([[1, 2], [], (3,)], VALUES, [("0", "1"), ("0", "2"), ("2", "3")]),
        (["a", "é", None], VALUES, [("0", "a"), ("1", "é"), ("2", "")]),
        ([[0.5], [1]], {"row": "user", "value": "rating"}, [("0", 0.5), ("1", 1.0)]),
        (defaultdict(list, {7: ["a"], 8: []}), KEYS, [("7", "a")]),
        (OrderedDict(x=1, y=2), KEYS, [("x", "1"), ("y", "2")]),
        (np.array([4, 5], dtype=">i2"), VALUES, [("0", "4"), ("1", "5")]),
        (np.array([[0, 2.5], [1, 0]], order="F"), CELLS, [("0", "1", 2.5), ("1", "0", 1.0)]),
        ([[np.int64(5), np.int64(6)]], VALUES, [("0", "5"), ("0", "6")]),
    ],
)
def test_pickle(read, value, columns, rows, protocol):
    assert read("pickle", pickle.dumps(value, protocol), columns).rows() == rows
    hidden = pickle.dumps(({"a": [value, {1}]}, b"unused"), protocol)
    assert read("pickle", hidden, columns, path=[0, "a", 0]).rows() == rows


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_csr_matrix(read, protocol):
    matrix = csr_matrix(([2, 0, 3], [1, 0, 0], [0, 1, 3]), shape=(2, 2))
    assert read("pickle", pickle.dumps(matrix, protocol), CELLS).rows() == [("0", "1", 2.0), ("1", "0", 3.0)]


class Harmful:
    """Calls a function with an argument when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (eval, "builtins.eval"),
        (getattr, "builtins.getattr"),
        (bytearray, "builtins.bytearray"),
        (Path, "pathlib.Path"),
        (np.load, "numpy.load"),
        (pickle.loads, "_pickle.loads"),
    ],
)
def test_pickle_runs_no_code(read, function, name):
    with pytest.raises(RecbenchError, match=rf"raw\.txt: the pickle refers to {name}, expected plain containers"):
        read("pickle", pickle.dumps([Harmful(function, "x")]), VALUES)


def bomb():
    """Return a million values in some thousand bytes: a thousand times the same list."""
    row = [1] * 1_000
    return pickle.dumps([row] * 1_000)


def broken_csr(**changes):
    matrix = csr_matrix(np.eye(3))
    for name, value in changes.items():
        setattr(matrix, name, value)
    return pickle.dumps(matrix)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a pickle"),
        (b"user item\n", "not a pickle"),
        (pickle.dumps([1, 2])[:-2], "not a pickle"),
        (
            b"\x80\x02]r\xff\xff\xff\x7f.",
            "not a pickle, or a broken one: after 2 commands a value gets the number 2147483647",
        ),
        (b"c_codecs\nencode\n(Vx\nVzlib\ntR.", "the pickle encodes text as zlib"),
        (bomb(), "1000000 values in .* bytes: the same list many times"),
        (pickle.dumps(3), r"a single value \(int\), expected a list"),
        (pickle.dumps([{1}]), "values of the types set in one column"),
        (pickle.dumps([1, "a"]), "values of the types int, str in one column"),
        (pickle.dumps([2**70]), "a value that is no text in UTF-8 or number of 64 bits"),
        (pickle.dumps(np.ones((2, 2, 2))), r"an array of the shape \(2, 2, 2\), expected a vector or a matrix"),
        (pickle.dumps(np.array([None])), "the array is of the type object, expected numbers"),
        (broken_csr(indptr=np.array([0, 2, 1, 3])), "the parts of the CSR matrix do not fit together"),
        (broken_csr(indptr=np.array([0, 1, 2, 4])), "the parts of the CSR matrix do not fit together"),
        (broken_csr(indices=np.array([0, 1, 3])), r"the CSR matrix has not the shape \(3, 3\)"),
        (broken_csr(data=np.array(["a"] * 3)), "a part of the CSR matrix is of the type <U1, expected numbers"),
        (pickle.dumps({"a": 1}), "there is no column 'row'; found: key, value"),
    ],
)
def test_pickle_faults(read, content, message):
    with pytest.raises(RecbenchError, match=rf"raw\.txt: {message}"):
        read("pickle", content, VALUES)


def test_pickle_paths_are_checked(read):
    content = pickle.dumps({"a": [1]})
    with pytest.raises(RecbenchError, match=r"raw\.txt: there is no 'b' at the top, which is of the type dict"):
        read("pickle", content, VALUES, path=["b"])
    with pytest.raises(RecbenchError, match=r"raw\.txt: there is no 1 at 'a', which is of the type list"):
        read("pickle", content, VALUES, path=["a", 1])


def test_pickles_of_python_2(read):
    for part, shape in (("cora.x", (140, 1_433)), ("cora.allx", (1_708, 1_433)), ("citeseer.allx", (2_312, 3_703))):
        content = original(f"planetoid/ind.{part}")
        expected = pickle.loads(content.replace(b"scipy.sparse.csr\n", b"scipy.sparse._csr\n"), encoding="latin1")
        np.testing.assert_array_equal(rebuilt(read("pickle", content, CELLS), shape), expected.toarray())
    labels = read("pickle", original("planetoid/ind.cora.ally"), CELLS)
    assert (labels.height, labels["item"].n_unique()) == (1_708, 7)
    graph = read("pickle", original("planetoid/ind.cora.graph"), KEYS)
    edges = {frozenset(edge) for edge in graph.rows() if edge[0] != edge[1]}
    assert (graph["user"].n_unique(), len(edges)) == (2_708, 5_278)


def test_pickled_sessions(read):
    sessions = read("pickle", original("diginetica-gcegnn/all_train_seq.txt"), VALUES)
    assert (sessions["user"].n_unique(), sessions["item"].n_unique()) == (186_670, 43_097)
    # Every prefix with the next click makes one of the rows that the papers count.
    assert sessions.height - 186_670 == 719_470
    held_out = original("diginetica-gcegnn/test.txt")
    assert read("pickle", held_out, VALUES, path=[0])["user"].n_unique() == 60_858
    assert read("pickle", held_out, VALUES, path=[1]).height == 60_858


@pytest.fixture
def hdf5():
    h5py = pytest.importorskip("h5py")
    file = io.BytesIO()
    with h5py.File(file, "w") as archive:
        archive["ratings"] = np.array([[0, 2.5, 0], [1, 0, 0]])
        archive["names"] = [b"a", b"b"]
        archive["words"] = [[b"a", b"b"]]
        archive["group/inner"] = np.eye(2, dtype=np.int8)
    return file.getvalue()


def test_hdf5(read, hdf5):
    assert read("hdf5", hdf5, CELLS, dataset="ratings").rows() == [("0", "1", 2.5), ("1", "0", 1.0)]
    assert read("hdf5", hdf5, CELLS, dataset="ratings", transposed=True).rows() == [("0", "1", 1.0), ("1", "0", 2.5)]
    assert read("hdf5", hdf5, CELLS, dataset="group/inner").rows() == [("0", "0", 1.0), ("1", "1", 1.0)]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("rating", "there is no dataset 'rating'; found: group, names, ratings, words"),
        ("group", "there is no dataset 'group'"),
        ("names", r"the dataset 'names' has the shape \(2,\), expected a matrix"),
        ("words", "the dataset 'words' is of the type .*, expected numbers"),
    ],
)
def test_hdf5_faults(read, hdf5, dataset, message):
    with pytest.raises(RecbenchError, match=rf"raw\.txt: {message}"):
        read("hdf5", hdf5, CELLS, dataset=dataset)


def test_hdf5_must_be_whole(read, hdf5):
    for content in (b"", b"1 2\n", hdf5[:-100]):
        with pytest.raises(RecbenchError, match=r"raw\.txt: not an HDF5 file, or a broken one"):
            read("hdf5", content, CELLS, dataset="ratings")


def test_hdf5_needs_h5py(read, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match=r"pip install 'recbench\[hdf5\]'"):
        read("hdf5", b"", CELLS, dataset="ratings")


def test_hdf5_of_real_data(read):
    pytest.importorskip("h5py")
    content = original("flixster-gcmc/training_test_dataset.mat")
    train, test, both = (
        read("hdf5", content, CELLS, dataset=name, transposed=True) for name in ("Otraining", "Otest", "M")
    )
    assert (train.height, test.height) == (23_556, 2_617)
    ratings = rebuilt(both, (3_000, 3_000))
    np.testing.assert_array_equal(rebuilt(train, ratings.shape) + rebuilt(test, ratings.shape), ratings != 0)
    assert (both["rating"].min(), both["rating"].max()) == (0.5, 5.0)
