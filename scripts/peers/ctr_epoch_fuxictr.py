"""Time FuxiCTR's DeepFM, AutoInt and DCNv2 on the rows that ``ctr_epoch.py --export`` wrote: CPU seconds, one thread.

In an environment of its own: torch 2.13.0, and then one of

    pip install fuxictr==2.3.10 "polars==1.44.2" psutil
    pip install fuxictr==2.3.7 numpy==1.26.4 scipy==1.13.1 pandas==2.2.3 scikit-learn==1.4.2 pyarrow==17.0.0 \
        polars==1.44.2 psutil

    PYTHON scripts/peers/ctr_epoch_fuxictr.py FOLDER --zoo FOLDER [--epochs 3]

The models are not in its wheel: ``--zoo`` is the folder model_zoo of its repository (reczoo/FuxiCTR). The same sizes,
batches and dropout as in ctr_epoch.py. FuxiCTR's Adam is torch's default (foreach), and every step clips gradients.
Seconds are of the process and all below it, for its loaders work in others. Genres are a sequence, averaged.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import logging
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import psutil
import torch
from fuxictr.features import FeatureMap
from fuxictr.preprocess import FeatureProcessor, build_dataset
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.torch_utils import seed_everything

MODELS = {
    "DeepFM": {"hidden_units": [128] * 3, "hidden_activations": "relu", "net_dropout": 0.2},
    "AutoInt": {
        "dnn_hidden_units": [128] * 2,
        "dnn_activations": "relu",
        "attention_layers": 3,
        "num_heads": 2,
        "attention_dim": 16,
        "net_dropout": 0,
    },
    "DCNv2": {
        "model_structure": "parallel",
        "num_cross_layers": 3,
        "parallel_dnn_hidden_units": [128] * 3,
        "dnn_activations": "relu",
        "net_dropout": 0.2,
    },
}
EVALUATIONS = 5
"""An evaluation is short: as many as this are one measurement."""


def spent() -> float:
    """CPU seconds so far of this process, of its ended children, and of all processes that live below it."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = time.process_time() + ended.ru_utime + ended.ru_stime
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


def seconds(work: Callable[[], object], repeats: int, times: int = 1) -> list[float]:
    work()  # warm up
    found = []
    for _ in range(repeats):
        before = spent()
        for _ in range(times):
            work()
        found.append((spent() - before) / times)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    columns = (arguments.folder / "train.csv").open().readline().strip().split(",")
    category = {"active": True, "dtype": "str", "type": "categorical", "min_categr_count": 1}
    genres = {"name": "genres", "active": True, "dtype": "str", "type": "sequence", "splitter": " ", "max_len": 6}
    singles = [name for name in columns if name not in ("label", "genres")]
    with tempfile.TemporaryDirectory() as scratch:
        common = {
            "dataset_id": "rows",
            "data_root": scratch,
            "model_root": f"{scratch}/models",
            "data_format": "csv",
            "train_data": str(arguments.folder / "train.csv"),
            "valid_data": str(arguments.folder / "valid.csv"),
            "test_data": None,
            "feature_cols": [category | {"name": singles}, genres],
            "label_col": {"name": "label", "dtype": "float"},
            "use_features": None,
            "feature_specs": None,
            "num_workers": 1,
            "shuffle": True,
            "verbose": 0,
            "gpu": -1,
            "loss": "binary_crossentropy",
            "metrics": ["AUC", "logloss"],
            "monitor": "AUC",
            "monitor_mode": "max",
            "eval_steps": 10**9,  # no evaluation in the epoch
            "optimizer": "adam",
            "learning_rate": 1e-3,
            "embedding_dim": 10,
            "embedding_regularizer": 0,
            "net_regularizer": 0,
            "batch_norm": False,
        }
        train, valid, _ = build_dataset(FeatureProcessor(**common), **common)
        common |= {"train_data": train, "valid_data": valid}
        features = FeatureMap("rows", f"{scratch}/rows")
        features.load(f"{scratch}/rows/feature_map.json", common)
        Path(scratch, "models", "rows").mkdir(parents=True)

        def loaders(batch_size: int) -> tuple:
            made = RankDataLoader(features, stage="train", batch_size=batch_size, **common)
            return made.make_iterator() if hasattr(made, "make_iterator") else made  # to 2.3.7 a class

        rows, held = loaders(2048)[0], loaders(4096)[1]
        version = importlib.metadata.version("fuxictr")
        for name, sizes in MODELS.items():
            sources = arguments.zoo.glob(f"{name}/**/src/{name}.py")
            (source,) = (path for path in sources if not path.match("*_tf/src/*"))
            spec = importlib.util.spec_from_file_location(name, source)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            seed_everything(1)
            model = getattr(module, name)(features, model_id=name, **common, **sizes)
            model.save_weights(model.checkpoint)  # which fit() loads at its end
            epoch, evaluation = partial(model.fit, rows, epochs=1), partial(model.evaluate, held)
            found = {
                "epoch": seconds(epoch, arguments.epochs),
                "evaluation": seconds(evaluation, arguments.epochs, EVALUATIONS),
            }
            for what, runs in found.items():
                each = [round(run, 3) for run in runs]
                print(
                    f"FuxiCTR {version} {name:8} {what:10} {statistics.median(runs):7.3f} CPU s of {each}", flush=True
                )


if __name__ == "__main__":
    main()
