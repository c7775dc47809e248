"""FuxiCTR's preparation of a Criteo-shaped log, for scripts/peers/prepare.py.

    PYTHON scripts/peers/fuxictr_prepare.py FILE

PYTHON is of an environment of its own: torch 2.13.0, fuxictr==2.3.7, numpy==1.26.4, scipy==1.13.1, pandas==2.2.3,
scikit-learn==1.4.2, pyarrow==17.0.0, polars==1.44.2. The same work as recbench's: numbers standardised, categories seen
at least once numbered, Parquet written. CPU seconds are of the process, imports left out.
"""

import json
import logging
import resource
import sys
import tempfile
import time
from pathlib import Path

from fuxictr.preprocess import FeatureProcessor, build_dataset

NUMBERS = [f"I{i}" for i in range(1, 14)]
CATEGORIES = [f"C{i}" for i in range(1, 27)]


def main() -> None:
    logging.disable(logging.INFO)
    source = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "log.csv"
        with source.open("rb") as raw, table.open("wb") as file:
            file.write(",".join(["label", *NUMBERS, *CATEGORIES]).encode() + b"\n")
            while block := raw.read(1 << 24):
                file.write(block.replace(b"\t", b","))
        number = {"name": NUMBERS, "active": True, "dtype": "float", "type": "numeric", "fill_na": 0}
        category = {"name": CATEGORIES, "active": True, "dtype": "str", "type": "categorical", "min_categr_count": 1}
        parameters = {
            "feature_cols": [number | {"normalizer": "StandardScaler"}, category],
            "label_col": {"name": "label", "dtype": "float"},
            "data_root": scratch,
            "dataset_id": "log",
            "data_format": "csv",
            "train_data": str(table),
            "valid_data": None,
            "test_data": None,
        }
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        build_dataset(FeatureProcessor(**parameters), **parameters)
        after = resource.getrusage(resource.RUSAGE_SELF)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        disk = sum(path.stat().st_size for path in (Path(scratch) / "log").rglob("*") if path.is_file())
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        figures = {
            "cpu_s": spent + children.ru_utime + children.ru_stime,
            "wall_s": time.perf_counter() - began,
            "peak_mb": after.ru_maxrss / 1024,
            "disk_mb": disk / 1e6,
        }
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
