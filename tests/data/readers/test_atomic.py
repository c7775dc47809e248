import polars as pl
import pytest
from polars.testing import assert_frame_equal

from recbench.data.readers import text
from recbench.errors import RecbenchError


def test_types_order_and_names(read):
    content = (
        b'u:token\tx:float\tw:token_seq\tv:float_seq\n2\t1.5\ta "b  c\t1 2.5\n01\t-1e3\t\t\n\tinf-not-read\tz\t3\n'
    )
    frame = read("recbole-atomic", content, {"v": "values", "u": "user", "w": "words"}, statistics={"table": 3})
    assert_frame_equal(
        frame,
        pl.DataFrame(
            {"values": [[1.0, 2.5], [], [3.0]], "user": ["2", "01", ""], "words": [["a", '"b', "c"], [], ["z"]]},
            schema={"values": pl.List(pl.Float64), "user": pl.String, "words": pl.List(pl.String)},
        ),
    )


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("u:token\tx:float\ncafé\t1".encode(), "utf-8"),
        ("u:token\tx:float\r\ncafé\t1\r\n".encode("latin-1"), "latin-1"),
    ],
)
def test_encodings_and_line_ends(read, content, encoding):
    assert read("recbole-atomic", content, {"u": "user", "x": "x"}, encoding=encoding).rows() == [("café", 1.0)]


def test_without_rows(read):
    frame = read("recbole-atomic", b"u:token\tx:float\n", {"x": "x", "u": "user"})
    assert frame.schema == {"x": pl.Float64, "user": pl.String}
    assert frame.height == 0


def test_several_files_and_blocks(read, monkeypatch):
    monkeypatch.setattr(text, "BLOCK_BYTES", 32)
    contents = [b"u:token\tx:float\n" + b"a\t1\n" * 50, b"x:float\tu:token\n2\tb\n"]
    frame = read("recbole-atomic", contents, {"u": "user", "x": "x"}, order="row")
    assert frame.rows() == [("a", 1.0, float(row)) for row in range(50)] + [("b", 2.0, 50.0)]


def test_the_headers_types_win_and_the_cards_agree(read):
    content = b"u:float\tx:float\n1\t\n"
    assert read("recbole-atomic", content, {"u": "user:number", "x": "x:number?"}).rows() == [(1.0, None)]
    with pytest.raises(RecbenchError, match=r"raw.txt, line 1: u is float, which the card or another file"):
        read("recbole-atomic", content, {"u": "user:token"})
    with pytest.raises(RecbenchError, match=r"1-raw.txt, line 1: u is token, which the card or another file"):
        read("recbole-atomic", [content, b"u:token\n"], {"u": "user"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"u:token\tx:float\n1\t2\n1\n3\t4\n", "line 3: 1 fields, expected 2"),
        (b"u:token\tx:float\n1\t2\n1\t2\t3\n", "line 3: 3 fields, expected 2"),
        (b"u:token\tx:float\n1\t2\n\n3\t4\n", "line 3: an empty line, expected 2"),
        (b"u:token\tx:float\n1\t2\n1\t2.x\n", "line 3: x is '2.x', expected a finite number"),
        (b"u:token\tx:float\n1\t\n", "line 2: x is '', expected a finite number"),
        (b"u:token\tx:float\n1\tnan\n", "line 2: x is 'nan', expected a finite number"),
        (b"u:token\tx:float_seq\n1\t1 2\n1\t1 b\n", "line 3: x is '1 b', expected finite numbers"),
        (b"u:token\tx:float_seq\n1\t1 2\n1\t1 inf\n", "line 3: x is '1 inf', expected finite numbers"),
        (b"u:token\tx:number\n1\t2\n", "line 1: the header has 'x:number', expected"),
        (b"u:token\tu:token\n1\t2\n", "line 1: the header has 'u:token', expected"),
        (b"u:token\tx:float\n1\t2\ncaf\xe9\t1\n", "line 3: the byte 0xe9, expected text in UTF-8"),
        (b"\n", "line 1: an empty line"),
        (b"", "line 1: the file is empty, expected a header"),
        (b"u:token\ty:float\n1\t2\n", "line 1: there is no column 'x'; found: u, y"),
    ],
)
def test_faults_are_located(read, content, message):
    with pytest.raises(RecbenchError, match=f"raw.txt, {message}"):
        read("recbole-atomic", content, {"u": "user", "x": "x"})
