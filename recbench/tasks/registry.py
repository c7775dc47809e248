"""The tasks by name."""

from __future__ import annotations

from typing import Any

from recbench.tasks.base import Task
from recbench.tasks.ctr import CTRTask
from recbench.tasks.kg import KGTask
from recbench.tasks.rating import RatingTask
from recbench.tasks.sequential import SequentialTask
from recbench.tasks.topn import TopNTask

TASKS: dict[str, type[Task[Any, Any]]] = {
    task.name: task for task in (CTRTask, KGTask, RatingTask, SequentialTask, TopNTask)
}
