"""Time RecBole 1.2.1's DeepFM and AutoInt on the rows that ``ctr_epoch.py --export`` wrote: CPU seconds of one thread.

In an environment of its own, since RecBole runs on old packages only: torch, and then

    pip install numpy==1.26.4 scipy==1.11.4 pandas==2.0.3 setuptools==80.9.0 recbole==1.2.1
    python scripts/peers/ctr_epoch_recbole.py FOLDER

The same sizes, batches and dropout as in ctr_epoch.py. RecBole's Adam is torch's default (foreach). Its AutoInt is a
form of its own: torch's multi-head attention with output matrices, one residual for all layers, first-order weights.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

MODELS = {
    "DeepFM": {"mlp_hidden_size": [128] * 3, "dropout_prob": 0.2},
    "AutoInt": {
        "mlp_hidden_size": [128] * 2,
        "attention_size": 16,
        "n_layers": 3,
        "num_heads": 2,
        "dropout_probs": [0.0, 0.0, 0.0],
    },
}
REPEATS = 3
EVALUATIONS = 5
"""An evaluation is short: as many as this are one measurement."""

folder = Path(sys.argv[1]).resolve()
sys.argv = sys.argv[:1]  # RecBole reads them too
os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
torch.set_num_threads(1)


def report(name: str, what: str, work: Callable[[], object], times: int = 1) -> None:
    work()  # warm up
    found = []
    for _ in range(REPEATS):
        began = time.process_time()
        for _ in range(times):
            work()
        found.append((time.process_time() - began) / times)
    each = [round(second, 3) for second in found]
    print(f"RecBole 1.2.1 {name:8} {what:10} {statistics.median(found):7.3f} CPU s of {each}", flush=True)


with tempfile.TemporaryDirectory() as scratch:
    os.chdir(scratch)  # RecBole leaves logs where it runs
    rows = Path(scratch, "rows")
    rows.mkdir()
    for part in ("train", "valid"):
        table = pd.read_csv(folder / f"{part}.csv", dtype=str, keep_default_na=False)
        kinds = {"label": "float", "genres": "token_seq"}
        names = {name: f"{name}:{kinds.get(name, 'token')}" for name in table.columns}
        table.rename(columns=names).to_csv(rows / f"rows.{part}.inter", sep="\t", index=False)
    for name, sizes in MODELS.items():
        config = Config(
            model=name,
            dataset="rows",
            config_dict={
                "data_path": scratch,
                "benchmark_filename": ["train", "valid", "valid"],
                "USER_ID_FIELD": "user",
                "ITEM_ID_FIELD": "item",
                "load_col": {"inter": list(table.columns)},
                "eval_args": {"mode": "labeled", "order": "RO", "group_by": None, "split": {"RS": [0.8, 0.1, 0.1]}},
                "train_neg_sample_args": None,
                "metrics": ["AUC", "LogLoss"],
                "valid_metric": "AUC",
                "use_gpu": False,
                "show_progress": False,
                "checkpoint_dir": f"{scratch}/saved",
                "epochs": 1,
                "train_batch_size": 2048,
                "eval_batch_size": 4096,
                "embedding_size": 10,
                **sizes,
            },
        )
        init_seed(config["seed"], config["reproducibility"])
        train, _, test = data_preparation(config, create_dataset(config))
        model = get_model(name)(config, train.dataset)
        trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
        report(name, "epoch", partial(trainer.fit, train, saved=False, verbose=False))
        report(name, "evaluation", partial(trainer.evaluate, test, load_best_model=False), EVALUATIONS)
