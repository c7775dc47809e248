import io

import polars as pl
import pytest

from recbench.data.readers import columnar, text
from recbench.errors import RecbenchError


def parquet(**columns) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame(columns).write_parquet(buffer)
    return buffer.getvalue()


class TestParquet:
    def test_types_order_and_names(self, read):
        content = parquet(
            u=[3, None],
            name=pl.Series(["x", "y"], dtype=pl.Categorical),
            x=pl.Series([1, 2], dtype=pl.Int8),
            y=[None, 0.5],
            w=[["a", None, "", "b"], None],
            v=[[1, 2], []],
            z=pl.Series([[1.5, 2], [3, 4]], dtype=pl.Array(pl.Float32, 2)),
        )
        columns = {"w": "w:tokens", "v": "v:numbers", "z": "z:numbers", "u": "user", "name": "name", "x": "rating"}
        frame = read("parquet", content, columns | {"y": "y:number?"})
        assert frame.schema == {
            "w": pl.List(pl.String),
            "v": pl.List(pl.Float64),
            "z": pl.List(pl.Float64),
            "user": pl.String,
            "name": pl.String,
            "rating": pl.Float64,
            "y": pl.Float64,
        }
        assert frame.rows() == [
            (["a", "b"], [1.0, 2.0], [1.5, 2.0], "3", "x", 1.0, None),
            ([], [], [3.0, 4.0], "", "y", 2.0, 0.5),
        ]

    def test_text_is_split_and_parsed(self, read):
        frame = read("parquet", parquet(g=["a b", None], x=[" 1", "2"]), {"g": "g:tokens", "x": "x:number"})
        assert frame.rows() == [(["a", "b"], 1.0), ([], 2.0)]

    def test_bounded_batches(self, batches, monkeypatch):
        monkeypatch.setattr(columnar, "_CELLS", 200)
        content = parquet(u=range(1000), x=range(1000))
        frames = list(batches("parquet", content, {"x": "rating", "u": "user"}, order="row"))
        assert [frame.height for frame in frames] == [100] * 10
        assert pl.concat(frames)["row"].to_list() == list(range(1000))

    @pytest.mark.parametrize(
        ("columns", "target", "message"),
        [
            ({"u": ["a"]}, "x:number", "there is no column 'x'; found: u"),
            ({"x": [1.5]}, "x", "the column 'x' has the type Float64, expected text or whole numbers"),
            ({"x": [[1]]}, "x:number", r"the column 'x' has the type List\(Int64\), expected numbers"),
            ({"x": [1]}, "x:tokens", "the column 'x' has the type Int64, expected text, or lists of text"),
            (
                {"x": [[[1]]]},
                "x:numbers",
                r"the column 'x' has the type List\(List\(Int64\)\), expected text, or lists",
            ),
            ({"x": [1.0, None]}, "x:number", "x is '', expected a finite number"),
            ({"x": [1.0, float("inf")]}, "x:number?", "x is 'inf', expected a finite number or nothing"),
            ({"x": [[1.0, None]]}, "x:numbers", r"x is '\[1.0, None\]', expected finite numbers"),
        ],
    )
    def test_wrong_columns(self, read, columns, target, message):
        with pytest.raises(RecbenchError, match=f"raw.txt: .*{message}"):
            read("parquet", parquet(**columns), {"x": target})

    @pytest.mark.parametrize("broken", [b"", b"PAR1", b"u,x\n1,2\n", parquet(x=[1])[:-9]])
    def test_damaged_files(self, read, broken):
        with pytest.raises(RecbenchError, match=r"raw.txt: cannot be read as Parquet \(.*\); is it complete\?"):
            read("parquet", broken, {"x": "x"})

    def test_a_file_without_rows(self, read):
        assert read("parquet", parquet(x=pl.Series([], dtype=pl.Int64)), {"x": "x"}).schema == {"x": pl.String}


class TestJsonLines:
    def test_types_order_and_names(self, read):
        content = (
            '{"u": "café", "x": 4.5, "w": ["a", "", 2], "v": [1, 2.5], "more": {"a": [1]}}\n'
            '{"x": "3", "u": 12345678901234567890, "y": -2}\n'
            '{"u": true, "x": 1e3, "w": null, "y": null}'
        )
        columns = {"w": "w:tokens", "x": "rating", "u": "user", "v": "v:numbers", "y": "y:number?"}
        assert read("json-lines", content.encode(), columns).rows() == [
            (["a", "2"], 4.5, "café", [1.0, 2.5], None),
            ([], 3.0, "12345678901234567890", [], -2.0),
            ([], 1000.0, "true", [], None),
        ]

    def test_a_missing_key_is_a_missing_value(self, read):
        with pytest.raises(RecbenchError, match=r"raw.txt, line 2: x is '', expected a finite number"):
            read("json-lines", b'{"x": 1}\n{}\n', {"x": "x:number"})

    def test_what_is_no_text_is_kept_as_json(self, read):
        assert read("json-lines", b'{"u": [1, "a"]}\n', {"u": "user"}).rows() == [('[1, "a"]',)]

    @pytest.mark.parametrize(
        "line",
        [
            b"",
            b"  ",
            b"null",
            b'["u"]',
            b'{"u": 1',
            b'{"u": 1} x',
            b'{"u": 1}{"u": 2}',
            b'{"u": 1},{"u": 2}',
            b"{'u': 1}",
            b'{"u": NaN}',
            b'{"u": 01}',
            b'{"t": "x"}',
            b'{"t": {"a": 1}}',
            b"{" * 5000,
        ],
    )
    @pytest.mark.parametrize("number", [1, 4, 7])
    def test_broken_lines_are_located(self, read, monkeypatch, line, number):
        monkeypatch.setattr(text, "BLOCK_BYTES", 1 << 13)
        lines = [b'{"u": 1, "t": []}'] * 7
        lines[number - 1] = line
        with pytest.raises(RecbenchError, match=rf"raw.txt, line {number}: .*expected one JSON object"):
            read("json-lines", b"\n".join(lines) + b"\n", {"u": "user", "t": "tags:tokens"})

    def test_a_key_that_never_occurs(self, read):
        with pytest.raises(RecbenchError, match=r"raw.txt, line 1: there is no column 'user'; found: u, x"):
            read("json-lines", b'{"u": 1, "x": 2}\n', {"user": "user"})

    def test_a_file_without_lines(self, read):
        assert read("json-lines", b"", {"x": "x:numbers"}).schema == {"x": pl.List(pl.Float64)}
