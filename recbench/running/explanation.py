"""The file ``explanation.json`` of a result: what the trained model told about itself."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from recbench.errors import RecbenchError, UsageError
from recbench.models.explanation import Explanation
from recbench.running.result import read_result, write_atomic

EXPLANATION = "explanation.json"


def write_explanation(directory: Path, explanation: Explanation) -> None:
    """Write the file in a result directory."""
    write_atomic(directory / EXPLANATION, TypeAdapter(Explanation).dump_json(explanation, indent=1).decode())


def read_explanation(record: Path) -> Explanation:
    """Return what the model of a result, given by its directory or its record, told about itself.

    Raises UsageError where the run failed or its model tells nothing, RecbenchError where the file is broken.
    """
    result = read_result(record)
    name = "unknown" if result.model is None else result.model.name
    file = (record if record.is_dir() else record.parent) / EXPLANATION
    if result.status == "failed":
        raise UsageError(f"{record} records a failed run: {result.error}")
    if not file.is_file():
        raise UsageError(
            f"{record} has no {EXPLANATION}: model {name} selects nothing that it could tell of; "
            "autoint, armnet, optfs and others do"
        )
    try:
        return TypeAdapter(Explanation).validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecbenchError(f"{file}: {where}: {first['msg']}; run the model again") from None
