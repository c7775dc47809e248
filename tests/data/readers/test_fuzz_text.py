"""Malformed bytes end in the project's own error, which names the file, and in text the line."""

import io
import re
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbench.data.readers import read_table, text
from recbench.errors import RecbenchError

EXAMPLES, CASES = 50, 200
COLUMNS = {"u": "user", "x": "x:number", "y": "y:number?", "w": "w:tokens", "v": "v:numbers"}


def parquet(compression: str) -> bytes:
    values = {"u": ["a", None, "bc"] * 4, "x": [1.5, 2.0, -3.0] * 4, "y": [None, 1, 2] * 4, "w": [["p", "q"], []] * 6}
    buffer = io.BytesIO()
    pl.DataFrame(values | {"v": [[1.0], None, [2.0, 3.0]] * 4}).write_parquet(buffer, compression=compression)
    return buffer.getvalue()


# Reader -> a card's further keys, and files that are as they should be.
READERS = {
    "csv": (
        {"quote": '"'},
        [
            b'u,x,y,w,v\na,1,,p q,1 2\n"b,""c""",-2.5,3,,\n\xc3\xa9,1e3,,p,"4\n5"\n',
            b"x,u,w,y,v,more\r\n1,a,p,2,3,z\r\n2,b,,,,\r\n" + b"3,c,,,,\r\n" * 6,
        ],
    ),
    "recbole-atomic": (
        {},
        [
            b"u:token\tx:float\ty:float\tw:token_seq\tv:float_seq\na\t1\t\tp q\t1 2\n\xc3\xa9\t-2.5\t3\t\t\n",
            b"v:float_seq\tw:token_seq\tu:token\ty:float\tx:float\r\n" + b"1\tp\tb\t\t7\r\n" * 6,
        ],
    ),
    "json-lines": (
        {},
        [
            b'{"u": "a", "x": 1, "y": null, "w": ["p", "q"], "v": [1, 2.5]}\n{"x": -2e3, "u": 7}\n',
            b'{"x": 1, "v": [], "w": [], "u": "\\u00e9\\n", "y": 2, "more": {"a": [1, {}]}}\r\n' * 6,
        ],
    ),
    "parquet": ({}, [parquet("zstd"), parquet("uncompressed")]),
}


def mutated(rng: np.random.Generator, content: bytes) -> bytes:
    """Return the content with some bytes changed, left out, put in, doubled or cut off; or bytes without sense."""
    if rng.random() < 0.02:
        return rng.bytes(int(rng.integers(0, 64)))
    data = bytearray(content)
    for _ in range(rng.geometric(0.5)):
        start, length = int(rng.integers(len(data) + 1)), int(rng.geometric(0.3))
        piece = [
            rng.bytes(length),
            bytes(rng.choice(np.frombuffer(content, np.uint8), length)),
            bytes(data[start : start + length]) * 2,
            b"",
        ][rng.integers(4)]
        if rng.random() < 0.05:
            del data[start:]
        data[start : start + int(rng.integers(length + 1))] = piece
    return bytes(data)


@pytest.mark.parametrize("reader", READERS)
def test_malformed_bytes(reader, card_of, tmp_path, monkeypatch):
    monkeypatch.setattr(text, "BLOCK_BYTES", 128)
    path = tmp_path / "raw.txt"
    further, contents = READERS[reader]
    card = card_of(reader, COLUMNS, path.name, **further)
    place = rf"{re.escape(str(path))}{'' if reader == 'parquet' else r', line [0-9]+'}( or later)?: ."
    outcomes = Counter()

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(seed=st.integers(0, 2**64 - 1), content=st.sampled_from(contents))
    def check(seed, content):
        rng = np.random.default_rng(seed)
        for _ in range(CASES):
            case = mutated(rng, content)
            path.write_bytes(case)
            message = None
            try:
                read_table(card, "table", {path.name: path})
            except RecbenchError as error:
                message = str(error)
            except BaseException as error:
                error.add_note(f"The file was {case!r}")
                raise
            assert message is None or re.match(place, message), (message, case)
            outcomes["read" if message is None else "refused"] += 1

    check()
    assert outcomes.total() >= 10_000
    # Both happen often, so that neither the whole file nor its first bytes alone decide.
    assert min(outcomes["read"], outcomes["refused"]) > 100
