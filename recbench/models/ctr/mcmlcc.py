"""MC-MLCC: MLCC with several channels, which are crossed apart and compressed together.

Source      Yu, Zhou, Xia, Zhao, Wu, Zhao, Kong: Compress, Cross and Scale. arXiv:2602.12041, 2026, with its
            released code
Logit       MLCC's, with embeddings of ``channels`` times the width, cut into channels that each have a global
            compression and a crossing of their own; parameters grow linearly in their number, and with the square of
            a channel's width
Loss        binary cross-entropy + embedding_l2 / 2 * ||E||^2
Departures  MLCC's
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from recbench.models.base import Reference, tunable
from recbench.models.ctr.mlcc import MLCC


class MCMLCC(MLCC):
    """Multi-level compression cross network with several channels."""

    class Config(MLCC.Config):
        """Hyper-parameters."""

        channels: Annotated[int, Field(ge=2)] = tunable(4, choices=(2, 3, 4))

    reference = Reference("Yu et al. 2026, released code, Criteo, 4 channels", "ctr/criteo-mlcc", "auc", 0.8034, 0.004)

    def _n_channels(self) -> int:
        channels: int = self.config.channels
        return channels
