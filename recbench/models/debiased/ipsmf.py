"""IPS-MF: matrix factorisation whose errors are weighted by inverse propensity scores.

Schnabel, Swaminathan, Singh, Chandak, Joachims, "Recommendations as treatments: debiasing learning and evaluation",
ICML 2016, arXiv:1602.05352, equations 9 to 11.

    loss = (1 / |D|) sum over observed pairs of BCE(f_ui, y_ui) / p_ui             f_ui as in naive MF
    normalised (SNIPS): the same sum, divided by the sum of the 1 / p_ui

Departures: those of naive MF, binary cross-entropy instead of squared errors, and propensities clipped from below.
"""

from __future__ import annotations

from torch import Tensor

from recbench.metrics import debiased
from recbench.models.base import Reference
from recbench.models.debiased.naivemf import NaiveMF
from recbench.models.layers.factorisation import FactorisationConfig
from recbench.models.layers.propensity import Propensities, PropensityConfig
from recbench.tasks.rating import RatingBatch, RatingData


class IPSMF(NaiveMF):
    """Matrix factorisation with errors weighted by inverse propensities: unbiased if these are right."""

    class Config(FactorisationConfig, PropensityConfig):
        """Hyper-parameters."""

        normalise: bool = False
        """Divide by the sum of the weights (SNIPS) instead of by the number of pairs (IPS)."""

    reference = Reference(
        "re-run of haoxuanli-pku/ICLR24-Kernel-Balancing, decay chosen on test", "rating/coat-all", "auc", 0.741, 0.02
    )

    def __init__(self, config: Config, data: RatingData) -> None:
        super().__init__(config, data)
        self.propensities = Propensities(config, data)
        self.pairs_per_observed = data.n_pairs / len(data.users)

    def loss(self, batch: RatingBatch) -> Tensor:
        """IPS or SNIPS estimate of the mean binary cross-entropy over all pairs."""
        errors, propensities = self.errors(batch), self.propensities(batch)
        if self.config.normalise:
            return debiased.snips(errors, propensities)
        return debiased.ips(errors, propensities, len(batch) * self.pairs_per_observed)
