"""Malformed bytes: every reader of lists, matrices and binary containers ends with a table or its own error."""

import gzip
import io
import pickle
import re
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from recbench.data.readers import read_batches
from recbench.errors import RecbenchError

EXAMPLES, BATCH = 100, 100
NASTY = [b"\n", b"\r", b"\0", b" ", b":", b"-1", b"nan", b"1e999", b"99999999999999999999", b"\xff", b"{", b"[[", b'"', b"."]


def mutated(content, generator):
    """Return the content with some bytes changed, deleted, inserted, repeated or cut off, or random bytes."""
    kind = generator.integers(8)
    start, end = np.sort(generator.integers(0, len(content) + 1, 2))
    if kind == 0:
        return generator.bytes(int(generator.integers(64)))
    if kind == 1:
        return content[:end]
    if kind == 2:
        return content[:start] + content[end:]
    if kind == 3:
        return content[:end] + content[start:]
    if kind == 4:
        return content[:start] + NASTY[generator.integers(len(NASTY))] + content[start:]
    if kind == 5:
        return content[:start] + generator.bytes(int(generator.integers(1, 9))) + content[start:]
    changed = np.frombuffer(content, dtype=np.uint8).copy()
    places = generator.integers(0, changed.size, generator.integers(1, 5))
    changed[places] = generator.integers(0, 256, places.size) if kind == 6 else changed[places] ^ (1 << places % 8)
    return changed.tobytes()


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


MATRIX = csr_matrix(np.eye(4)[[0, 2, 2, 1]])
OLD_MATRIX = pickle.dumps(MATRIX, protocol=2).replace(b"numpy._core", b"numpy.core").replace(b"._csr", b".csr")
CELLS = {"row": "user", "column": "item", "value": "rating"}
VALUES = {"row": "user", "value": "item"}

# Name -> reader, the table's keys, its columns, the contents of its files, and whether every fault is on a line.
CASES = {
    "libsvm": ("libsvm", {}, {"label": "label", "features": "f:tokens", "values": "v:numbers"}, [b"1 2:.5 13:1\n-1 4:1e3 # x\n0\n"], 1),
    "libsvm-fields": ("libsvm", {}, {"label": "label", "1": "user", "2": "item"}, [b"1 2:1 13:1\n-1 4:1 5:1\n"], 1),
    "adjacency": ("adjacency", {}, {"user": "user", "item": "item"}, [b"7 1 2 3\r\n8\r\n9 1\r\n"], 1),
    "adjacency-count": ("adjacency", {"first": "count"}, {"user": "user", "item": "item"}, [b"3 1 2 3\n0\n1 1\n"], 1),
    "json": ("json", {}, {"row": "user", "value": "item:number?"}, [b'[[1, 2.5], [], [null, "3", -1e2, true]]'], 0),
    "json-fields": ("json", {"path": ["a"], "fields": ["x", "y"]}, {"key": "item", "y": "y"}, [b'{"a": {"1": ["p", null], "2": ["q", "\\u00e9"]}}'], 0),
    "simplices": ("simplices", {}, {"simplex": "s", "node": "n", "time": "timestamp"}, [b"2\n1\n3\n", b"1\n2\n1\n3\n2\n1\n", b"10\n20\n-5\n"], 0),
    "matrix": ("matrix", {}, CELLS, [b"0 3 0\n5 0\t1.5\n0 -1e1 0\n"], 1),
    "matrix-dense": ("matrix-dense", {}, CELLS, [b"0 3 0\n5 0\t1.5\n0 -1e1 0\n"], 1),
    "npz": ("npz", {"array": "pairs"}, {"0": "user", "1": "item"}, [npz], 0),
    "pickle": ("pickle", {"path": [0]}, VALUES, [pickle.dumps(([[1, 2], [3], []], ["a"]), protocol=4)], 0),
    "pickle-dict": ("pickle", {}, {"key": "user", "value": "item"}, [pickle.dumps(defaultdict(list, {1: [2, 3], 4: []}), protocol=2)], 0),
    "pickle-matrix": ("pickle", {}, CELLS, [OLD_MATRIX], 0),
    "pickle-array": ("pickle", {}, VALUES, [pickle.dumps(np.arange(4), protocol=5)], 0),
    "hdf5": ("hdf5", {"dataset": "packed"}, CELLS, [hdf5], 0),
}  # fmt: skip


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


@pytest.mark.parametrize("name", CASES)
def test_malformed_bytes_give_a_table_or_the_own_error(name, card_of, folder):
    reader, keys, columns, contents, on_lines = CASES[name]
    contents = [content() if callable(content) else content for content in contents]
    files = {f"raw-{number}.bin": folder / f"raw-{number}.bin" for number in range(len(contents))}
    card = card_of(reader, columns, *files, **keys)
    outcomes = {"table": 0, "error": 0}

    def attempt():
        try:
            for batch in read_batches(card, "table", files):
                assert batch.height >= 0
        except RecbenchError as error:
            outcomes["error"] += 1
            assert re.search(r"raw-\d\.bin, line \d+" if on_lines else r"raw-\d\.bin", str(error)), error
        else:
            outcomes["table"] += 1

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**64 - 1))
    def batch(seed):
        generator = np.random.default_rng(seed)
        for _ in range(BATCH):
            broken = generator.integers(len(contents))
            for number, (content, path) in enumerate(zip(contents, files.values(), strict=True)):
                path.write_bytes(mutated(content, generator) if number == broken else content)
            attempt()

    for content, path in zip(contents, files.values(), strict=True):
        path.write_bytes(content)
    attempt()
    assert outcomes == {"table": 1, "error": 0}, "the file that is mutated must itself be fine"
    batch()
    assert sum(outcomes.values()) > EXAMPLES * BATCH
    assert outcomes["error"] > EXAMPLES


def test_malformed_compressed_text(card_of, folder):
    path = folder / "raw.txt.gz"
    card = card_of("adjacency", {"user": "user"}, path.name)
    content = gzip.compress(b"7 1 2 3\n8 1\n" * 50)
    generator = np.random.default_rng(0)
    for _ in range(BATCH):
        path.write_bytes(mutated(content, generator))
        try:
            list(read_batches(card, "table", {path.name: path}))
        except RecbenchError as error:
            assert "raw.txt.gz" in str(error)
