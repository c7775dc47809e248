"""Own files become cards: what is inferred, what is refused, and that a failure leaves nothing."""

import gzip
import json
import lzma
import os
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from recbench import resources
from recbench.data.cards import card_names, load_card
from recbench.data.files.fetch import fetch, verify
from recbench.data.own.adding import add, parse_columns
from recbench.data.readers import read_table
from recbench.data.source import Source
from recbench.errors import RecbenchError, UsageError

MIRROR = Path(resources.mirror() or "none")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Give every test an empty cache and an empty working folder."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("RECBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RECBENCH_OFFLINE", "1")
    monkeypatch.delenv("RECBENCH_MIRROR", raising=False)
    return work


def write(name: str, content: str | bytes) -> Path:
    path = Path("raw", name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def table(card, name="interactions"):
    """Read a table as any other part of the package does: by the name of the dataset."""
    return Source(load_card(card.name)).table(name)


def nothing_left() -> bool:
    home = resources.home()
    return not list(Path("datasets").glob("*")) and not [path for path in home.rglob("*") if path.is_file()]


def test_a_card_is_complete(tmp_path):
    path = write(
        "My Log.csv", "userId,movieId,stars,ts,price,city\n1,10,4.5,1500000000,1.5,Rome\n2,11,3,1500000001,,\n"
    )
    added = add([path])
    card = load_card("my-log")
    assert card == added.card
    assert added.path == Path("datasets/my-log.yaml")
    assert card.verified == "counted"
    assert card.statistics == {"interactions": 2, "interactions.user": 2, "interactions.item": 2}
    assert card.files["My_Log.csv"].bytes == path.stat().st_size
    path.unlink()  # the cache has it
    assert verify(card) == []
    assert fetch(card)["My_Log.csv"].parent == tmp_path / "home" / "datasets" / "my-log" / card.version
    expected = {
        "user": ["1", "2"], "item": ["10", "11"], "rating": [4.5, 3.0], "timestamp": [1.5e9, 1.5e9 + 1],
        "price": [1.5, None], "city": ["Rome", ""],
    }  # fmt: skip
    assert table(card).to_dict(as_series=False) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "user_id,item_id,label\nu,i,1\nv,j,0\n"),
        ("a.tsv", "uid\tiid\tclick\nu\ti\t1\nv\tj\t0\n"),
        ("a.txt", "USER::asin::Clicked\nu::i::1\nv::j::0\n"),
        ("a.dat", "user|item|target\nu|i|1\nv|j|0\n"),
        ("a.csv", "user;item;label\r\nu;i;1\r\nv;j;0\r\n"),
        ("a.csv", '"user","item","label"\n"u","i","1"\n"v","j","0"\n'),
        ("a.inter", "user_id:token\titem_id:token\tlabel:float\nu\ti\t1\nv\tj\t0\n"),
        ("a.jsonl", '{"user": "u", "item": "i", "label": 1}\n{"user": "v", "item": "j", "label": 0}\n'),
    ],
)
def test_forms_of_text(name, text):
    card = add([write(name, text)], name="own").card
    expected = pl.DataFrame({"user": ["u", "v"], "item": ["i", "j"], "label": [1.0, 0.0]})
    assert_frame_equal(table(card), expected)


def test_csv_parquet_and_compressed_files_give_equal_tables():
    frame = pl.DataFrame(
        {
            "user_id": [3, 1, 2], "item_id": ["x, y", 'z "q"', "é"], "rating": [1.0, 2.5, 3.0],
            "timestamp": [1_500_000_000, 1_500_000_001, 1_500_000_002], "price": [0.5, None, 2.0],
        }
    )  # fmt: skip
    frame.write_parquet(write("p.parquet", ""))
    frame.write_csv(write("c.csv", ""))
    text = Path("raw/c.csv").read_bytes()
    latin = text.decode().encode("latin-1")
    paths = [
        Path("raw/p.parquet"), Path("raw/c.csv"), write("g.csv.gz", gzip.compress(text)),
        write("x.csv.xz", lzma.compress(text)), write("l.csv", latin),
    ]  # fmt: skip
    first, *others = [table(add([path]).card) for path in paths]
    assert first.columns == ["user", "item", "rating", "timestamp", "price"]
    for other in others:
        assert_frame_equal(first, other)
    assert load_card("l").tables["interactions"].encoding == "latin-1"


def test_columns_that_no_reader_takes_are_left_out():
    frame = pl.DataFrame({"user": [1], "item": [2], "when": [0]}).with_columns(pl.col("when").cast(pl.Datetime))
    frame.with_columns(tags=pl.lit(["a", "b"]), vector=pl.lit([0.5, 1.0])).write_parquet(write("p.parquet", ""))
    added = add([Path("raw/p.parquet")])
    assert [column.source for column in added.columns if not column.table] == ["when"]
    read = {"user": ["1"], "item": ["2"], "tags": [["a", "b"]], "vector": [[0.5, 1.0]]}
    assert table(added.card).to_dict(as_series=False) == read


def test_names_of_features():
    path = write("f.csv", "user,item,Item Name,item name,date,weight\n1,2,a,b,2020-01-01,heavy\n")
    columns = add([path]).card.tables["interactions"].columns
    assert list(columns.values()) == ["user", "item", "item_name", "item_name_2", "date", "weight_text"]


def test_given_columns_go_before_guesses():
    path = write("g.csv", "uid,user,iid,age\n1,a,x,20\n2,b,y,30\n")
    with pytest.raises(UsageError, match="uid and user may each be the user; say which, as in --column uid=user"):
        add([path])
    card = add([path], columns=parse_columns(["uid=user", "age=age:number"])).card
    expected = {"user": ["1", "2"], "user_2": ["a", "b"], "item": ["x", "y"], "age": [20.0, 30.0]}
    assert table(card).to_dict(as_series=False) == expected
    with pytest.raises(UsageError, match="unknown column 'ages'; did you mean age"):
        add([path], name="other", columns={"ages": "age", "uid": "user"})


def test_a_file_without_header():
    path = write("u.data", "196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
    with pytest.raises(UsageError, match=r"it has 1 \('196'\), 2 \('242'\), .* as in --column 1=user --column 2=item"):
        add([path])
    assert nothing_left()
    given = parse_columns(["1=user", "2=item", "3=rating", "4=timestamp"])
    assert table(add([path], columns=given).card)["user"].to_list() == ["196", "186"]


@pytest.mark.usefixtures("mirrored")
def test_real_csv():
    path = write("ratings.csv.xz", (MIRROR / "ml-latest-small/ratings.csv.xz").read_bytes())
    card = add([path], name="mls").card
    assert card.statistics == {"interactions": 100_004, "interactions.user": 671, "interactions.item": 9066}
    assert table(card).columns == ["user", "item", "rating", "timestamp"]


@pytest.mark.usefixtures("mirrored")
def test_real_libfm():
    paths = [MIRROR / "frappe" / f"frappe.{part}.libfm.xz" for part in ("validation", "test")]
    card = add(paths, name="fr", columns={"1": "user", "2": "item"}).card
    assert list(card.tables) == ["valid", "test"]
    assert (card.statistics["valid"], card.statistics["test"]) == (57_722, 28_860)
    assert table(card, "test").columns[:4] == ["label", "user", "item", "field_3"]


@pytest.mark.usefixtures("mirrored")
def test_a_real_file_with_quotes_and_text():
    card = add([write("movies.csv.xz", (MIRROR / "ml-latest-small/movies.csv.xz").read_bytes())]).card
    assert card.statistics == {"items": 9125, "items.item": 9125}
    assert "American President, The (1995)" in table(card, "items")["title"].to_list()


def test_real_atomic_files(monkeypatch, tmp_path):
    monkeypatch.undo()  # the session's cache
    paths = fetch(load_card("ml-100k"), [f"ml-100k.{part}" for part in ("inter", "user", "item", "kg", "link")])
    shipped = Source(load_card("ml-100k")).table("interactions")
    monkeypatch.setenv("RECBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    card = add(list(paths.values()), name="hundred").card
    assert list(card.tables) == ["interactions", "users", "items", "triples", "links"]
    counted = {"interactions": 100_000, "interactions.user": 943, "interactions.item": 1682, "triples": 91_631}
    assert counted.items() <= card.statistics.items()
    assert_frame_equal(read_table(card, "interactions", fetch(card)), shipped)


def test_parts_and_other_tables():
    paths = [write(f"{part}.txt", "head\trelation\ttail\na\tr\tb\n") for part in ("train", "valid", "test")]
    assert list(add(paths, name="facts").card.tables) == ["train", "valid", "test"]
    log, more = write("log.csv", "user,item\n1,2\n"), write("more.csv", "user,item\n1,2\n")
    assert list(add([log, more], name="two").card.tables) == ["log_csv", "more_csv"]
    assert list(add([write("train.csv", "user,item\n1,2\n")]).card.tables) == ["interactions"]


def test_libsvm_with_values():
    card = add([write("rank.svm", "1 3:0.5 7:2\n0 1:1\n")]).card
    assert table(card).to_dict(as_series=False) == {
        "label": [1.0, 0.0], "features": [["3", "7"], ["1"]], "values": [[0.5, 2.0], [1.0]],
    }  # fmt: skip


def test_a_card_is_replaced_only_by_force():
    path = write("a.csv", "user,item\n1,2\n")
    old = add([path]).card
    write("a.csv", "user,item\n1,2\n3,4\n")
    with pytest.raises(UsageError, match="there is a card of the dataset 'a'"):
        add([path])
    assert load_card("a") == old
    new = add([path], force=True, title="New", licence="CC0").card
    assert (load_card("a").title, new.licence, new.version != old.version) == ("New", "CC0", True)
    assert verify(old) == verify(new) == []
    with pytest.raises(UsageError, match="there is a card of the dataset 'ml-100k'"):
        add([path], name="ml-100k")


@pytest.mark.parametrize(
    ("content", "error", "sentence"),
    [
        ("", UsageError, "a.csv is empty"),
        ("user,item\n", RecbenchError, "a.csv has one line"),
        ("user,item\n1,2\n3\n", RecbenchError, "a.csv, line 3: 1 fields, expected 2"),
        ("colour,size\nred,1\n", UsageError, "no column is known to be a user, .* it has colour, size; "),
        ("user,item,item\n1,2,3\n", RecbenchError, "the column 'item' more than once"),
        ("just text\nand more text here\n", RecbenchError, "a.csv, line 2: 4 fields, expected 2"),
        ("word\nword\n", RecbenchError, "one column, expected a table"),
        ("user,item,rating\n1,2,3\n1,2,\n", RecbenchError, "a.csv, line 3: rating is '', expected a finite number"),
        ('{"user": 1, "item": 2}\n{"user": 1\n', RecbenchError, "expected one JSON object a line"),
        ('[{"user": 1, "item": 2}]\n', RecbenchError, "a JSON list, expected JSON lines"),
        (b"user,item\n\x00,2\n", RecbenchError, "line 2: a NUL byte"),
        (b"PAR1 and no more", RecbenchError, "cannot be read as Parquet"),
        ("1 2:1 3:1\n0 x:1\n", RecbenchError, "line 2"),
    ],
)
def test_bad_files(content, error, sentence):
    path = write("a.csv", content)
    with pytest.raises(error, match=sentence) as raised:
        add([path])
    assert type(raised.value) is error
    assert nothing_left()


def test_bad_requests():
    path = write("a.csv", "user,item\n1,2\n")
    other = Path("other") / "a.csv"
    other.parent.mkdir()
    other.write_text("user,item\n1,2\n")
    for paths, name, sentence in [
        ([Path("none.csv")], None, "none.csv does not exist"),
        ([Path("raw")], None, "raw is not a file"),
        ([path, other], None, "have the same name"),
        ([path], "../a", "'../a' cannot be the name of a dataset"),
        ([path], "", None),
    ]:
        if sentence:
            with pytest.raises(UsageError, match=sentence):
                add(paths, name=name)
    for text in ("a", "=user", "a=", "a=user:text", "a=b c"):
        with pytest.raises(UsageError, match="is not understood; expected FILECOLUMN=NAME"):
            parse_columns([text])
    assert nothing_left()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_cannot_be_written(folder):
    path = write("a.csv", "user,item\n1,2\n")
    folder.chmod(0o500)
    try:
        with pytest.raises(RecbenchError, match="cannot add the dataset"):
            add([path])
    finally:
        folder.chmod(0o700)
    assert nothing_left()


def test_a_file_in_the_way_of_the_cards():
    path = write("a.csv", "user,item\n1,2\n")
    Path("datasets").write_text("mine")
    with pytest.raises(RecbenchError, match="cannot add the dataset: datasets: "):
        add([path])
    assert nothing_left()
    assert "a" not in card_names()


def test_columns_are_told():
    added = add([write("a.csv", "user,item,note\n1,2,x\n")])
    told = [(column.source, column.table, column.name, column.type) for column in added.columns]
    assert told == [(name, "interactions", name, "token") for name in ("user", "item", "note")]
    assert json.loads(added.card.model_dump_json())["access"] == "open"
