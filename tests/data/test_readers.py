import hashlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from recbench import resources
from recbench.data.cards import Card, CardFile, load_card
from recbench.data.fetch import fetch
from recbench.data.readers import read_table
from recbench.errors import RecbenchError, UsageError

MIRROR = resources.mirror() or "none"
needs_coat = pytest.mark.skipif(
    not Path(MIRROR, "coat").is_dir(), reason="RECBENCH_MIRROR names no folder with the files of coat"
)


@pytest.fixture
def read(tmp_path):
    """Read bytes as the table of a card made for them."""

    def read(reader, content, columns, rows=None):
        path = tmp_path / "raw.txt"
        path.write_bytes(content)
        card = Card(
            name="sample",
            version="1",
            title="Sample",
            licence="none",
            citation="none",
            homepage="https://example.org",
            verified="made by the test",
            files={"raw.txt": CardFile(bytes=max(len(content), 1), sha256=hashlib.sha256(content).hexdigest())},
            tables={"table": {"file": "raw.txt", "reader": reader, "columns": columns}},
            statistics={"table": rows} if rows else {},
        )
        return read_table(card, "table", {"raw.txt": path})

    return read


@pytest.fixture(scope="module")
def ml_100k():
    card = load_card("ml-100k")
    files = fetch(card)
    return {table: read_table(card, table, files) for table in card.tables}


def test_ml_100k_tables(ml_100k):
    assert {table: (frame.height, *frame.columns) for table, frame in ml_100k.items()} == {
        "interactions": (100_000, "user", "item", "rating", "timestamp"),
        "users": (943, "user", "age", "gender", "occupation", "zip_code"),
        "items": (1_682, "item", "title", "release_year", "genres"),
        "triples": (91_631, "head", "relation", "tail"),
        "links": (1_598, "item", "entity"),
    }
    assert sum(frame.null_count().sum_horizontal().item() for frame in ml_100k.values()) == 0


def test_ml_100k_ratings_are_the_published_ones(ml_100k):
    interactions = ml_100k["interactions"]
    assert interactions.row(0) == ("196", "242", 3.0, 881250949.0)
    assert interactions.row(-1) == ("12", "203", 3.0, 879959583.0)
    counts = dict(interactions["rating"].value_counts().iter_rows())
    assert counts == {1.0: 6_110, 2.0: 11_370, 3.0: 27_145, 4.0: 34_174, 5.0: 21_201}
    assert interactions["user"].n_unique() == 943
    assert interactions["item"].n_unique() == 1_682


def test_ml_100k_oddities_stay_as_they_are(ml_100k):
    items = ml_100k["items"]
    assert items.row(by_predicate=pl.col("item") == "267") == ("267", ["unkonwn"], "unkonwn", ["unknown"])
    assert items.row(by_predicate=pl.col("item") == "1412")[2:] == ("V", ["Animation", "Children's"])
    assert items.row(by_predicate=pl.col("item") == "1") == (
        "1",
        ["Toy", "Story"],
        "1995",
        ["Animation", "Children's", "Comedy"],
    )


@needs_coat
@pytest.mark.parametrize(("table", "per_user"), [("interactions", 24), ("random", 16)])
def test_coat_ratings(tmp_path, monkeypatch, table, per_user):
    monkeypatch.setenv("RECBENCH_HOME", str(tmp_path))
    card = load_card("coat")
    files = fetch(card)
    frame = read_table(card, table, files)
    raw = np.loadtxt(files[card.tables[table].file])
    rebuilt = np.zeros_like(raw)
    rebuilt[frame["user"].cast(pl.Int64).to_numpy(), frame["item"].cast(pl.Int64).to_numpy()] = frame["rating"]
    np.testing.assert_array_equal(rebuilt, raw)
    assert set(frame["user"].value_counts()["count"]) == {per_user}
    assert set(frame["rating"]) == {1.0, 2.0, 3.0, 4.0, 5.0}


@needs_coat
def test_coat_propensities(tmp_path, monkeypatch):
    monkeypatch.setenv("RECBENCH_HOME", str(tmp_path))
    card = load_card("coat")
    frame = read_table(card, "propensities", fetch(card))
    assert frame.columns == ["user", "item", "propensity"]
    assert frame.row(301) == ("1", "1", pytest.approx(np.loadtxt(fetch(card)["propensities.ascii"])[1, 1]))
    assert frame["propensity"].is_between(0, 1, closed="right").all()


def test_atomic_types_order_and_names(read):
    content = (
        b'u:token\tx:float\tw:token_seq\tv:float_seq\n2\t1.5\ta "b  c\t1 2.5\n01\t-1e3\t\t\n\tinf-not-read\tz\t3\n'
    )
    frame = read("recbole-atomic", content, {"v": "values", "u": "user", "w": "words"}, rows=3)
    assert_frame_equal(
        frame,
        pl.DataFrame(
            {"values": [[1.0, 2.5], [], [3.0]], "user": ["2", "01", ""], "words": [["a", '"b', "c"], [], ["z"]]},
            schema={"values": pl.List(pl.Float64), "user": pl.String, "words": pl.List(pl.String)},
        ),
    )


@pytest.mark.parametrize(
    "content",
    ["u:token\tx:float\ncafé\t1".encode(), "u:token\tx:float\r\ncafé\t1\r\n".encode("latin-1")],
    ids=["utf-8, no last newline", "latin-1, carriage returns"],
)
def test_atomic_encodings_and_line_ends(read, content):
    assert read("recbole-atomic", content, {"u": "user", "x": "x"}).rows() == [("café", 1.0)]


def test_atomic_without_rows(read):
    frame = read("recbole-atomic", b"u:token\tx:float\n", {"x": "x", "u": "user"})
    assert frame.schema == {"x": pl.Float64, "user": pl.String}
    assert frame.height == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"u:token\tx:float\n1\t2\n1\n3\t4\n", "line 3: 1 tab-separated fields, expected 2"),
        (b"u:token\tx:float\n1\t2\n1\t2\t3\n", "line 3: 3 tab-separated fields, expected 2"),
        (b"u:token\tx:float\n1\t2\n\n3\t4\n", "line 3: 1 tab-separated fields, expected 2"),
        (b"u:token\tx:float\n1\t2\n1\t2.x\n", "line 3: x is '2.x', expected a finite number"),
        (b"u:token\tx:float\n1\t\n", "line 2: x is '', expected a finite number"),
        (b"u:token\tx:float\n1\tnan\n", "line 2: x is 'nan', expected a finite number"),
        (b"u:token\tx:float_seq\n1\t1 2\n1\t1 b\n", "line 3: x is '1 b', expected a finite number"),
        (b"u:token\tx:number\n1\t2\n", "line 1: the header has 'x:number', expected"),
        (b"u:token\tu:token\n1\t2\n", "line 1: the header has 'u:token', expected"),
        (b"", "line 1: the header has '', expected"),
        (b"u:token\ty:float\n1\t2\n", "there is no column 'x'; found: u, y"),
    ],
)
def test_atomic_faults_are_located(read, content, message):
    with pytest.raises(RecbenchError, match=f"raw.txt(, |: ){message}"):
        read("recbole-atomic", content, {"u": "user", "x": "x"})


def test_matrix_gives_the_ratings(read):
    frame = read("matrix", b"0 3 0\n5 0\t1.5\n0 0 0\n", {"item": "item", "user": "user", "rating": "rating"}, rows=3)
    assert frame.columns == ["item", "user", "rating"]
    assert frame.rows() == [("1", "0", 3.0), ("0", "1", 5.0), ("2", "1", 1.5)]


def test_dense_matrix_gives_every_cell(read):
    frame = read("matrix-dense", b"0 .5\n1e-1 2\n", {"user": "user", "item": "item", "value": "propensity"})
    assert frame.rows() == [("0", "0", 0.0), ("0", "1", 0.5), ("1", "0", 0.1), ("1", "1", 2.0)]


@pytest.mark.parametrize("reader", ["matrix", "matrix-dense"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1 2\n3\n", "line 2: 1 numbers, expected 2 as in line 1"),
        (b"1 2\n3 4 5\n", "line 2: 3 numbers, expected 2 as in line 1"),
        (b"1 2\n3 x\n", "line 2: 'x', expected a finite number"),
        (b"1 2\n3 4\nnan 0\n", "line 3: 'nan', expected a finite number"),
        (b"1 2\n\n3 4\n", "line 2: 0 numbers, expected 2 as in line 1"),
        (b"\n1 2\n", "line 1: 0 numbers, expected at least one"),
        (b"", "line 1: the file is empty"),
        (b"1 2\n# 3\n", "line 2: '#', expected a finite number"),
        (b"1 \xff\n", "line 1: '\N{REPLACEMENT CHARACTER}', expected a finite number"),
    ],
)
def test_matrix_faults_are_located(read, reader, content, message):
    with pytest.raises(RecbenchError, match=f"raw.txt, {message}"):
        read(reader, content, {"user": "user", "item": "item"})


def test_matrix_has_its_own_columns_only(read):
    with pytest.raises(RecbenchError, match="there is no column 'value'; found: user, item, rating"):
        read("matrix", b"1\n", {"value": "rating"})


def test_number_of_rows_is_the_cards(read):
    with pytest.raises(RecbenchError, match="the table table has 1 rows, expected 2 by the card"):
        read("matrix", b"0 1\n", {"user": "user"}, rows=2)


def test_unknown_table():
    with pytest.raises(UsageError, match="unknown table of the dataset coat 'interaction'; did you mean interactions"):
        read_table(load_card("coat"), "interaction", {})
