"""The names of the metrics: what is known, what a name means, and which way is better.

A name is a kind, and for metrics of lists a cutoff: ``ndcg@10``. A share that defines a variant stands behind a point:
``rbp.80@100``, ``pauc.10``. ``gap:gender:ndcg@10`` is the gap of ``ndcg@10`` between groups of users. Where rows have
several labels, ``auc:click`` is the ``auc`` of the label ``click``, and ``auc`` the mean over the labels. Variants that
libraries give one name have names of their own here. METRICS.md beside this file has all definitions.
"""

import re
from collections.abc import Iterable, Mapping

from recbench.errors import UsageError, unknown

LINEARISED_SUFFIX = "~linearised"
"""Ending of a column of values per user whose plain mean is a metric that is itself no mean over users, as ``auc``."""

Direction = bool | None
"""Whether higher is better; None where the best value is neither the highest nor the lowest."""

LISTS: Mapping[str, Direction] = {
    "recall@k": True,
    "recall_min@k": True,
    "precision@k": True,
    "f1@k": True,
    "hit@k": True,
    "ndcg@k": True,
    "mrr@k": True,
    "map@k": True,
    "map_n@k": True,
    "map_hits@k": True,
    "rbp.NN@k": True,
}
"""Of one user's list of k items (``recbench.metrics.ranking``)."""

WHOLE: Mapping[str, Direction] = {"rprecision": True, "uauc": True}
"""Of one user's ranking of all candidates (``recbench.metrics.ranking``)."""

BEYOND: Mapping[str, Direction] = {
    "coverage@k": True,
    "gini@k": False,
    "entropy@k": True,
    "popularity@k": None,
    "tail@k": None,
    "novelty@k": True,
    "serendipity@k": True,
    "ild@k": True,
    "miscalibration@k": False,
}
"""Beyond accuracy, of lists of k items (``recbench.metrics.beyond``)."""

POINTWISE: Mapping[str, Direction] = {
    "auc": True,
    "pauc.NN": True,
    "prauc": True,
    "logloss": False,
    "ne": False,
    "brier": False,
    "brier_reliability": False,
    "brier_resolution": True,
    "brier_uncertainty": None,
    "mse": False,
    "rmse": False,
    "mae": False,
    "ece": False,
    "pcoc": None,
}
"""Of all predictions together (``recbench.metrics.pointwise`` and ``recbench.metrics.calibration``)."""

GROUPED: Mapping[str, Direction] = {"gauc": True, "uauc": True}
"""Of the predictions of each user (``recbench.metrics.pointwise``)."""

RANK: Mapping[str, Direction] = {
    "mrr": True,
    "mrr_optimistic": True,
    "mrr_pessimistic": True,
    "hits@k": True,
    "hits_optimistic@k": True,
    "hits_pessimistic@k": True,
}
"""Of one right answer's rank, in knowledge-graph completion (``recbench.metrics.ranks``)."""

OF_TASK: Mapping[str, tuple[Mapping[str, Direction], ...]] = {
    "topn": (LISTS, WHOLE, BEYOND),
    "kg": (LISTS, WHOLE, BEYOND),
    "sequential": (LISTS, WHOLE, BEYOND),
    "ctr": (POINTWISE, GROUPED),
    "rating": (POINTWISE, GROUPED, LISTS),
    "kgc": (RANK,),
}
"""Families of metrics that a task can measure."""

_FAMILIES = (LISTS, WHOLE, BEYOND, POINTWISE, GROUPED, RANK)


def pattern(name: str) -> str:
    """Return the general form of a name: ``ndcg@10`` is of the form ``ndcg@k``, ``pauc.10`` of ``pauc.NN``.

    Of a gap, the form of the metric it is about. Not every form that can be written is that of a metric.
    """
    metric = name.rpartition(":")[2]
    return re.sub(r"@[1-9][0-9]*$", "@k", re.sub(r"\.[0-9]{2}(?=@|$)", ".NN", metric))


def share(name: str) -> float:
    """Return the share in a name: .8 of ``rbp.80@100``, .1 of ``pauc.10``."""
    found = re.search(r"\.([0-9]{2})", name)
    if found is None or found[1] == "00":
        raise UsageError(f"metric '{name}' needs a share of two digits from .01 to .99, as in rbp.80@100 or pauc.10")
    return int(found[1]) / 100


def parse(name: str) -> tuple[str, int]:
    """Split the name of a metric of lists into what it is and its cutoff: ``ndcg@10`` is ``("ndcg", 10)``.

    Raises ``UsageError`` for anything else.
    """
    kind, _, k = name.partition("@")
    if pattern(name) not in (*LISTS, *BEYOND, *RANK) or ":" in name or not k:
        known = [form for form in (*LISTS, *BEYOND) if "@" in form]
        raise unknown("ranking metric", name, known, hint="k is a number of items, as in ndcg@10")
    return kind, int(k)


def gap(name: str) -> tuple[str, str] | None:
    """Split ``gap:<attribute>:<metric>`` into attribute and metric; None for a metric that is no gap."""
    if not name.startswith("gap:"):
        return None
    attribute, _, metric = name.removeprefix("gap:").partition(":")
    if not attribute or ":" in metric or pattern(metric) not in (*LISTS, *WHOLE):
        raise UsageError(f"'{name}' is no gap between groups of users; expected a form such as gap:gender:ndcg@10")
    return attribute, metric


def of_label(name: str, label: str) -> str:
    """Return the name of a metric, or of a column of values per user, of one label: ``auc:click`` of ``auc``."""
    metric, linearised, _ = name.partition(LINEARISED_SUFFIX)
    return f"{metric}:{label}{linearised}"


def validate(names: Iterable[str], task: str = "") -> None:
    """Raise ``UsageError`` for the first name that is no metric, or none that the task can measure."""
    families = OF_TASK.get(task, _FAMILIES)
    known = [form for family in families for form in family]
    for name in names:
        of_groups = gap(name) is not None
        if pattern(name) not in known or (of_groups and WHOLE not in families) or (":" in name and not of_groups):
            raise unknown("metric", name, known, hint=task and f"of task {task}")
        if ".NN" in pattern(name):
            share(name)


def higher_is_better(name: str) -> bool:
    """Say whether a larger value of the metric is the better one.

    Raises ``UsageError`` for an unknown name, and for metrics such as ``pcoc``, best at 1, that cannot order models.
    """
    metric, _, label = name.partition(":")
    if label and pattern(metric) in (*POINTWISE, *GROUPED):
        name = metric
    validate([name])
    if gap(name) is not None:
        return False
    better = next(family[pattern(name)] for family in _FAMILIES if pattern(name) in family)
    if better is None:
        raise UsageError(f"metric '{name}' has no better direction and cannot order models; choose another metric")
    return better
