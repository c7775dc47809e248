from pathlib import Path

import pytest
import yaml

from recbench import resources
from recbench.data.cards import BorrowedTable, Card, card_names, load_card
from recbench.errors import RecbenchError, UsageError


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Write a changed copy of the shipped card of coat where cards are looked for, and load it."""
    content = yaml.safe_load(resources.shipped("datasets", "coat.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resources, "shipped", lambda *parts: tmp_path.joinpath(*parts[1:]))

    def load(change):
        change(content)
        (tmp_path / "coat.yaml").write_text(yaml.safe_dump(content))
        return load_card("coat")

    return load


@pytest.mark.parametrize("name", card_names())
def test_every_shipped_card_is_whole(name):
    card = load_card(name)
    assert card.name == name
    if card.verified == "counted":
        assert set(card.tables) <= set(card.statistics), "every table states its number of rows"
    for file in card.files.values():
        found = file.urls or file.archive or (card.package and file.member)
        assert found or card.obtain, "every file can be had, or the card says why not"
    for table in card.tables.values():
        if isinstance(table, BorrowedTable):
            assert not isinstance(load_card(table.dataset).tables[table.table], BorrowedTable)


def test_types_of_columns():
    table = load_card("criteo-sample").tables["interactions"]
    assert table.types["label"] == ("label", "number")
    assert table.types["I1"] == ("I1", "number?")
    assert table.types["C1"] == ("C1", "token")
    assert load_card("ml-1m").tables["items"].types["genres"] == ("genres", "tokens")
    assert load_card("beauty-bert4rec").tables["interactions"].names == ["user", "item", "timestamp"]


def test_sha256_depends_on_the_files_alone():
    card = load_card("coat")
    backwards = card.model_copy(update={"files": dict(reversed(card.files.items())), "title": "another"})
    assert backwards.sha256 == card.sha256
    other = {**card.files, "test.ascii": card.files["test.ascii"].model_copy(update={"sha256": "0" * 64})}
    assert card.model_copy(update={"files": other}).sha256 != card.sha256


def test_unknown_dataset_names_the_nearest():
    with pytest.raises(UsageError, match="unknown dataset 'ml-100'; did you mean ml-100k"):
        load_card("ml-100")


@pytest.mark.parametrize("name", ["../pyproject", "/etc/passwd", ""])
def test_a_name_is_never_a_path(name):
    with pytest.raises(UsageError, match="unknown dataset"):
        load_card(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda card: card.update(licens="x"),
            r"unknown key 'licens'; did you mean licence.* \(.*coat.yaml: top level",
        ),
        (
            lambda card: card["files"]["test.ascii"].update(url="x"),
            r"unknown key 'url'; did you mean urls\? \(.*coat.yaml: files.test.ascii",
        ),
        (
            lambda card: card["tables"]["random"].update(colums={}),
            r"unknown key 'colums'; did you mean columns\? \(.*coat.yaml: tables.random\)",
        ),
        (
            lambda card: card["tables"]["random"].update(reader="npz", arry="x"),
            r"unknown key 'arry'; did you mean array\? \(.*coat.yaml: tables.random\)",
        ),
        (
            lambda card: card["tables"].update(borrowed={"dataset": "ml-1m", "tabel": "users"}),
            r"unknown key 'tabel'; did you mean table, .*coat.yaml: tables.borrowed\)",
        ),
        (
            lambda card: card.update(package={"name": "x", "version": "1", "versoin": "1"}),
            r"unknown key 'versoin'; did you mean version\? \(.*coat.yaml: package\)",
        ),
        (
            lambda card: card["tables"]["random"].update(reader="matrx"),
            r"unknown reader 'matrx'; did you mean matrix.*coat.yaml: tables.random\)",
        ),
    ],
)
def test_unknown_key(broken, change, message):
    with pytest.raises(UsageError, match=message):
        broken(change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card.pop("licence"), "coat.yaml: licence: Field required"),
        (lambda card: card["files"]["test.ascii"].update(sha256="12"), "coat.yaml: files.test.ascii.sha256: .*pattern"),
        (lambda card: card["files"]["test.ascii"].update(bytes=0), "coat.yaml: files.test.ascii.bytes: .*greater than"),
        (lambda card: card["files"].update({"../x": card["files"]["test.ascii"]}), r"coat.yaml: files.\.\./x.*pattern"),
        (
            lambda card: card["files"]["test.ascii"].pop("bytes"),
            "files.test.ascii: bytes and sha256 are given together",
        ),
        (lambda card: card["files"]["test.ascii"].update(member="a/b"), "'test.ascii' names a member, but neither"),
        (
            lambda card: card["files"]["test.ascii"].update(archive="a.zip"),
            "in the archive 'a.zip', which is not among",
        ),
        (
            lambda card: card["files"].update({"test.ascii": {}}),
            "needs the sha256 of every file.*'test.ascii' has none",
        ),
        (lambda card: card.update(access="login"), "coat.yaml: the card: .* needs 'obtain'"),
        (lambda card: card.update(verified="yes"), "coat.yaml: verified: .*'counted' or 'described'"),
        (lambda card: card["files"]["test.ascii"].update(urls=["file:///x"]), "urls.0: .*'http' or 'https'"),
        (lambda card: card["tables"]["random"].update(file="none"), "table 'random' reads 'none'"),
        (lambda card: card["tables"]["random"].update(file=[]), "coat.yaml: tables.random.file: .*at least 1 item"),
        (lambda card: card["tables"]["random"].pop("reader"), "tables.random: expected 'reader', or 'dataset' and"),
        (lambda card: card["tables"]["random"].pop("columns"), "tables.random.columns: Field required"),
        (lambda card: card["tables"]["random"].update(columns={"row": "user:int"}), "random.columns.row: .*pattern"),
        (lambda card: card["tables"].update(random="test.ascii"), "coat.yaml: tables.random: "),
        (lambda card: card["tables"].update(random={"dataset": "ml-1m"}), "tables.random.table: Field required"),
        (lambda card: card["statistics"].update(rows=3), "statistics name 'rows', which is not among the tables"),
        (lambda card: card["statistics"].update({"random.usr": 3}), "name 'random.usr', .* the columns of that table"),
        (lambda card: card.update(name="coats"), "name is 'coats', expected 'coat'"),
        (lambda card: card.update(version="../1"), "coat.yaml: version: .*pattern"),
    ],
)
def test_wrong_value_names_file_and_key(broken, change, message):
    with pytest.raises(RecbenchError, match=message) as caught:
        broken(change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"), [("name: [", "line 1"), ("- a", "the card: .*dictionary"), ("", "the card")]
)
def test_a_file_that_is_no_card(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resources, "shipped", lambda *parts: tmp_path.joinpath(*parts[1:]))
    Path(tmp_path / "x.yaml").write_text(text)
    with pytest.raises(RecbenchError, match=rf"x.yaml.*{message}") as caught:
        load_card("x")
    assert "\n" not in str(caught.value)


def test_a_card_of_the_working_folder_goes_before_the_shipped_one(tmp_path, monkeypatch):
    content = yaml.safe_load(resources.shipped("datasets", "coat.yaml").read_text())
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "coat.yaml").write_text(yaml.safe_dump({**content, "title": "mine"}))
    monkeypatch.chdir(tmp_path)
    assert load_card("coat").title == "mine"


def test_a_card_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load_card("coat").version = "2"
    assert isinstance(load_card("coat"), Card)
