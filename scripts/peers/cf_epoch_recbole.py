"""Time RecBole 1.2.1's BPR, NeuMF, MultiVAE and LightGCN on rows that ``cf_epoch.py --export`` wrote: CPU seconds.

In an environment of its own, since RecBole runs on old packages only: torch, and then

    pip install numpy==1.26.4 scipy==1.11.4 pandas==2.0.3 setuptools==80.9.0 recbole==1.2.1
    python scripts/peers/cf_epoch_recbole.py FOLDER
    python scripts/peers/cf_epoch_recbole.py FOLDER --models BPR LightGCN --batches LightGCN=20 --evaluate BPR

One thread, RecBole's default sizes, which are those of cf_epoch.py, and its default Adam. ``--batches MODEL=N`` times
N batches and scales them to the epoch; ``--evaluate`` names the models whose evaluation is timed: all if not given.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

MODELS = ("BPR", "NeuMF", "MultiVAE", "LightGCN")
REPEATS = 3

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path)
parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
parser.add_argument("--batches", nargs="+", default=[], metavar="MODEL=N")
parser.add_argument("--evaluate", nargs="*", choices=MODELS, default=MODELS)
parser.add_argument("--repeats", type=int, default=REPEATS)
arguments = parser.parse_args()
sys.argv = sys.argv[:1]  # RecBole reads them too
os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
torch.set_num_threads(1)
warnings.simplefilter("ignore")
folder = arguments.folder.resolve()
parts = dict(word.split("=") for word in arguments.batches)


class Part:
    """The first batches of a loader."""

    def __init__(self, loader: object, batches: int) -> None:
        self.loader = loader
        self.batches = batches

    def __getattr__(self, name: str) -> object:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[object]:
        return itertools.islice(iter(self.loader), self.batches)


def report(name: str, what: str, work: Callable[[], object], scale: float = 1.0, note: str = "") -> None:
    work()  # warm up
    found = []
    for _ in range(arguments.repeats):
        began = time.process_time()
        work()
        found.append((time.process_time() - began) * scale)
    each = [round(second, 3) for second in found]
    print(f"RecBole 1.2.1 {name:8} {what:10} {statistics.median(found):8.3f} CPU s of {each}{note}", flush=True)


with tempfile.TemporaryDirectory() as scratch:
    os.chdir(scratch)  # RecBole leaves logs where it runs
    for name in arguments.models:
        config = Config(
            model=name,
            dataset=folder.name,
            config_dict={
                "data_path": str(folder.parent),
                "benchmark_filename": ["train", "valid", "valid"],
                "load_col": {"inter": ["user_id", "item_id"]},
                "use_gpu": False,
                "show_progress": False,
                "checkpoint_dir": f"{scratch}/saved",
                "epochs": 1,
                "metrics": ["Recall", "MRR", "NDCG", "Hit", "Precision"],
                "topk": [10],
                "valid_metric": "NDCG@10",
            },
        )
        init_seed(config["seed"], config["reproducibility"])
        loader, _, test = data_preparation(config, create_dataset(config))
        model = get_model(name)(config, loader.dataset)
        trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
        train, scale, note = loader, 1.0, ""
        if name in parts:
            train = Part(loader, int(parts[name]))
            scale, note = len(loader) / len(train), f", scaled from {len(train)} batches"
        report(name, "epoch", partial(trainer.fit, train, saved=False, verbose=False), scale, note)
        if name in arguments.evaluate:

            def evaluation(model: torch.nn.Module = model, trainer: object = trainer, test: object = test) -> object:
                if hasattr(model, "restore_user_e"):
                    model.restore_user_e = None  # propagated once an evaluation
                return trainer.evaluate(test, load_best_model=False)

            report(name, "evaluation", evaluation)
