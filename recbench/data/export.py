"""A benchmark's split for other libraries: Parquet files with raw ids, and no test labels among them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recbench.data.store import Arrays, Prepared, read_vocabulary
from recbench.errors import RecbenchError, UsageError

if TYPE_CHECKING:
    import polars as pl


def export(prepared: Prepared, folder: Path) -> list[Path]:
    """Write a prepared split into a new folder and return the files.

    ``train.parquet`` and ``valid.parquet`` are whole; ``test.parquet`` asks: ``user`` where items are to be ranked,
    ``user, item`` where pairs are to be scored, and the fields of every ``row`` of a click log, in the order in which
    ``row`` numbers are scored; a field that is a history has what came before the row, test rows too. Of several labels
    the columns are ``label:<name>``. ``items.parquet`` has all items, the candidates of a ranking. Where models are
    shown interactions beside training, ``valid_history.parquet`` and ``test_history.parquet`` have them;
    ``graph.parquet`` has ``head, relation, tail``. Numbers of click logs are as the protocol transforms them; a value
    that is not in training is null.

    Raises:
        UsageError: the folder exists.
        RecbenchError: it cannot be written.
    """
    if folder.exists():
        raise UsageError(f"{folder} exists; name a new folder to write the split to")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        try:
            names = [_write(frame, temporary / f"{name}.parquet") for name, frame in _frames(prepared).items()]
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise RecbenchError(
            f"cannot write {folder}: {error.strerror or error}; name a folder that can be written to and has room"
        ) from error
    return [folder / name for name in names]


def _write(frame: pl.DataFrame, path: Path) -> str:
    frame.write_parquet(path)
    return path.name


def _frames(prepared: Prepared) -> dict[str, pl.DataFrame]:
    import polars as pl

    shared = prepared.part("shared")
    frames = {}
    for name in ("train", "valid", "test"):
        part = prepared.part(name)
        if "fields" in prepared.meta:
            frames[name] = _rows(part, prepared)
        else:
            frames[name] = _pairs(part, shared)
        if name == "test":
            # What is asked, without the answer: a click log's label, a pair's label, or which items are relevant.
            asked = frames[name].drop("label", "^label:.*$", strict=False)
            frames[name] = asked if "labels" in part else asked.select("user").unique(maintain_order=True)
        if "history_users" in part:
            history = {array.removeprefix("history_"): part[array] for array in part if array.startswith("history_")}
            frames[f"{name}_history"] = _pairs(history, shared)
    if "item_ids" in shared:
        frames["items"] = pl.DataFrame({"item": shared["item_ids"]})
    if "heads" in shared:
        frames["graph"] = _graph(shared)
    return frames


def _pairs(part: Arrays, shared: Arrays) -> pl.DataFrame:
    """Return ``user, item`` and, where they are known, ``timestamp`` and ``label``."""
    import polars as pl

    columns = {"user": shared["user_ids"][part["users"]], "item": shared["item_ids"][part["items"]]}
    for name, array in {"timestamp": "times", "label": "labels"}.items():
        if array in part:
            columns[name] = np.array(part[array])
    return pl.DataFrame(columns)


def _rows(part: Arrays, prepared: Prepared) -> pl.DataFrame:
    """Return ``row``, the fields with their raw values, and ``label``."""
    import polars as pl

    columns = {"row": pl.Series(np.arange(len(part["labels"])))}
    singles = dense = 0
    for field in prepared.meta["fields"]:
        name = field["name"]
        if field.get("dense"):
            columns[name] = pl.Series(np.array(part["dense"][:, dense]))
            dense += 1
            continue
        values = read_vocabulary(prepared.directory, name)
        if field["multi"]:
            offsets = np.array(part[f"{name}_offsets"])
            flat = values.gather(part[f"{name}_values"] - field["offset"])
            rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
            lists = pl.DataFrame({"row": rows, name: flat}).group_by("row").agg(pl.col(name))
            columns[name] = pl.DataFrame({"row": columns["row"]}).join(lists, on="row", how="left")[name]
        else:
            columns[name] = values.gather(part["ids"][:, singles] - field["offset"])
            singles += 1
    names = [f"label:{name}" for name in prepared.meta.get("labels", ())] or ["label"]
    labels = part["labels"].reshape(len(part["labels"]), len(names))
    return pl.DataFrame(columns | {name: np.array(labels[:, place]) for place, name in enumerate(names)})


def _graph(shared: Arrays) -> pl.DataFrame:
    import polars as pl

    entities, relations = shared["entity_ids"], shared["relation_ids"]
    return pl.DataFrame(
        {
            "head": entities[shared["heads"]],
            "relation": relations[shared["relations"]],
            "tail": entities[shared["tails"]],
        }
    )
