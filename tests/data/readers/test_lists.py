import gzip
import io
import json
import lzma
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_svmlight_file

from recbench import resources
from recbench.data.readers import text
from recbench.errors import RecbenchError

MIRROR = Path(resources.mirror() or "none")
PAIRS = {"user": "user", "item": "item"}
ROWS = {"row": "user", "value": "item"}
KEYS = {"key": "user", "value": "item"}
SIMPLICES = {"simplex": "simplex", "node": "node", "time": "timestamp"}


def original(name):
    """Return the bytes of a file of the mirror."""
    if not MIRROR.is_dir():
        pytest.skip("RECBENCH_MIRROR names no folder")
    return lzma.decompress((MIRROR / f"{name}.xz").read_bytes())


def refused(read, message, *arguments, **keys):
    with pytest.raises(RecbenchError, match=rf"raw\.txt{message}"):
        read(*arguments, **keys)


def test_libsvm_labels_features_values(read):
    content = b"+1.5 007:.5 13:1e3 # 2:9\n-1\n0\t4:-2.\r\n"
    frame = read("libsvm", content, {"label": "label", "features": "f:tokens", "values": "v:numbers"})
    assert frame.rows() == [(1.5, ["007", "13"], [0.5, 1000.0]), (-1.0, [], []), (0.0, ["4"], [-2.0])]


def test_libsvm_pairs_as_columns(read, monkeypatch):
    columns = {"2": "item", "label": "label", "1": "user"}
    monkeypatch.setattr(text, "BLOCK_BYTES", 16)
    assert read("libsvm", b"1 3:1 4:1\n-1 5:1 6:1\n", columns).rows() == [("4", 1.0, "3"), ("6", -1.0, "5")]
    refused(read, ", line 3: 1 pairs, expected 2 as in line 1", "libsvm", b"1 3:1 4:1\n" * 2 + b"1 5:1\n", columns)
    refused(read, ", line 1: there is no column '2'; found: label, features, values, 1", "libsvm", b"1 3:1\n", columns)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "no label"),
        (b"# 1", "no label"),
        (b"x 1:1", "the label is 'x', expected a number"),
        (b"nan 1:1", "the label is 'nan', expected a number"),
        (b"1 qid:3 1:1", "'qid:3': query ids are not read"),
        (b"1 1:1 2", "'2', expected `id:value`"),
        (b"1 -1:1", "'-1:1', expected"),
        (b"1 1.0:1", "'1.0:1', expected"),
        (b"1 1:inf", "'1:inf', expected"),
        (b"1 1:2:3", "'1:2:3', expected"),
        (b"1 1:1e999", "values is"),
        (b"1e999 1:1", "label is '1e999', expected a finite number"),
    ],
)
def test_libsvm_faults_are_located(read, line, message):
    columns = {"label": "label", "values": "values:numbers"}
    refused(read, f", line 2: .*({message})", "libsvm", b"1 1:1\n" + line + b"\n1 1:1\n", columns)


def test_libsvm_equals_scikit_learn(read):
    content = b"".join(original("frappe/frappe.test.libfm").splitlines(keepends=True)[:5_000])
    frame = read("libsvm", content, {"label": "label", "features": "f:tokens", "values": "v:numbers", "1": "user"})
    expected, labels = load_svmlight_file(io.BytesIO(content))
    np.testing.assert_array_equal(frame["label"], labels)
    np.testing.assert_array_equal(frame["f"].explode().cast(int), expected.indices)
    np.testing.assert_array_equal(frame["v"].explode(), expected.data)
    np.testing.assert_array_equal(frame["user"].cast(int), expected.indices[expected.indptr[:-1]])


@pytest.mark.parametrize(
    ("first", "rows"),
    [
        ("user", [("2", "5"), ("2", "6"), ("1", "7")]),
        ("count", [("0", "5"), ("0", "6"), ("2", "7")]),
        ("item", [("0", "2"), ("0", "5"), ("0", "6"), ("1", "0"), ("2", "1"), ("2", "7")]),
    ],
)
@pytest.mark.parametrize("block", [8, 1 << 20])
def test_adjacency(read, monkeypatch, first, rows, block):
    monkeypatch.setattr(text, "BLOCK_BYTES", block)
    assert read("adjacency", b"2 5  6\r\n0\r\n1\t7 ", PAIRS, first=first).rows() == rows


@pytest.mark.parametrize("first", ["user", "count", "item"])
def test_adjacency_has_no_empty_lines(read, first):
    refused(read, ", line 2: an empty line, expected", "adjacency", b"1 2\n \n1 3\n", PAIRS, first=first)


@pytest.mark.parametrize(("line", "found"), [(b"2 1", 1), (b"0 1", 1), (b"x 1", 1), (b"-1", 0), (b"99999999999 1", 1)])
def test_adjacency_counts_are_checked(read, line, found):
    message = f", line 3: {found} items follow, but the line begins with '{line.split()[0].decode()}'"
    refused(read, message, "adjacency", b"1 2\n0\n" + line + b"\n", PAIRS, first="count")


def test_adjacency_of_real_data(read):
    content = original("ml-1m-ultragcn/test.txt")
    frame = read("adjacency", content, PAIRS)
    expected = [(line.split()[0], item) for line in content.decode().splitlines() for item in line.split()[1:]]
    assert frame.rows() == expected
    assert (frame.height, frame["user"].n_unique()) == (99_455, 6_022)
    likes = read("adjacency", original("citeulike-a/cvae/users.dat"), PAIRS, first="count")
    assert (likes.height, likes["user"].n_unique(), likes["item"].n_unique()) == (204_986, 5_551, 16_980)


def test_json_lists(read):
    assert read("json", b'[[1, 2.50], [], [null, "a"]]', ROWS).rows() == [
        ("0", "1"),
        ("0", "2.50"),
        ("2", ""),
        ("2", "a"),
    ]
    assert read("json", b'["a", "b"]', ROWS).rows() == [("0", "a"), ("1", "b")]
    assert read("json", b"[]", ROWS).rows() == []


def test_json_objects(read):
    assert read("json", b'{"a": 12345678901234567890, "b": null}', KEYS).rows() == [
        ("a", "12345678901234567890"),
        ("b", ""),
    ]
    content = '\ufeff{"x": {"y": {"a": ["é"], "b": ["1", "2"]}}}'.encode()
    assert read("json", content, KEYS, path=["x", "y"]).rows() == [("a", "é"), ("b", "1"), ("b", "2")]
    assert read("json", b"[true, false]", {"value": "label"}).rows() == [(1.0,), (0.0,)]


def test_json_fields(read):
    columns = {"title": "title", "key": "item", "year": "year:number?"}
    frame = read("json", b'{"1": ["T", 1999], "2": [null, null]}', columns, fields=["title", "year"])
    assert frame.rows() == [("T", "1", 1999.0), ("", "2", None)]
    assert read("json", b"{}", columns, fields=["title", "year"]).height == 0


@pytest.mark.parametrize(
    ("content", "message", "keys"),
    [
        (b'[1,\n 2 "a"]', ", line 2, column 4: not JSON", {}),
        (b"", ", line 1, column 1: not JSON", {}),
        (b'{"a": 1, "a": 2}', ": the key 'a' is twice in one object", {}),
        (b"[NaN]", ": NaN, expected a number of JSON", {}),
        (b"[" * 100_000, ": lists or objects inside each other", {}),
        (b"3", r": a single value \(str\), expected a list or an object", {}),
        (b"[[1], 2]", ": the row '1' has a single value", {}),
        (b'{"a": [1], "b": {}}', ": the key 'b' has an object, expected a list", {}),
        (b"[[[1]]]", ": values of the types list in one column", {}),
        (b"[1, true]", ": values of the types bool, str in one column", {}),
        (rb'["\ud800"]', ": a value that is no text in UTF-8", {}),
        (b'{"a": {"b": 1}}', ": the value at a has no key 'c'", {"path": ["a", "c"]}),
        (b"[1]", ": the file has no key 'a', expected an object", {"path": ["a"]}),
        (b"[1]", ": a list of 1, expected an object of lists of 2", {"fields": ["x", "y"]}),
        (b'{"a": [1, 2], "b": [1]}', ": 'b' has a list of 1, expected a list of 2", {"fields": ["x", "y"]}),
        (b'{"a": 1}', ": there is no column 'row'; found: key, value", {}),
    ],
)
def test_json_faults(read, content, message, keys):
    refused(read, message, "json", content, ROWS, **keys)


def test_json_of_real_data(read):
    content = original("amazon-nbpo/train_data.json")
    frame = read("json", content, ROWS)
    lists = json.loads(content)
    assert frame.rows() == [(str(user), str(item)) for user, items in enumerate(lists) for item in items]
    assert (frame.height, frame["user"].n_unique(), frame["item"].n_unique()) == (31_887, 1_435, 1_522)
    columns = {"key": "item", "asin": "asin", "title": "title"}
    titles = read("json", original("games-dealrec/item_titles.json"), columns, fields=["asin", "title"])
    assert titles.row(0) == ("1", "B00004DSDE", "X: Beyond the Frontier - PC")
    assert titles.height == 17_332


def test_simplices(read):
    frame = read("simplices", [b"2\n1\n", b"5\n7\n5\n", b"10\n-3\n"], SIMPLICES)
    assert frame.rows() == [("0", "5", 10.0), ("0", "7", 10.0), ("1", "5", -3.0)]
    contents = [gzip.compress(content) for content in (b"2\n1\n", b"5\n7\n5\n", b"10\n-3\n")]
    assert read("simplices", contents, SIMPLICES, name="raw.gz").equals(frame)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([b"2\n0\n", b"5\n7\n", b"1\n1\n"], "0-raw.txt, line 2: a simplex of 0 nodes, expected 1 to 2"),
        ([b"1\n9\n", b"5\n7\n", b"1\n1\n"], "0-raw.txt, line 2: a simplex of 9 nodes"),
        ([b"1\n", b"5\n7\n", b"1\n"], "1-raw.txt: 2 nodes, expected 1, the sum of 0-raw.txt"),
        ([b"1\n1\n", b"5\n7\n", b"1\n"], "2-raw.txt: 1 times, expected 2 as in 0-raw.txt"),
        ([b"1\n", b"x\n", b"1\n"], "1-raw.txt, line 1: 'x', expected a whole number"),
        ([b"1\n", b"1\n", b"\n1\n"], "2-raw.txt, line 1: '', expected a whole number"),
        ([b"1\n", b"1\n"], "0-raw.txt: 2 files of simplices, expected 3"),
    ],
)
def test_simplices_fit_together(read, contents, message):
    with pytest.raises(RecbenchError, match=message):
        read("simplices", contents, SIMPLICES)
