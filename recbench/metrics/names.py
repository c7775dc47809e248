"""The names of the metrics: what is known, what a name means, and which way is better.

Ranking metrics carry a cutoff (``ndcg@10``) and are defined in ``recbench.metrics.ranking``; pointwise metrics do not
(``auc``) and are defined in ``recbench.metrics.pointwise``. ``mrr`` without a cutoff and ``hits@k`` are those of
knowledge-graph completion, in ``recbench.metrics.ranks``.
"""

import re
from collections.abc import Iterable

from recbench.errors import UsageError, unknown

RANKING = ("recall", "recall_min", "precision", "hit", "ndcg", "mrr", "map")
"""Kinds of ranking metric; all lie in [0, 1] and higher is better."""

POINTWISE: dict[str, bool | None] = {
    "auc": True,
    "logloss": False,
    "brier": False,
    "mse": False,
    "rmse": False,
    "mae": False,
    "ece": False,
    "pcoc": None,
}
"""Pointwise metrics: whether higher is better; None where the best value is neither the highest nor the lowest."""

RANK = ("mrr", "hits@k")
"""Metrics of one right answer's rank; both lie in [0, 1] and higher is better."""

_WITH_CUTOFF = tuple(f"{kind}@k" for kind in RANKING)


def parse(name: str) -> tuple[str, int]:
    """Split the name of a ranking metric into its kind and its cutoff: ``ndcg@10`` is ``("ndcg", 10)``.

    Raises ``UsageError`` for anything else.
    """
    match = re.fullmatch(r"(\w+)@([1-9][0-9]*)", name)
    if match is None or match[1] not in RANKING:
        raise unknown("ranking metric", name, _WITH_CUTOFF, hint="k is a number of items, as in ndcg@10")
    return match[1], int(match[2])


def hits_cutoff(name: str) -> int:
    """Return k of ``hits@k``; raises ``UsageError`` for anything else."""
    match = re.fullmatch(r"hits@([1-9][0-9]*)", name)
    if match is None:
        raise unknown("metric of ranks", name, RANK)
    return int(match[1])


def validate(names: Iterable[str]) -> None:
    """Raise ``UsageError`` for the first name that is no metric."""
    for name in names:
        if name in POINTWISE or name == "mrr":
            continue
        if "@" not in name:
            raise unknown("metric", name, (*POINTWISE, *RANK, *_WITH_CUTOFF))
        if name.startswith("hits@"):
            hits_cutoff(name)
        else:
            parse(name)


def higher_is_better(name: str) -> bool:
    """Say whether a larger value of the metric is the better one.

    Raises ``UsageError`` for an unknown name, and for ``pcoc``, which is best at 1 and so cannot order models.
    """
    validate([name])
    better = POINTWISE.get(name, True)
    if better is None:
        raise UsageError(f"metric '{name}' is best at 1 and cannot order models; choose another primary metric")
    return better
