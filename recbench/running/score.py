"""Scoring a prediction file made by anyone with any library: judged by the task, recorded as a run is."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path

import torch

from recbench.data.cards import load_card
from recbench.data.readers.columnar import read_columns
from recbench.errors import RecbenchError, UsageError
from recbench.models.registry import model_names
from recbench.resources import file_sha256
from recbench.running.directory import finished_result, logged, occupied
from recbench.running.result import (
    LOG,
    SCORED,
    DatasetRecord,
    EnvironmentRecord,
    ModelRecord,
    ProtocolRecord,
    Result,
    result_dir,
    write_result,
)
from recbench.running.run import record_evaluation
from recbench.tasks.base import Benchmark, Development, SealedTest, load_benchmark
from recbench.tasks.registry import TASKS
from recbench.tracking.environment import capture

log = logging.getLogger("recbench")

COLUMNS = ("user", "item", "rank", "row", "score")
"""All columns that the formats of prediction files have."""


def score(file: Path, benchmark: str, *, name: str | None = None, seed: int = 1, out: Path) -> tuple[Result, Path]:
    """Judge a prediction file on the test part; return its result, which is then also in the directory returned.

    Args:
        file: Parquet with raw ids, in the form of the task: ``user, item, score`` and optionally ``rank`` (topn, kg,
            sequential), ``row, score`` with probabilities (ctr; ``row, score:<label>, ...`` for one with several
            labels), ``user, item, score`` (rating).
        benchmark: full name.
        name: of the model, in lower case letters and digits; by default made of the file's name.
        seed: of the model that made the file. Files of several seeds under one name compare as one model.
        out: folder of the result directories.

    A finished result of the same file is returned as it is; one of another file is never overwritten.

    Raises:
        UsageError: there is no such file or benchmark, files of its task cannot be scored, the name is not one or
            belongs to a model of the package, or another finished result is in the place.
        RecbenchError: the file is not Parquet, or its predictions are not what the task asks for.
    """
    definition = load_benchmark(benchmark)
    if definition.task not in TASKS:
        raise UsageError(
            f"{benchmark} is a {definition.task} benchmark, and prediction files of this task cannot be scored yet; "
            f"those of {', '.join(TASKS)} can"
        )
    if not file.is_file():
        raise UsageError(f"prediction file {file} does not exist; expected a Parquet file")
    name = _model_name(name, file)
    sha256 = file_sha256(file)
    card = load_card(definition.dataset)
    data_sha256 = definition.protocol.raw_sha256(card)
    identity = _identity(definition, data_sha256, name, sha256, seed)
    directory = result_dir(out, benchmark, name, seed)
    finished = finished_result(directory)
    if finished is not None and finished.diagnostics.get("identity") == identity:
        return finished, directory
    if finished is not None:
        raise UsageError(
            f"{directory} holds a finished result of another file, run or definition of the benchmark; give another "
            "--name, --seed or --out, or delete it"
        )
    frame = read_columns(file, [*COLUMNS, *(f"score:{label}" for label in definition.labels)])
    prepared = definition.protocol.prepare(card)
    with occupied(directory), logged(directory / LOG):
        log.info("%s %s seed %d: predictions of %s, sha256 %s", benchmark, name, seed, file.name, sha256)
        device = torch.device("cpu")
        task = TASKS[definition.task](definition, Development.of(prepared), device)
        try:
            evaluation, leakage = task.test_file(frame, SealedTest(prepared))
        except RecbenchError as error:
            log.error("failed: %s: %s", file, error)
            raise type(error)(f"{file}: {error}") from error
        told = {*evaluation.metrics, *evaluation.diagnostics.get("undefined", {})}
        unmeasured = [metric for metric in definition.metrics if metric not in told]
        if unmeasured:
            log.warning("a prediction file does not tell %s; left out", ", ".join(unmeasured))
        result = Result(
            status="finished",
            task=definition.task,
            benchmark=benchmark,
            primary_metric=definition.primary_metric,
            seed=seed,
            dataset=DatasetRecord(name=card.name, version=card.version, sha256=data_sha256),
            protocol=ProtocolRecord(
                name=definition.protocol.name,
                version=definition.protocol.version,
                split_sha256=prepared.split_sha256,
            ),
            model=ModelRecord(name=name, version=SCORED, parameters=0, deterministic=False, source=file.name),
            environment=EnvironmentRecord(**capture(device, torch.get_num_threads())),
            diagnostics={"identity": identity, "predictions_sha256": sha256},
        )
        record_evaluation(result, directory, {}, evaluation, leakage)
        write_result(directory, result)
        return result, directory


def _model_name(given: str | None, file: Path) -> str:
    """Return the name given, or that of the file in lower case without punctuation, if it may be a model's."""
    name = re.sub(r"[^a-z0-9]", "", file.stem.lower()) if given is None else given
    if not re.fullmatch(r"[a-z0-9]+", name):
        where = f"no name can be made of {file.name}" if given is None else f"'{given}' is not the name of a model"
        raise UsageError(f"{where}; give lower case letters and digits, as in --name mymodel")
    if name in model_names():
        raise UsageError(
            f"'{name}' is a model of recbench's own, and a scored file is not a run of it; give another name, as in "
            f"--name {name}file"
        )
    return name


def _identity(benchmark: Benchmark, data_sha256: str, name: str, sha256: str, seed: int) -> str:
    """Return a digest of what decides the result."""
    content = [benchmark.model_dump(mode="json"), data_sha256, name, sha256, seed]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
