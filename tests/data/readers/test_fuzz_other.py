"""Malformed bytes in lists, matrices and arrays end in the project's own error, which names file and line."""

import gzip
import io
import pickle
import re
import shutil
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from test_fuzz_text import mutated

from recbench.data.readers import read_table
from recbench.errors import RecbenchError

EXAMPLES, CASES = 50, 200
PAIRS = {"user": "user", "item": "item"}
CELLS = {"row": "user", "column": "item", "value": "rating"}
VALUES = {"row": "user", "value": "item"}


def npz():
    file = io.BytesIO()
    np.savez_compressed(file, pairs=np.arange(12, dtype=np.uint32).reshape(6, 2), other=np.ones(3))
    return file.getvalue()


def hdf5():
    h5py = pytest.importorskip("h5py")
    file = io.BytesIO()
    with h5py.File(file, "w") as archive:
        archive["ratings"] = np.eye(4)
        archive.create_dataset("packed", data=np.eye(4), compression="gzip", chunks=(2, 2))
    return file.getvalue()


def old_matrix():
    """A matrix as SciPy pickled it under Python 2, but for the text."""
    raw = pickle.dumps(csr_matrix(np.eye(4)[[0, 2, 2, 1]]), protocol=2)
    return raw.replace(b"numpy._core", b"numpy.core").replace(b"._csr", b".csr")


# Reader, further keys of the table, columns, and the contents of files that are as they should be.
TEXT = {
    "libsvm": (
        {},
        {"label": "label", "features": "f:tokens", "values": "v:numbers"},
        [b"1 2:.5 13:1\n-1 4:1e3 # x\n0\n"],
    ),
    "libsvm, pairs": ({}, {"label": "label", "1": "user", "2": "item"}, [b"1 2:1 13:1\n-1 4:1 5:1\n"]),
    "adjacency": ({}, PAIRS, [b"7 1 2 3\r\n8\r\n9 1\r\n"]),
    "adjacency, count": ({"first": "count"}, PAIRS, [b"3 1 2 3\n0\n1 1\n"]),
    "adjacency, item": ({"first": "item"}, PAIRS, [b"3 1 2 3\n0\n1 1\n"]),
    "matrix": ({}, CELLS, [b"0 3 0\n5 0\t1.5\n0 -1e1 0\n"]),
    "matrix-dense": ({}, CELLS, [b"0 3 0\n5 0\t1.5\n0 -1e1 0\n"]),
}
OTHER = {
    "adjacency, compressed": ({}, PAIRS, [gzip.compress(b"7 1 2 3\n8 1\n" * 20)]),
    "json": ({}, {"row": "user", "value": "item:number?"}, [b'[[1, 2.5], [], [null, "3", -1e2]]']),
    "json, fields": (
        {"path": ["a"], "fields": ["x", "y"]},
        {"key": "item", "y": "y"},
        [b'{"a": {"1": ["p", null], "2": ["q", "\\u00e9"]}}'],
    ),
    "simplices": (
        {},
        {"simplex": "s", "node": "n", "time": "timestamp"},
        [b"2\n1\n3\n", b"1\n2\n1\n3\n2\n1\n", b"10\n20\n-5\n"],
    ),
    "npz": ({"array": "pairs"}, {"0": "user", "1": "item"}, [npz]),
    "pickle": ({"path": [0]}, VALUES, [pickle.dumps(([[1, 2], [3], []], ["a"]), protocol=4)]),
    "pickle, dict": (
        {},
        {"key": "user", "value": "item"},
        [pickle.dumps(defaultdict(list, {1: [2, 3], 4: []}), protocol=2)],
    ),
    "pickle, matrix": ({}, CELLS, [old_matrix]),
    "pickle, array": ({}, VALUES, [pickle.dumps(np.arange(4), protocol=5)]),
    "hdf5": ({"dataset": "packed"}, CELLS, [hdf5]),
}


@pytest.fixture
def folder(tmp_path):
    """Return a folder in memory, where the machine has one."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    path = Path(tempfile.mkdtemp(dir=memory))
    yield path
    shutil.rmtree(path)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@pytest.mark.parametrize("name", TEXT | OTHER)
def test_malformed_bytes(name, card_of, folder):
    further, columns, contents = (TEXT | OTHER)[name]
    contents = [content() if callable(content) else content for content in contents]
    names = [f"raw{number}.gz" if "compressed" in name else f"raw{number}" for number in range(len(contents))]
    files = {name: folder / name for name in names}
    card = card_of(name.partition(",")[0], columns, *files, **further)
    place = rf"{re.escape(str(folder))}/raw\d(\.gz)?{', line [0-9]+' if name in TEXT else ''}"
    outcomes = Counter()

    def attempt(cases):
        for path, case in zip(files.values(), cases, strict=True):
            path.write_bytes(case)
        message = None
        try:
            read_table(card, "table", files)
        except RecbenchError as error:
            message = str(error)
        except BaseException as error:
            error.add_note(f"The files were {cases!r}")
            raise
        assert message is None or re.match(place, message), (message, cases)
        outcomes["read" if message is None else "refused"] += 1

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**64 - 1))
    def check(seed):
        rng = np.random.default_rng(seed)
        for _ in range(CASES):
            cases = list(contents)
            broken = rng.integers(len(cases))
            cases[broken] = mutated(rng, cases[broken])
            attempt(cases)

    attempt(contents)
    assert outcomes["read"], "the files that are mutated are themselves as they should be"
    check()
    assert outcomes.total() > 10_000
    # Both happen, so that neither the whole file nor its first bytes alone decide.
    assert min(outcomes["read"], outcomes["refused"]) > 100, outcomes
