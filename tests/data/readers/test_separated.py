import bz2
import csv
import gzip
import io
import lzma
import re

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbench.data.readers import text
from recbench.errors import RecbenchError

THREE = {"u": "user", "x": "rating", "t": "tags:tokens"}


def test_types_order_and_names(read):
    content = b"u,x,ignored,t\n01,-1e3,y,a  b\n, .5 ,y,\n"
    frame = read("csv", content, {"t": "tags:tokens", "x": "rating", "u": "user"})
    assert frame.schema == {"tags": pl.List(pl.String), "rating": pl.Float64, "user": pl.String}
    assert frame.rows() == [(["a", "b"], -1000.0, "01"), ([], 0.5, "")]


def test_missing_numbers_where_the_card_allows_them(read):
    frame = read("csv", b"x,y\n,1\n  ,2\n3,\n", {"x": "x:number?", "y": "y:number?"})
    assert frame.rows() == [(None, 1.0), (None, 2.0), (3.0, None)]


def test_lists_with_a_separator_of_their_own(read):
    frame = read("csv", b"g,v\na|b c||d,1|2.5\n,\n", {"g": "g:tokens", "v": "v:numbers"}, list_separator="|")
    assert frame.rows() == [(["a", "b c", "d"], [1.0, 2.5]), ([], [])]


@pytest.mark.parametrize("first", ["x^2", "x", "x\x01", "x\x9c", "x\xda", "(\xb5/\xfd", "\x1f\x8b", "(x"])
@pytest.mark.parametrize("separator", [",", "::"])
def test_text_that_begins_like_a_compressed_stream_is_text(read, first, separator):
    rows = [[first, "1"], [first, "2"]]
    content = "".join(separator.join(fields) + "\n" for fields in rows).encode("latin-1")
    columns = {"a": "a", "b": "b:number"}
    frame = read("csv", content, columns, header=["a", "b"], separator=separator, encoding="latin-1")
    assert frame.rows() == [(first, 1.0), (first, 2.0)]
    header = separator.join([first, "b"]).encode("latin-1") + b"\n"
    frame = read("csv", header + content, {first: "a", "b": "b"}, separator=separator, encoding="latin-1")
    assert frame.rows() == [(first, "1"), (first, "2")]


@pytest.mark.parametrize("separator", [",", "\t", "::", "|", " ", "¦", ";"])
def test_separators(read, separator):
    content = "".join(separator.join(fields) + "\n" for fields in [["1", 'it"s', ""], ["2", "é'", "z"]])
    frame = read("csv", content.encode(), {"b": "b", "c": "c"}, header=["a", "b", "c"], separator=separator)
    assert frame.rows() == [('it"s', ""), ("é'", "z")]


@pytest.mark.parametrize("separator", [",", "::"])
def test_quotes_hold_separators_quotes_and_line_feeds(read, separator):
    content = 'u,"x"\n"a,b",1\n"say ""hi""",2\n"two\nlines",3\n"",4\n'.replace(",", separator)
    frame = read("csv", content.encode(), {"u": "user", "x": "x:number"}, quote='"', separator=separator)
    assert frame.rows() == [(f"a{separator}b", 1.0), ('say "hi"', 2.0), ("two\nlines", 3.0), ("", 4.0)]


def test_quotes_are_characters_unless_the_card_says_otherwise(read):
    assert read("csv", b'u,x\n"a,1\nb",2\n', {"u": "user"})["user"].to_list() == ['"a', 'b"']


def test_lines_are_counted_through_quotes(read):
    with pytest.raises(RecbenchError, match=r"raw.txt, line 5: x is 'z', expected a finite number$"):
        read("csv", b'u,x\n"two\nlines",1\na,2\nb,z\n', {"u": "user", "x": "x:number"}, quote='"')


def test_header_on_the_card_and_lines_before(read):
    content = b"# made by hand\n\xff\na;1\n"
    frame = read("csv", content, {"x": "x:number"}, header=["u", "x"], skip_lines=2, separator=";")
    assert frame.rows() == [(1.0,)]
    with pytest.raises(RecbenchError, match=r"raw.txt, line 3: x is 'a'"):
        read("csv", content, {"x": "x:number"}, header=["x", "u"], skip_lines=2, separator=";")


def test_one_column(read):
    assert read("csv", b"u\na\n b\n", {"u": "user"})["user"].to_list() == ["a", " b"]


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("\N{BYTE ORDER MARK}u,x\r\ncafé,1\r\n".encode(), "utf-8"),
        ("u,x\ncafé,1".encode(), "utf-8"),
        ("u,x\r\ncafé,1".encode("latin-1"), "latin-1"),
    ],
)
def test_encodings_and_line_ends(read, content, encoding):
    assert read("csv", content, {"u": "user", "x": "x:number"}, encoding=encoding).rows() == [("café", 1.0)]


@pytest.mark.parametrize(("suffix", "module"), [(".gz", gzip), (".bz2", bz2), (".xz", lzma)])
def test_compressed_files(read, suffix, module):
    content = b"u,x\n" + b"a,1\n" * 1000
    columns = {"u": "user", "x": "x:number"}
    packed = module.compress(content)
    assert read("csv", packed, columns, name=f"raw.csv{suffix}").height == 1000
    for broken in (packed[:-9], b"not compressed", packed[:20] + b"\xff\xff\xff" + packed[23:]):
        with pytest.raises(RecbenchError, match=rf"raw.csv{re.escape(suffix)}: cannot be read \(.*\); is it complete"):
            read("csv", broken, columns, name=f"raw.csv{suffix}")


def test_a_file_without_rows(read):
    frame = read("csv", b"u,x\n", {"x": "x", "u": "tags:tokens"})
    assert frame.schema == {"x": pl.String, "tags": pl.List(pl.String)}
    assert frame.height == 0
    assert read("csv", b"", {"x": "x"}, header=["x"]).height == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"u,x,t\n1,2,a\n1,2\n3,4,b\n", "line 3: 2 fields, expected 3"),
        (b"u,x,t\n1,2,a\n1,2,a,b\n3,4,b\n", "line 3: 4 fields, expected 3"),
        (b"u,x,t\n1,2,a,b\n1,2\n3,4,b\n", "line 2: 4 fields, expected 3"),
        (b"u,x,t\n1,2,a\n\n3,4,b\n", "line 3: an empty line, expected 3"),
        (b"u,x,t\n1,2,a\n3,4,b\n\n", "line 4: an empty line, expected 3"),
        (b"u,x,t\n1,2,a\n3,4\n", "line 3: 2 fields, expected 3"),
        (b"u,x,t\n1,2,a\n3,4", "line 3: 2 fields, expected 3"),
        (b"u,x,t\n1,2,a\n1,2.x,a\n", "line 3: x is '2.x', expected a finite number$"),
        (b"u,x,t\n1,,a\n", "line 2: x is '', expected a finite number"),
        (b"u,x,t\n1,nan,a\n", "line 2: x is 'nan', expected a finite number"),
        (b"u,x,t\n1,1e999,a\n", "line 2: x is '1e999', expected a finite number"),
        (b"u,x,t\n1,2,a\n1,\0,a\n", "line 3: a NUL byte, expected text in utf-8"),
        (b"u,x,t\n1,2,a\ncaf\xe9,2,a\n", "line 3: the byte 0xe9, expected text in UTF-8; where it is in Latin-1"),
        (b"u,x\n1,2\n", "line 1: there is no column 't'; found: u, x$"),
        (b"u,x,x,t\n1,2,3,4\n", "line 1: the header has the column 'x' more than once"),
        (b"\n1,2,3\n", "line 1: an empty line"),
        (b"", "line 1: the file ends here, expected a header"),
    ],
)
@pytest.mark.parametrize("wanted", ["all", "one more in the file"])
def test_faults_are_located(read, content, message, wanted):
    if wanted != "all":
        content = b"\n".join(b"0," + line if line else line for line in content.split(b"\n"))
        message = re.sub(r"(\d) fields", lambda found: f"{int(found[1]) + 1} fields", message)
        message = re.sub(r"expected 3", "expected 4", message).replace("found: u", "found: 0, u")
    with pytest.raises(RecbenchError, match=f"raw.txt, {message}"):
        read("csv", content, THREE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'u,x\na,1\na"b,2\n', "line 3: a quote that neither begins nor ends a field"),
        (b'u,x\na,1\n"a"b,2\n', "line 3: a quote that neither begins nor ends a field"),
        (b'u,x\na,1\n"b,2\nc,3\n', "line 3: a quote that neither begins nor ends a field"),
        (b'"u,x\na,1\n', "line 1: a quote that neither begins nor ends a field"),
        (b'u,x\n"a,1",2,3\nb,2\n', "line 2: 3 fields, expected 2"),
        (b'u,x\n"a\nb",1\n"c"\n', "line 4: 1 fields, expected 2"),
    ],
)
def test_faults_of_quotes_are_located(read, content, message):
    with pytest.raises(RecbenchError, match=f"raw.txt, {message}"):
        read("csv", content, {"u": "user", "x": "x:number"}, quote='"')


def test_too_few_lines_to_skip(read):
    with pytest.raises(RecbenchError, match=r"raw.txt, line 2: the file ends here, expected 3 lines before the data"):
        read("csv", b"a\n", {"u": "user"}, skip_lines=3)


def test_a_long_value_is_shortened(read):
    with pytest.raises(RecbenchError, match=r"line 2: x is 'z{60}\.\.\.', expected"):
        read("csv", b"x\n" + b"z" * 1000 + b"\n", {"x": "x:number"})


FIELDS = st.text(st.sampled_from("ab1 ,\"\n'é"), max_size=4)
function_fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@function_fixtures
@given(rows=st.lists(st.tuples(FIELDS, FIELDS, FIELDS), min_size=1, max_size=9), wanted=st.sampled_from(["abc", "b"]))
def test_what_a_csv_writer_writes_is_read(read, rows, wanted):
    content = io.StringIO()
    csv.writer(content, lineterminator="\n").writerows(rows)
    frame = read("csv", content.getvalue().encode(), {name: name for name in wanted}, header=list("abc"), quote='"')
    assert frame.rows() == [tuple(row["abc".index(name)] for name in wanted) for row in rows]


@function_fixtures
@given(content=st.text(st.sampled_from('a1 ,,,\n\n"'), max_size=20), wanted=st.sampled_from(["abc", "b"]))
def test_a_file_is_read_as_it_splits_or_its_first_bad_line_is_named(read, content, wanted):
    lines = [line.split(",") for line in content.removesuffix("\n").split("\n")] if content else []
    bad = next((number for number, fields in enumerate(lines, start=1) if len(fields) != 3), None)
    columns, header = {name: name for name in wanted}, list("abc")
    if bad is None:
        expected = [tuple(fields["abc".index(name)] for name in wanted) for fields in lines]
        assert read("csv", content.encode(), columns, header=header).rows() == expected
    else:
        with pytest.raises(RecbenchError, match=f"raw.txt, line {bad}: (an empty line|[0-9]+ fields), expected 3"):
            read("csv", content.encode(), columns, header=header)


class TestBlocks:
    """Small blocks give what one block gives."""

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch):
        monkeypatch.setattr(text, "BLOCK_BYTES", 64)

    def test_lines_and_quoted_records_stay_whole(self, batches):
        rows = [(f'{number}\n"x"', float(number)) for number in range(200)]
        content = "u,x\n" + "".join('"{}",{}\n'.format(u.replace('"', '""'), x) for u, x in rows)
        frames = list(batches("csv", content.encode(), {"u": "user", "x": "x:number"}, quote='"'))
        assert len(frames) > 20
        assert pl.concat(frames).rows() == rows

    def test_lines_are_counted_on(self, read):
        content = b"u,x\n" + b"abc,1\n" * 97 + b"abc,?\n"
        with pytest.raises(RecbenchError, match="line 99: x is '\\?'"):
            read("csv", content, {"x": "x:number"})
        with pytest.raises(RecbenchError, match="line 99: 1 fields"):
            read("csv", content.replace(b",?", b""), {"x": "x:number", "u": "u"})

    def test_a_line_without_end(self, read):
        with pytest.raises(RecbenchError, match="line 2: no end within 64 bytes, expected lines of text"):
            read("csv", b"u,x\n" + b"a" * 1000, {"x": "x"})

    def test_a_quote_without_end(self, read):
        with pytest.raises(RecbenchError, match=r"line \d+: no end within 64 bytes"):
            read("csv", b'u,x\n"a,1\n' + b"b,2\n" * 100, {"x": "x"}, quote='"')
