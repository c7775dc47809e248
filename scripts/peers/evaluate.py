"""Compare a full-ranking evaluation with a bare loop over the same scores: CPU seconds of one thread, and peak memory.

The scores are products of user and item factors (64 numbers each, as of BPR-MF), in blocks of users. The bare loop
multiplies and takes the 20 best: it masks nothing, measures nothing and keeps nothing. The evaluation hides seen items,
breaks ties fairly, finds the hits, and measures six metrics of every user.

    python scripts/peers/evaluate.py                   # topn/gowalla: 29,858 users, 40,981 items
    python scripts/peers/evaluate.py topn/ml-100k
    python scripts/peers/evaluate.py --export FOLDER   # the same split as atomic files, for evaluate_recbole.py

Memory is that of one evaluation in a process of its own, for all users and for a tenth of them: it grows by what the
lists need, not by users times items.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from recbench.data.cards import load_card
from recbench.models.layers.wide import wide_linear
from recbench.tasks import ranking
from recbench.tasks.base import Development, load_benchmark
from recbench.tasks.topn import TopNTask

METRICS = ("recall@20", "precision@20", "hit@20", "ndcg@20", "mrr@20", "map@20")
K = 20
DIMENSION = 64
REPEATS = 5
BARE_BLOCKS = (25, 50, 100, 400, 2048)
"""Users a block of the bare loop; the fastest counts."""


class Factors:
    """Scores by products of random factors."""

    def __init__(self, n_users: int, n_items: int) -> None:
        self.users = torch.randn(n_users, DIMENSION) * 0.1
        self.items = torch.randn(n_items, DIMENSION) * 0.1

    def prepare_scoring(self) -> None:
        pass

    def score(self, batch: ranking.UserBatch) -> torch.Tensor:
        return wide_linear(self.users[batch.users], self.items)


def bare(model: Factors, users: torch.Tensor, block: int) -> None:
    for chosen in users.split(block):
        (model.users[chosen] @ model.items.T).topk(K, dim=1)


def peak_mb() -> float:
    """Return the peak of resident memory in MiB (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def cpu_seconds(*works: Callable[[], object]) -> list[float]:
    """Return the median of each work, run in turn so that all meet the same machine."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(REPEATS):
        for work, taken in zip(works, seconds, strict=True):
            began = time.process_time()
            work()
            taken.append(time.process_time() - began)
    return [statistics.median(taken) for taken in seconds]


def export(folder: Path, development: Development, test: dict[str, np.ndarray]) -> None:
    """Write the split as atomic files: what is known before the test as training part."""
    name = folder.name
    folder.mkdir(parents=True, exist_ok=True)
    known = [np.concatenate([development.train[c], development.valid[c]]) for c in ("users", "items")]
    for part, (users, items) in {"train": known, "test": [test["users"], test["items"]]}.items():
        rows = np.char.add(np.char.add(users.astype(str), "\t"), items.astype(str))
        content = "\n".join(["user_id:token\titem_id:token", *rows])
        (folder / f"{name}.{part}.inter").write_text(content + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", nargs="?", default="topn/gowalla")
    parser.add_argument("--export", type=Path)
    parser.add_argument("--memory", type=float, help="evaluate this share of the users once, and print the peak memory")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    benchmark = load_benchmark(arguments.benchmark)
    prepared = benchmark.protocol.prepare(load_card(benchmark.dataset))
    development, test = Development.of(prepared), prepared.part("test")
    if arguments.export:
        export(arguments.export, development, test)
        return
    task = TopNTask(benchmark, development, torch.device("cpu"))
    model = Factors(task.data.n_users, task.data.n_items)

    def ours(part: dict[str, np.ndarray]) -> None:
        task.evaluate(model, part, seen=development.valid, metrics=METRICS)

    if arguments.memory:
        chosen = test["users"] < task.data.n_users * arguments.memory
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        before = peak_mb()
        ours({name: values[chosen] for name, values in test.items()})
        print(json.dumps({"before": before, "peak": peak_mb()}))
        return
    users = torch.from_numpy(np.unique(test["users"])).long()
    floors = [lambda block=block: bare(model, users, block) for block in BARE_BLOCKS]
    taken, *bares = cpu_seconds(lambda: ours(test), *floors)
    print(f"{arguments.benchmark}: {len(users):,} users, {task.data.n_items:,} items, six metrics at {K}")
    for block, seconds in zip(BARE_BLOCKS, bares, strict=True):
        print(f"bare matmul and topk, {block:5} users a block: {seconds:7.3f} CPU s")
    print(f"evaluation:                                 {taken:7.3f} CPU s, {taken / min(bares):.2f} times the fastest")
    for share in ("0.1", "1"):
        command = [sys.executable, __file__, arguments.benchmark, "--memory", share]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        whole = len(users) * float(share) * task.data.n_items * 4 / 2**20
        more = found["peak"] - found["before"]
        print(f"{share:>3} of the users: {more:.0f} MB more than before at the peak; all their scores: {whole:,.0f} MB")


if __name__ == "__main__":
    main()
