"""The store: what is written comes back, what is damaged is named, and nothing half-made is ever taken for whole."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recbench.data.store import MANIFEST, Writer, prepared, read_vocabulary, verify_all
from recbench.errors import RecbenchError

NUMBERS = np.arange(12, dtype=np.int32).reshape(6, 2)


def build(out: Writer) -> dict[str, int]:
    out.write("train", "numbers", NUMBERS)
    out.write("shared", "names", np.array(["a", "žluťoučký"]))
    out.vocabulary("item", pl.Series([None, "x", "y"], dtype=pl.String))
    return {"n": 6}


def test_what_is_written_comes_back(tmp_path):
    data = prepared(tmp_path / "d", build)
    assert np.array_equal(data.part("train")["numbers"], NUMBERS)
    assert data.part("shared")["names"].tolist() == ["a", "žluťoučký"]
    assert read_vocabulary(data.directory, "item").to_list() == [None, "x", "y"]
    assert data.meta == {"n": 6}
    assert data.part("nothing") == {}
    assert data.verify() == []
    assert isinstance(data.part("train")["numbers"], np.memmap)


def test_pieces_make_the_same_file_as_the_whole(tmp_path):
    def in_pieces(out: Writer) -> dict[str, int]:
        with out.pieces("train", "numbers", NUMBERS.shape, np.int32) as append:
            for start in range(0, 6, 4):
                append(NUMBERS[start : start + 4])
            append(NUMBERS[:0])
        out.write("shared", "names", np.array(["a", "žluťoučký"]))
        return {"n": 6}

    whole, pieces = prepared(tmp_path / "whole", build), prepared(tmp_path / "pieces", in_pieces)
    assert whole.split_sha256 == pieces.split_sha256


def test_too_few_pieces_are_an_error_and_leave_nothing(tmp_path):
    def short(out: Writer) -> dict[str, int]:
        with out.pieces("train", "numbers", (7, 2), np.int32) as append:
            append(NUMBERS)
        return {}

    with pytest.raises(ValueError, match="train/numbers: 6 rows written, 7 announced"):
        prepared(tmp_path / "d", short)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "corrupt: 175 bytes, expected 176"),
    ],
)
def test_a_missing_or_cut_file_is_named_when_it_is_opened(tmp_path, damage, finding):
    data = prepared(tmp_path / "d", build)
    damage(data.directory / "train" / "numbers.npy")
    with pytest.raises(RecbenchError, match=rf"numbers\.npy is {finding}.*prepared again"):
        data.part("train")


def test_verify_finds_a_changed_byte(tmp_path, monkeypatch):
    monkeypatch.setenv("RECBENCH_HOME", str(tmp_path))
    data = prepared(tmp_path / "prepared" / "d", build)
    assert verify_all() == {"d": []}
    path = data.directory / "train" / "numbers.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (finding,) = verify_all()["d"]
    assert "numbers.npy has sha256" in finding


def test_a_corrupt_manifest_is_named(tmp_path):
    data = prepared(tmp_path / "d", build)
    (data.directory / MANIFEST).write_text("{")
    with pytest.raises(RecbenchError, match=r"manifest.json is corrupt; delete the folder"):
        prepared(tmp_path / "d", build)


def _slow(directory: Path, started: Path) -> None:
    def build_slowly(out: Writer) -> dict[str, int]:
        meta = build(out)
        with started.open("a") as file:
            file.write("x")
        time.sleep(0.5)
        return meta

    prepared(directory, build_slowly)


def _start(directory: Path, started: Path) -> multiprocessing.Process:
    process = multiprocessing.get_context("spawn").Process(target=_slow, args=(directory, started))
    process.start()
    return process


def test_processes_that_come_together_prepare_once(tmp_path):
    started = tmp_path / "started"
    processes = [_start(tmp_path / "d", started) for _ in range(3)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert started.read_text() == "x"


def test_a_killed_preparation_leaves_nothing_that_looks_usable(tmp_path):
    started = tmp_path / "started"
    process = _start(tmp_path / "d", started)
    while not started.exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "d").exists()
    data = prepared(tmp_path / "d", build)
    assert np.array_equal(data.part("train")["numbers"], NUMBERS)
    left = {path.name for path in tmp_path.iterdir()} - {"d", "started", ".d.lock"}
    assert not left, "what the killed process had made is gone"
