"""Progress of fetching and preparing, on a terminal; silent elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Give a function that shows how many bytes are there."""
    from rich.console import Console  # a cached data set shows no progress
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def status(what: str) -> Iterator[Callable[[str], None]]:
    """Show what is being done, and give a function that shows how far it has come."""
    from rich.console import Console

    with Console(stderr=True).status(what) as shown:
        yield lambda how_far: shown.update(f"{what}: {how_far}")
