"""Click logs made by hand, encoded as a benchmark would be."""

import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from recbench.data.cards import Card
from recbench.data.protocols import Labelled
from recbench.data.source import Source
from recbench.data.store import prepared, read_vocabulary

CARD = Card.model_validate(
    {
        "name": "log",
        "version": "1",
        "title": "t",
        "licence": "l",
        "citation": "c",
        "homepage": "https://example.org",
        "verified": "described",
        "basis": "made here",
        "files": {"f": {}},
        "tables": {
            name: {"file": "f", "reader": "csv", "columns": {"user": "user"}}
            for name in ("train", "valid", "test", "interactions", "items")
        },
    }
)


class Frames(Source):
    """Published parts from frames, given in batches of a few rows."""

    def __init__(self, frames, batch_rows=2):
        super().__init__(CARD)
        self.frames = frames
        self.batch_rows = batch_rows

    def has(self, table):
        return table in self.frames

    def columns(self, table):
        return self.frames[table].columns

    def table(self, name):
        return self.frames[name]

    def batches(self, table, columns):
        for start in range(0, len(self.frames[table]), self.batch_rows):
            yield self.frames[table].select(columns)[start : start + self.batch_rows]


def split(frame: pl.DataFrame, train: int, valid: int) -> dict[str, pl.DataFrame]:
    return {"train": frame[:train], "valid": frame[train : train + valid], "test": frame[train + valid :]}


def encode(frames, *fields, batch_rows=2, **changed):
    protocol = Labelled.model_validate(
        {
            "name": "p",
            "version": "1",
            "label": {"column": "label", "positive_from": 1},
            "fields": fields,
            "split": {"kind": "published"},
            "group": None,
            **changed,
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        data = prepared(Path(folder) / "d", lambda out: protocol.build(Frames(frames, batch_rows), out))
        parts = {
            part: {name: np.array(values) for name, values in data.part(part).items()}
            for part in ("shared", "train", "valid", "test")
        }
        texts = {
            field["name"]: read_vocabulary(data.directory, field["name"]).to_list()
            for field in data.meta["fields"]
            if not field.get("dense")
        }
        return parts, list(data.meta["fields"]), texts


def log(**columns) -> dict[str, pl.DataFrame]:
    frame = pl.DataFrame(columns)
    frame = frame.with_columns(label=pl.Series([1.0, 0.0] * len(frame))[: len(frame)])
    return split(frame, 6, 2)
