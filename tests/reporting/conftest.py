from collections.abc import Callable
from pathlib import Path

import pytest
from fake_results import Fake, write_fake

Writer = Callable[..., Path]


@pytest.fixture
def write_results(tmp_path: Path) -> Writer:
    """Write results of fakes under ``root``: top-N ones with per-user values, CTR ones with values per seed only."""

    def write(*fakes: Fake, root: str = "out", benchmark: str = "topn/ml-100k", split: str = "5a" * 32) -> Path:
        out = tmp_path / root
        for fake in fakes:
            for seed in fake.seeds:
                write_fake(out, fake, seed, benchmark, split)
        return out

    return write
