"""CPU seconds of works that are compared."""

import statistics
import time
from collections.abc import Callable

Work = Callable[[], object]


def cpu_seconds(works: list[Work], repeats: int, times: int = 1) -> list[float]:
    """Return the median seconds of each work; they are done in turn, so that all meet the same load of the machine."""
    for work in works:
        work()  # warm up
    rounds = []
    for _ in range(repeats):
        taken = []
        for work in works:
            began = time.process_time()
            for _ in range(times):
                work()
            taken.append((time.process_time() - began) / times)
        rounds.append(taken)
    return [statistics.median(column) for column in zip(*rounds, strict=True)]
