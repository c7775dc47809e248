"""Time RecBole 1.2.1's evaluation of BPR on a split that ``evaluate.py --export`` wrote: CPU seconds of one thread.

In an environment of its own, since RecBole runs on old packages only: torch, and then

    pip install numpy==1.26.4 scipy==1.11.4 pandas==2.0.3 setuptools==80.9.0 recbole==1.2.1
    python scripts/peers/evaluate_recbole.py FOLDER [BATCH]

The model is not trained, which changes no time. BATCH is the evaluation batch in scores, 4096 by default in RecBole.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

REPEATS = 3

torch.set_num_threads(1)
folder = Path(sys.argv[1]).resolve()
batch = int(sys.argv[2]) if len(sys.argv) > 2 else 4096
sys.argv = sys.argv[:1]  # RecBole reads them too
config = Config(
    model="BPR",
    dataset=folder.name,
    config_dict={
        "data_path": str(folder.parent),
        "benchmark_filename": ["train", "test", "test"],
        "load_col": {"inter": ["user_id", "item_id"]},
        "use_gpu": False,
        "show_progress": False,
        "checkpoint_dir": tempfile.mkdtemp(),
        "metrics": ["Recall", "Precision", "Hit", "NDCG", "MRR", "MAP"],
        "topk": [20],
        "valid_metric": "NDCG@20",
        "eval_batch_size": batch,
    },
)
init_seed(config["seed"], config["reproducibility"])
train, _, test = data_preparation(config, create_dataset(config))
model = get_model("BPR")(config, train._dataset)
trainer = get_trainer(config["MODEL_TYPE"], "BPR")(config, model)
seconds = []
for _ in range(REPEATS):
    began = time.process_time()
    trainer.evaluate(test, load_best_model=False)
    seconds.append(time.process_time() - began)
print(f"RecBole, batch {batch}: {statistics.median(seconds):.3f} CPU s of {REPEATS}: {[round(s, 3) for s in seconds]}")
