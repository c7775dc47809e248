"""RP3beta: P3alpha that counts walks to popular items less.

Source      Christoffel, Paudel, Newell, Bernstein, "Blockbusters and Wallflowers: Accurate, Diverse, and Scalable
            Recommendations with Random Walks", RecSys 2015; the form of Ferrari Dacrema et al., TOIS 2021,
            arXiv:1911.07698, section 4.1, and of Anelli et al., "Challenging the Myth of Graph Collaborative
            Filtering", RecSys 2023, arXiv:2308.00404
Weights     w_ji |U_i|^-beta with the w_ji of P3alpha, and the K largest as there
Score       as P3alpha; beta = 0 is P3alpha
Departures  none
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recbench.models.base import NonNegativeFloat, Reference, tunable
from recbench.models.cf.p3alpha import P3Alpha


class RP3Beta(P3Alpha):
    """Random walks of three steps, re-weighted by the popularity of their end (Christoffel et al., RecSys 2015)."""

    class Config(P3Alpha.Config):
        """Hyper-parameters. Published on Gowalla by Anelli et al.: 777 neighbours, alpha 0.566, beta 0.0011."""

        beta: NonNegativeFloat = tunable(0.6, low=0.0, high=2.0)
        """Power of an item's popularity that its weights are divided by."""

    reference = Reference("Anelli et al., RecSys 2023", "topn/gowalla", "recall@20", 0.1829, 0.0027)

    def rewards(self, popularity: NDArray[np.integer]) -> NDArray[np.floating]:
        """Return ``|U_i|^-beta``, shape (I,)."""
        return np.maximum(popularity, 1).astype(np.float32) ** -self.config.beta
