"""Print the CPU seconds of an epoch of KGAT on kg/ml-100k by part: one thread, batches of 2048, median of three.

An epoch is every interaction once, every edge of the collaborative graph once, and the attention anew.

    python scripts/peers/kgat_epoch.py
"""

import statistics
import time
from collections.abc import Callable

import torch

from recbench.data.cards import load_card
from recbench.models.kg.kgat import KGAT
from recbench.models.procedure import Phase, Sweep
from recbench.tasks.base import load_benchmark
from recbench.tasks.kg import KGTask

REPEATS = 3


def run_phase(phase: Phase, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> int:
    """Take the steps of one epoch; return their number."""
    steps = 0
    for batch in phase.batches.epoch(generator):
        optimizer.zero_grad(set_to_none=True)
        phase.loss(batch).backward()
        optimizer.step()
        steps += 1
    return steps


def cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    benchmark = load_benchmark("kg/ml-100k")
    task = KGTask(benchmark, benchmark.protocol.prepare(load_card(benchmark.dataset)), torch.device("cpu"))
    model = KGAT(KGAT.Config(batch_size=2048, pretrain=False), task.data)
    (stage,) = model.procedure(task.data)
    generator = torch.Generator().manual_seed(1)
    total = 0.0
    for step in stage.steps:
        if isinstance(step, Sweep):
            step.run()  # the first call imports torch-geometric
            seconds = statistics.median(cpu_seconds(step.run) for _ in range(REPEATS))
            note = ""
        else:
            optimizer = torch.optim.Adam(step.parameters, lr=step.learning_rate, fused=True)
            batches = run_phase(step, optimizer, generator)
            seconds = statistics.median(
                cpu_seconds(lambda: run_phase(step, optimizer, generator)) for _ in range(REPEATS)
            )
            note = f"  {batches} batches x {seconds / batches:.4f} s"
        total += seconds
        print(f"{step.name:10} {seconds:6.2f} s{note}")
    print(f"{'epoch':10} {total:6.2f} s")


if __name__ == "__main__":
    main()
