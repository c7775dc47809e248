"""A benchmark suite for recommender systems whose numbers can be believed.

``run`` does exactly what ``recbench run`` does on the command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recbench.running.result import Result

__version__ = "0.1.0"

__all__ = ["__version__", "run"]


def run(benchmark: str, model: str, *, seed: int = 1, out: str | Path = "results", **values: Any) -> Result:
    """Run a model on a benchmark and return its result.

    ``benchmark`` is a full name (``topn/ml-100k``); ``model`` a name, a file or an import path; ``values`` are keys of
    the model's configuration and of the run's settings. The result directory is made under ``out``. Raises
    ``UsageError`` for a wrong request and ``RecbenchError`` when the work fails.
    """
    from recbench.running.plan import make_plan  # importing recbench must stay light
    from recbench.running.run import execute

    return execute(make_plan(benchmark, model, values, seed), Path(out))
