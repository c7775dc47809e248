"""``recbench data``: lists that are quick and fit the terminal, statistics, own data, verification."""

import json
import shutil

import pytest

LOG = "user,item,rating\n" + "".join(f"{n % 7},{n % 11},{n % 5}\n" for n in range(60))


@pytest.fixture
def own(command, tmp_path, monkeypatch):
    """An own dataset in an own cache."""
    monkeypatch.setenv("RECBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "log.csv").write_text(LOG)
    answer = command("data", "add", "log.csv", "--title", "A log", "--licence", "CC0")
    assert answer.status == 0, answer.err
    return answer


def fits(text: str) -> bool:
    return max(map(len, text.splitlines())) <= 80


def test_add_says_what_it_made_of_the_file(own, tmp_path):
    assert fits(own.out)
    for words in ("interactions.user", "interactions: 60", "card: datasets/log.yaml", "recbench data stats log"):
        assert words in own.out
    assert (tmp_path / "datasets" / "log.yaml").is_file()


def test_add_for_programs(command, own):
    answer = json.loads(command("data", "add", "log.csv", "--force", "--column", "rating=score:token", "--json").out)
    assert answer["card"]["statistics"]["interactions"] == 60
    assert [column["name"] for column in answer["columns"]] == ["user", "item", "score"]


def test_add_refuses(command, own):
    assert "give another --name, or --force" in command("data", "add", "log.csv").complaint
    assert command("data", "add", "log.csv").status == 2
    assert command("data", "add", "none.csv").complaint == "recbench: none.csv does not exist"
    assert "is not understood" in command("data", "add", "log.csv", "--column", "x").complaint


def test_stats(command, own):
    text, data = command("data", "stats", "log"), command("data", "stats", "log", "--json")
    assert fits(text.out)
    assert "Gini" in text.out
    found = json.loads(data.out)
    assert (found["log"]["users"]["count"], found["log"]["items"]["count"], found["log"]["rows"]) == (7, 11, 60)
    assert found["counts"][0] == {"name": "interactions", "published": 60, "counted": 60}
    assert "has no table 'users'" in command("data", "stats", "log", "--table", "users").complaint


@pytest.mark.usefixtures("mirrored")
def test_stats_of_real_data(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = command("data", "stats", "ml-100k").out
    assert fits(text)
    for words in ("1,682", "1998-04-22", "WARNING: timestamps look batch-inserted"):
        assert words in text
    facts = command("data", "stats", "ml-100k", "--table", "triples").out
    assert fits(facts)
    assert "91,631" in facts


@pytest.mark.usefixtures("mirrored")
def test_rank_features(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = command("data", "rank-features", "ctr/ml-100k", "--order", "2", "--top", "3")
    assert text.status == 0
    assert fits(text.out)
    assert "33 more are left out" in text.out
    ranked = json.loads(command("data", "rank-features", "ctr/ml-100k", "--json").out)
    assert len(ranked) == 8
    assert ranked[0]["fields"] == ["item"]
    assert set(ranked[0]) == {"fields", "cardinality", "score", "information"}


def test_rank_features_refuses(command):
    answer = command("data", "rank-features", "topn/ml-100k")
    assert answer.status == 2
    assert "topn/ml-100k is a topn benchmark" in answer.complaint
    assert "unknown benchmark 'ctr/ml-100'" in command("data", "rank-features", "ctr/ml-100").complaint
    assert command("data", "rank-features", "ctr/ml-100k", "--order", "0").status == 2


def test_list_fits_and_reads_no_file(command, own, monkeypatch):
    def hashed(*_):
        raise AssertionError("a file was read")

    monkeypatch.setattr("recbench.resources.file_sha256", hashed)
    text = command("data", "list").out
    assert fits(text)
    rows = json.loads(command("data", "list", "--json").out)
    assert len(rows) > 20
    assert all(row["name"] in text for row in rows)
    (row,) = (row for row in rows if row["name"] == "log")
    assert (row["verified"], row["cached"], row["licence"], row["bytes"]) == ("counted", "yes", "CC0", len(LOG))
    assert {row["verified"] for row in rows} == {"counted", "described"}


def test_list_of_some(command, own):
    rows = json.loads(command("data", "list", "a LOG", "--json").out)
    assert [row["name"] for row in rows] == ["log"]
    text = command("data", "list", "log").out
    assert "A log" in text
    assert fits(text)
    assert "no dataset has 'zzz'" in command("data", "list", "zzz").complaint


def test_info_says_how_to_obtain(command, own, tmp_path):
    import yaml

    said = yaml.safe_load(command("data", "info", "log").out)
    assert list(said)[:6] == ["name", "version", "title", "access", "obtain", "put files in"]
    assert said["put files in"] == str(tmp_path / "home" / "datasets" / "log" / said["version"])
    assert json.loads(command("data", "info", "log", "--json").out)["package"] is None


def test_verify_names_what_differs(command, own, tmp_path):
    answer = command("data", "verify")
    assert (answer.status, answer.out.splitlines()[0]) == (0, "log: all files verified")
    (cached,) = (tmp_path / "home" / "datasets").rglob("log.csv")
    cached.write_text(LOG + "1,1,1\n")
    answer = command("data", "verify", "log", "--json")
    assert answer.status == 1
    assert "1 files differ from their cards" in answer.complaint
    (finding,) = json.loads(answer.out)["raw"]["log"]
    assert finding.startswith(f"{cached} has ")


def test_verify_looks_at_prepared_data_too(command, own, tmp_path):
    import numpy as np

    from recbench.data.store import prepared

    def build(writer):
        writer.write("train", "rows", np.arange(5))
        return {}

    folder = tmp_path / "home" / "prepared" / "log-x-1"
    prepared(folder, build)
    answer = command("data", "verify")
    assert answer.status == 0
    assert "prepared log-x-1: all arrays verified" in answer.out
    shutil.copy(folder / "manifest.json", folder / "train" / "rows.npy")
    answer = command("data", "verify")
    assert answer.status == 1
    assert "1 prepared arrays differ" in answer.complaint
    assert f"{folder / 'train' / 'rows.npy'} has sha256" in answer.out
    assert "prepared" not in command("data", "verify", "log").out


def test_help(command):
    for words in ("list", "info", "stats", "add", "fetch", "verify", "rank-features"):
        answer = command("data", words, "--help")
        assert answer.status == 0
        assert "Usage" in answer.out
