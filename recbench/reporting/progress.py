"""Progress of long work: a live line on a terminal, a plain line now and then elsewhere; always on stderr."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from recbench.running.suite import Done
from recbench.running.tune import Finished
from recbench.training.trainer import Epoch

# Between plain lines about one run; a log that is read later needs no more.
PLAIN_SECONDS = 10.0


class Display:
    """A progress bar that is silent where stderr is no terminal; ``line`` prints above it."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._bar = self._progress.add_task("", total=None)
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def line(self, text: str) -> None:
        """Print a lasting line."""
        self._console.print(text, markup=False)
        self._said = time.monotonic()

    def update(self, text: str, completed: int, total: int) -> None:
        """Move the bar."""
        self._progress.update(self._bar, description=text, completed=completed, total=total)

    def epoch(self, epoch: Epoch) -> None:
        """Show an epoch of a single run."""
        figures = [f"{name} loss {loss:.4f}" for name, loss in epoch.losses.items()]
        if epoch.best is not None:
            figures.append(f"best valid {epoch.best:.4f}")
        text = f"{epoch.stage}: {', '.join(figures)}"
        self.update(text, epoch.number, epoch.of)
        if not self._console.is_terminal and figures and time.monotonic() - self._said > PLAIN_SECONDS:
            self.line(f"{text}, epoch {epoch.number} of at most {epoch.of}")

    def done(self, done: Done) -> None:
        """Show a finished run of a suite."""
        job, result = done.job, done.result
        head = f"[{done.position}/{done.total}] {job.benchmark} {job.model} seed {job.seed}:"
        if result.metrics is None or result.timing is None or result.primary_metric is None:
            self.line(f"{head} FAILED: {result.error}")
        else:
            value = result.metrics.test[result.primary_metric]
            self.line(f"{head} {result.primary_metric} {value:.4f}, fit {result.timing.fit_s:.1f} s")
        self.update("runs", done.position, done.total)

    def trial(self, trial: Finished) -> None:
        """Show a finished trial of a study."""
        shown = ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial.params.items())
        outcome = f"FAILED: {trial.error}" if trial.value is None else f"{trial.value:.5f}"
        self.line(f"[{trial.finished}/{trial.wanted}] {outcome} ({trial.seconds:.0f} s)  {shown}")
        best = "" if trial.best is None else f", best {trial.best:.5f}"
        self.update(f"trials{best}", trial.finished, trial.wanted)
