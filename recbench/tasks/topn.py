"""Task ``topn``: rank all items a user has not seen; implicit feedback."""

from __future__ import annotations

from typing import ClassVar

from recbench.tasks.base import Development
from recbench.tasks.batches import to_device
from recbench.tasks.interactions import TopNData
from recbench.tasks.ranking import RankingTask


class TopNTask(RankingTask[TopNData]):
    """Top-N recommendation from interactions alone."""

    name: ClassVar[str] = "topn"

    def training_data(self, development: Development) -> TopNData:
        """Put the training interactions on the device."""
        train, meta = development.train, development.meta
        return TopNData(
            meta["n_users"],
            meta["n_items"],
            to_device(train["users"], self.device),
            to_device(train["items"], self.device),
            fold_in=meta.get("fold_in", False),
        )
