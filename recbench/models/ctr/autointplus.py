"""AutoInt+: AutoInt with a multi-layer perceptron beside it, both on the same embeddings.

Source      Song, Shi, Xiao, Duan, Xu, Zhang, Tang: AutoInt. CIKM 2019, arXiv:1810.11921, section 5.5
Logit       AutoInt's + MLP([e_1; ...; e_F])
Loss        binary cross-entropy + embedding_l2 / 2 * ||E||^2
Departures  AutoInt's, whose switches it shares; batch normalisation in the MLP as an option, which BARS uses
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from recbench.models.base import Positive, Reference
from recbench.models.ctr.autoint import AutoInt
from recbench.models.layers.mlp import MLP


class AutoIntPlus(AutoInt):
    """Self-attention over field embeddings plus a multi-layer perceptron."""

    class Config(AutoInt.Config):
        """Hyper-parameters."""

        hidden: Annotated[tuple[Positive, ...], Field(min_length=1)] = (400, 400)
        """Widths of the perceptron."""
        batch_norm: bool = False
        """In the perceptron."""

    reference = Reference("BARS, AutoInt+_frappe_x1", "ctr/frappe", "auc", 0.9848, 0.004)

    def _perceptron(self, inputs: int) -> MLP:
        config = self.config
        return MLP(inputs, config.hidden, 1, dropout=config.dropout, batch_norm=config.batch_norm)
