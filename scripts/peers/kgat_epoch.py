"""Print the CPU seconds of an epoch of KGAT on kg/ml-100k by part: one thread, median of three.

For batches of 2048 interactions, RecBole's default, and for the default of this package.

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
from recbench.tasks.base import Development, load_benchmark
from recbench.tasks.kg import KGTask

REPEATS = 3
BATCH_SIZES = (2048, KGAT.Config().batch_size)


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the median after one call that warms up."""
    work()
    seconds = []
    for _ in range(REPEATS):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return statistics.median(seconds)


def measure(step: Phase | Sweep) -> tuple[float, int]:
    """Return the CPU seconds of a step of the schedule, and its number of batches."""
    if isinstance(step, Sweep):
        return cpu_seconds(step.run), 1
    optimizer = torch.optim.Adam(step.parameters, lr=step.learning_rate, fused=True)
    generator = torch.Generator().manual_seed(1)

    def epoch() -> None:
        for batch in step.batches.epoch(generator):
            optimizer.zero_grad(set_to_none=True)
            step.loss(batch).backward()
            optimizer.step()

    return cpu_seconds(epoch), sum(1 for _ in step.batches.epoch(generator))


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    benchmark = load_benchmark("kg/ml-100k")
    task = KGTask(
        benchmark, Development.of(benchmark.protocol.prepare(load_card(benchmark.dataset))), torch.device("cpu")
    )
    for batch_size in BATCH_SIZES:
        model = KGAT(KGAT.Config(batch_size=batch_size, pretrain=False), task.data)
        (stage,) = model.procedure(task.data)
        print(f"batches of {batch_size} interactions")
        total = 0.0
        for step in stage.steps:
            seconds, batches = measure(step)
            total += seconds
            print(f"  {step.name:10} {seconds:6.2f} s   {batches:3} x {seconds / batches:.4f} s")
        print(f"  {'epoch':10} {total:6.2f} s")


if __name__ == "__main__":
    main()
