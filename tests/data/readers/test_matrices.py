import numpy as np
import pytest

from recbench.data.readers import text
from recbench.errors import RecbenchError

CELLS = {"row": "user", "column": "item", "value": "rating"}


def test_matrix_gives_what_is_not_zero(read):
    frame = read("matrix", b"0 3 0\n5 0\t1.5\r\n0 0 0\n", {"column": "item", "row": "user", "value": "rating"})
    assert frame.columns == ["item", "user", "rating"]
    assert frame.rows() == [("1", "0", 3.0), ("0", "1", 5.0), ("2", "1", 1.5)]


def test_dense_matrix_gives_every_cell(read):
    frame = read("matrix-dense", b"0 .5\n1e-1 2", CELLS)
    assert frame.rows() == [("0", "0", 0.0), ("0", "1", 0.5), ("1", "0", 0.1), ("1", "1", 2.0)]


def test_rows_count_on_over_blocks(read, monkeypatch):
    matrix = np.random.default_rng(0).integers(0, 3, (50, 4))
    content = "\n".join(" ".join(map(str, row)) for row in matrix).encode()
    monkeypatch.setattr(text, "BLOCK_BYTES", 32)
    frame = read("matrix", content, CELLS)
    rebuilt = np.zeros_like(matrix)
    rebuilt[frame["user"].cast(int).to_numpy(), frame["item"].cast(int).to_numpy()] = frame["rating"].to_numpy()
    np.testing.assert_array_equal(rebuilt, matrix)
    with pytest.raises(RecbenchError, match=r"raw\.txt, line 51: 3 numbers, expected 4 as in line 1"):
        read("matrix", content + b"\n1 2 3\n", CELLS)


@pytest.mark.parametrize("reader", ["matrix", "matrix-dense"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1 2\n3\n", "line 2: 1 numbers, expected 2 as in line 1"),
        (b"1 2\n3 4 5\n", "line 2: 3 numbers, expected 2 as in line 1"),
        (b"1 2\n3 x\n", "line 2: 'x', expected a finite number"),
        (b"1 2\n3 4\nnan 0\n", "line 3: 'nan', expected a finite number"),
        (b"1 2\n3 1e999\n", "line 2: '1e999', expected a finite number"),
        (b"1 2\n\n3 4\n", "line 2: 0 numbers, expected 2 as in line 1"),
        (b"\n1 2\n", "line 1: 0 numbers, expected at least one"),
        (b"", "line 1: the file is empty"),
        (b"1 2\n# 3\n", "line 2: '#', expected a finite number"),
        (b"1 \xff\n", "line 1: the byte 0xff, expected text in UTF-8"),
    ],
)
def test_matrix_faults_are_located(read, reader, content, message):
    with pytest.raises(RecbenchError, match=rf"raw\.txt, {message}"):
        read(reader, content, CELLS)


def test_matrix_has_its_own_columns_only(read):
    with pytest.raises(RecbenchError, match="there is no column 'rating'; found: row, column, value"):
        read("matrix", b"1\n", {"rating": "rating"})
