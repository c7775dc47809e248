"""What holds for every reader: batches, columns, order, borrowed tables, numbers of rows."""

import pytest
import yaml

from recbench.data.cards import load_card
from recbench.data.files.fetch import fetch
from recbench.data.readers import read_table
from recbench.data.source import Source
from recbench.errors import RecbenchError, UsageError

COLUMNS = {"u": "user", "x": "rating"}


def test_files_are_read_one_after_the_other(read):
    frame = read("csv", [b"u,x\na,1\n", b"x,u\n2,b\n", b"u,x\n"], COLUMNS, order="row")
    assert frame.rows() == [("a", 1.0, 0.0), ("b", 2.0, 1.0)]


def test_faults_name_the_file_they_are_in(read):
    with pytest.raises(RecbenchError, match=r"1-raw.txt, line 3: x is 'z'"):
        read("csv", [b"u,x\na,1\n", b"u,x\na,1\nb,z\n"], COLUMNS)


@pytest.mark.parametrize(
    ("wanted", "names"), [(None, ["user", "rating", "row"]), ({"rating"}, ["rating"]), ({"row"}, ["row"]), (set(), [])]
)
def test_only_the_wanted_columns(batches, wanted, names):
    # The broken number is not looked at where nobody wants it.
    rating = b"1" if "rating" in names else b"z"
    (frame,) = batches("csv", b"u,x\na," + rating + b"\nb,2\n", COLUMNS, wanted, order="row")
    assert frame.columns == names
    if "row" in names:
        assert frame["row"].to_list() == [0.0, 1.0]


def test_without_rows_there_is_one_batch(batches):
    (frame,) = batches("csv", b"u,x\n", COLUMNS, {"row", "user"}, order="row")
    assert dict(frame.schema) == {"user": frame.schema["user"], "row": frame.schema["row"]}
    assert frame.height == 0


def test_unknown_columns_and_tables(batches, card_of):
    with pytest.raises(UsageError, match="unknown column of the table table 'ratings'; did you mean rating"):
        list(batches("csv", b"u,x\n", COLUMNS, {"ratings"}))
    with pytest.raises(UsageError, match="unknown table of the dataset sample 'tables'; did you mean table"):
        read_table(card_of("csv", COLUMNS, "raw.txt"), "tables", {})


def test_the_number_of_rows_is_the_cards(read, card_of, tmp_path):
    assert read("csv", b"u,x\na,1\n", COLUMNS, statistics={"table": 1}).height == 1
    with pytest.raises(RecbenchError, match=r"raw.txt: the table table has 1 rows, expected 2 by the card"):
        read("csv", b"u,x\na,1\n", COLUMNS, statistics={"table": 2})
    # A described card's figures are of files that may differ.
    described = card_of("csv", COLUMNS, "raw.txt", statistics={"table": 2}).model_copy(update={"verified": "described"})
    assert read_table(described, "table", {"raw.txt": tmp_path / "raw.txt"}).height == 1


def test_a_missing_file_is_named(card_of, tmp_path):
    for reader in ("csv", "recbole-atomic", "json-lines", "parquet"):
        with pytest.raises(RecbenchError, match=r"gone.txt: cannot be read"):
            read_table(card_of(reader, COLUMNS, "gone.txt"), "table", {"gone.txt": tmp_path / "gone.txt"})


def test_borrowed_tables(card_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RECBENCH_MIRROR", str(tmp_path / "mirror"))
    content = b"u,x\na,1\n"
    lender = card_of("csv", COLUMNS, "raw.txt").model_copy(update={"name": "lender", "verified": "described"})
    values = lender.model_dump(mode="json", exclude_none=True)
    values["files"]["raw.txt"] = {}
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "lender.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "mirror" / "lender").mkdir(parents=True)
    (tmp_path / "mirror" / "lender" / "raw.txt").write_bytes(content)

    def borrower(table):
        tables = {"mine": {"dataset": "lender", "table": table}}
        return type(lender).model_validate({**values, "name": "borrower", "tables": tables})

    assert Source(borrower("table")).table("mine").rows() == [("a", 1.0)]
    assert Source(borrower("table")).columns("mine") == ["user", "rating"]
    assert [frame.columns for frame in Source(borrower("table")).batches("mine", {"user"})] == [["user"]]
    assert Source(borrower("table")).sha256(["mine"]) == Source(load_card("lender")).sha256(["table"])
    with pytest.raises(RecbenchError, match="the table mine of the dataset borrower is borrowed from the table other"):
        Source(borrower("other")).table("mine")
    with pytest.raises(RecbenchError, match="is read from the card it is borrowed from"):
        read_table(borrower("table"), "mine", {})


@pytest.fixture(scope="module")
def ml_100k():
    card = load_card("ml-100k")
    tables = ("interactions", "users", "items", "triples", "links")
    return {table: read_table(card, table, fetch(card, card.tables[table].file)) for table in tables}


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

    def item(name):
        return items.filter(items["item"] == name).row(0)

    assert item("267") == ("267", ["unkonwn"], "unkonwn", ["unknown"])
    assert item("1412")[2:] == ("V", ["Animation", "Children's"])
    assert item("1") == ("1", ["Toy", "Story"], "1995", ["Animation", "Children's", "Comedy"])
