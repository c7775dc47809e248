"""Compare the optimisers for embedding tables on a Criteo-shaped log: CPU time a step of DeepFM, and peak memory.

    python scripts/peers/optimizers.py FOLDER [--rows 1000000]

FOLDER gets the log (scripts/criteo_log.py), a card, a benchmark and a cache; what is there is used again. In it,

    RECBENCH_HOME=cache recbench run ctr/criteo-shaped deepfm optimizer=lazy-adam epochs=1

is a run from end to end. Rows are split 8:1:1 at random; embedding 16, perceptron 128-128-128, batches of 4096, one
thread. Each optimiser has a process of its own. Milliseconds are CPU time, the median of single steps: the whole step,
and the optimiser's update in it. The peak counts the rows in memory and torch itself, which ``before`` tells.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import yaml
from criteo_shaped import CARD, NAME, PROTOCOL, TITLE

OPTIMIZERS = ("adam", "lazy-adam", "rowwise-adagrad")
STEPS, WARM_UP = 30, 3

BENCHMARK = {
    "title": TITLE,
    "dataset": NAME,
    "primary_metric": "auc",
    "metrics": ["auc", "logloss"],
    "protocol": PROTOCOL,
}


def write_workplace(folder: Path, rows: int) -> None:
    """Write the log into the cache, and the card and the benchmark where a run in the folder finds them."""
    log = folder / "cache" / "datasets" / NAME / "1" / "log.tsv"
    contents = {f"datasets/{NAME}.yaml": CARD, f"configs/benchmarks/ctr/{NAME}.yaml": BENCHMARK}
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content, sort_keys=False))
    if not log.exists():
        log.parent.mkdir(parents=True)
        generator = Path(__file__).parents[1] / "criteo_log.py"
        part = log.with_suffix(".part")
        subprocess.run([sys.executable, str(generator), str(rows), str(part)], check=True)
        part.rename(log)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(optimizer: str) -> dict:
    import torch

    from recbench.data.cards import load_card
    from recbench.models.ctr.deepfm import DeepFM
    from recbench.models.procedure import Phase
    from recbench.tasks.base import Development, load_benchmark
    from recbench.tasks.ctr import CTRTask
    from recbench.training.optimizers import make_optimizer

    torch.set_num_threads(1)
    torch.manual_seed(1)
    benchmark = load_benchmark(f"ctr/{NAME}")
    prepared = benchmark.protocol.prepare(load_card(NAME))
    task = CTRTask(benchmark, Development.of(prepared), torch.device("cpu"))
    sizes = {"embedding_dim": 16, "hidden": (128, 128, 128), "batch_size": 4096}
    model = DeepFM(DeepFM.Config(optimizer=optimizer, embedding_l2=1e-5, **sizes), task.fields)
    (stage,) = model.procedure(task.data)
    (phase,) = stage.steps
    assert isinstance(phase, Phase)
    stepper = make_optimizer(phase)
    batches = phase.batches.epoch(torch.Generator().manual_seed(1))
    first = next(batches)  # the rows are shuffled for it
    before = peak_mb()
    whole, update = [], []
    for batch in itertools.islice(itertools.chain([first], batches), WARM_UP + STEPS):
        began = time.process_time()
        stepper.zero_grad()
        phase.loss(batch).backward()
        updating = time.process_time()
        stepper.step()
        ended = time.process_time()
        whole.append(ended - began)
        update.append(ended - updating)
    step_ms, update_ms = (1000 * statistics.median(taken[WARM_UP:]) for taken in (whole, update))
    figures = {"ids": task.fields.n_ids, "step_ms": step_ms, "update_ms": update_ms}
    return figures | {"before_mb": before, "peak_mb": peak_mb()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only)))
        return
    folder = arguments.folder.resolve()
    write_workplace(folder, arguments.rows)
    environment = os.environ | {"RECBENCH_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), str(folder), "--only"]
    # The first may have to prepare the data, which would count in its peak: that is done by one that does not count.
    for number, optimizer in enumerate([OPTIMIZERS[0], *OPTIMIZERS]):
        done = subprocess.run([*command, optimizer], env=environment, cwd=folder, check=True, stdout=subprocess.PIPE)
        found = json.loads(done.stdout)
        if number == 1:
            print(f"{found['ids']:,} ids in the tables")
            print(f"{'optimizer':16} {'ms a step':>9} {'update':>7} {'before':>7} {'peak MB':>8}")
        if number:
            times = f"{found['step_ms']:9.1f} {found['update_ms']:7.1f}"
            print(f"{optimizer:16} {times} {found['before_mb']:7.0f} {found['peak_mb']:8.0f}", flush=True)


if __name__ == "__main__":
    main()
