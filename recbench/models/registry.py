"""Finding models: a file in a family's folder is the registration; others come by file, by import path, by plug-in.

The file's name is the model's name, so listing the names imports nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from recbench.errors import RecbenchError, UsageError, unknown

if TYPE_CHECKING:
    from recbench.models.base import Model

FAMILIES = ("cf", "ctr", "kg", "debiased", "sequential")
PLUGINS = "recbench.models"


def model_names() -> dict[str, str]:
    """Return name -> import path of the module, for the package's own models."""
    folder = Path(__file__).parent
    return {
        path.stem: f"recbench.models.{family}.{path.stem}"
        for family in FAMILIES
        for path in sorted((folder / family).glob("*.py"))
        if not path.stem.startswith("_")
    }


def load_model(spec: str) -> type[Model]:
    """Return the class named by ``spec``.

    A name of the package's own (``multvae``) or of an entry point in the group ``recbench.models``; a file with one
    model (``my_model.py``) or with several (``my_model.py:MyModel``); an import path (``package.module:MyModel``).
    """
    known = model_names()
    if spec in known:
        return _class_in(importlib.import_module(known[spec]), None, spec)
    location, _, class_name = spec.partition(":")
    if location.endswith(".py"):
        return _class_in(_module_from_file(Path(location)), class_name or None, spec)
    if class_name:
        try:
            return _class_in(importlib.import_module(location), class_name, spec)
        except ModuleNotFoundError as error:
            raise UsageError(f"model '{spec}': {error}; expected package.module:ClassName") from None
    plugins = {entry.name: entry for entry in entry_points(group=PLUGINS)}
    if spec in plugins:
        return plugins[spec].load()
    raise unknown("model", spec, [*known, *plugins], "recbench models list")


def _module_from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"model file {path} does not exist")
    # The module is known under a name of its own, so that pickling and dataclasses in it work.
    name = f"recbench_external_{path.stem}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise RecbenchError(f"model file {path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _class_in(module: ModuleType, class_name: str | None, spec: str) -> type[Model]:
    from recbench.models.base import Model  # imports torch

    found = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Model) and value.__module__ == module.__name__
    }
    if class_name is not None:
        if class_name not in found:
            raise unknown("class", class_name, found, f"models in {module.__name__}")
        return found[class_name]
    own = {name: value for name, value in found.items() if name.lower() == spec} or found
    if len(own) != 1:
        names = ", ".join(sorted(own)) or "none"
        raise UsageError(f"model '{spec}': expected one model class, found {names}; name it as FILE.py:ClassName")
    return next(iter(own.values()))
