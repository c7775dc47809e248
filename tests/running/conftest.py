"""Runs that several tests look at are carried out once a session."""

import pytest
from filelock import FileLock


@pytest.fixture(scope="session")
def finished_run(shared):
    """Return the result and the directory of a finished run, untracked and with the default configuration."""
    from recbench import run
    from recbench.running.result import result_dir

    def get(benchmark: str, model: str, **values):
        out = shared / "results"
        # Worker processes may want the same run; whoever comes second finds it finished.
        with FileLock(shared / f"{benchmark.replace('/', '-')}-{model}.lock"):
            result = run(benchmark, model, out=out, tracking=False, tuned=False, **values)
        return result, result_dir(out, benchmark, model, 1)

    return get
