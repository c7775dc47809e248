"""What the tests of readers share: bytes read as the table of a card made for them."""

import pytest

from recbench.data.cards import Card
from recbench.data.readers import read_batches, read_table


@pytest.fixture
def card_of():
    """Return a card with the one table ``table``, of the files named."""

    def make(reader, columns, *names, statistics=None, **spec):
        checksum = {"bytes": 1, "sha256": "0" * 64}
        return Card.model_validate(
            {
                "name": "sample",
                "version": "1",
                "title": "Sample",
                "licence": "none",
                "citation": "none",
                "homepage": "https://example.org",
                "verified": "counted",
                "basis": "made by the test",
                "files": dict.fromkeys(names, checksum),
                "tables": {"table": {"reader": reader, "file": list(names), "columns": columns, **spec}},
                "statistics": statistics or {},
            }
        )

    return make


@pytest.fixture
def read(tmp_path, card_of):
    """Read the contents of one file, or of several, as a table."""

    def call(reader, contents, columns, *, name="raw.txt", **spec):
        contents = [contents] if isinstance(contents, bytes) else contents
        names = [name] if len(contents) == 1 else [f"{number}-{name}" for number in range(len(contents))]
        files = {name: tmp_path / name for name in names}
        for content, path in zip(contents, files.values(), strict=True):
            path.write_bytes(content)
        return read_table(card_of(reader, columns, *names, **spec), "table", files)

    return call


@pytest.fixture
def batches(tmp_path, card_of):
    """Read the content of one file as a table, in batches."""

    def call(reader, content, columns, wanted=None, **spec):
        path = tmp_path / "raw.txt"
        path.write_bytes(content)
        return read_batches(card_of(reader, columns, path.name, **spec), "table", {path.name: path}, wanted)

    return call
