"""DR-JL: doubly robust joint learning of a prediction and an imputation model.

Wang, Zhang, Sun, Qi, "Doubly robust joint learning for recommendation on data missing not at random", ICML 2019,
PMLR 97. D: all pairs, O: observed ones, f: prediction, g: pseudo-labels of a second factorisation.

    e_ui = BCE(f_ui, y_ui),    ehat_ui = BCE(f_ui, g_ui)
    prediction step:   (1 / |D|) [ sum_D ehat + sum_O (e - ehat) / p ]    in the parameters of f
    imputation step:   (1 / |D|) sum_O (e - ehat)^2 / p                   in the parameters of g

The steps alternate batch by batch. A batch's B pairs of O stand for B |D| / |O| pairs of D; the mean of ehat over D is
estimated on pairs drawn uniformly.

Departures: those of IPS-MF; imputed errors from pseudo-labels, as in the code of Li et al., ICLR 2024,
arXiv:2404.19596, while the paper imputes errors directly. That code leaves ehat unweighted on O and takes sum_O per
observed pair, which is not doubly robust; here it is the estimator above.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from recbench.metrics import debiased
from recbench.models.base import Positive, RatingModel, Reference
from recbench.models.layers.factorisation import Factorisation, FactorisationConfig
from recbench.models.layers.propensity import Propensities, PropensityConfig
from recbench.models.procedure import Phase, Stage
from recbench.tasks.rating import RatingBatch, RatingData


class DRJL(RatingModel):
    """Matrix factorisation with a doubly robust loss: unbiased if propensities or imputed errors are right."""

    class Config(FactorisationConfig, PropensityConfig):
        """Hyper-parameters, the same for both factorisations."""

        space_per_observed: Positive = 4
        """Pairs of the whole space drawn for each observed pair; more of them mean less noise, not another target."""

    reference = Reference(
        "re-run of haoxuanli-pku/ICLR24-Kernel-Balancing, decay chosen on test", "rating/coat-all", "auc", 0.746, 0.02
    )

    def __init__(self, config: Config, data: RatingData) -> None:
        super().__init__(config, data)
        self.prediction = Factorisation(data.n_users, data.n_items, config)
        self.imputation = Factorisation(data.n_users, data.n_items, config)
        self.propensities = Propensities(config, data)
        self.pairs_per_observed = data.n_pairs / len(data.users)

    def predict(self, users: Tensor, items: Tensor) -> Tensor:
        """Return probabilities, shape (B,)."""
        logits: Tensor = self.prediction(users, items)
        return logits.sigmoid()

    def procedure(self, data: RatingData) -> Iterator[Stage]:
        """One stage: a step of the prediction model, a step of the imputation model, in turn."""
        config = self.config
        space = config.space_per_observed
        phases = [
            Phase(name, batches, loss, list(trained.parameters()), config.learning_rate, config.weight_decay)
            for name, batches, loss, trained in (
                ("prediction", data.ratings(config.batch_size, space), self.prediction_loss, self.prediction),
                ("imputation", data.ratings(config.batch_size), self.imputation_loss, self.imputation),
            )
        ]
        yield Stage("joint", phases, config.epochs, config.patience, alternate=True)

    def prediction_loss(self, batch: RatingBatch) -> Tensor:
        """Doubly robust estimate of the mean error over all pairs, for given pseudo-labels."""
        with torch.no_grad():
            pseudo_O = self.imputation(batch.users, batch.items).sigmoid()
            pseudo_D = self.imputation(batch.space_users, batch.space_items).sigmoid()
        logits_O = self.prediction(batch.users, batch.items)
        return debiased.dr(
            errors_O=bce(logits_O, batch.labels, reduction="none"),
            imputed_O=bce(logits_O, pseudo_O, reduction="none"),
            propensities_O=self.propensities(batch),
            imputed_D=bce(self.prediction(batch.space_users, batch.space_items), pseudo_D, reduction="none"),
            n_pairs=len(batch) * self.pairs_per_observed,
        )

    def imputation_loss(self, batch: RatingBatch) -> Tensor:
        """IPS estimate of the mean squared error of the imputed errors, for a given prediction model."""
        with torch.no_grad():
            logits = self.prediction(batch.users, batch.items)
        imputed = bce(logits, self.imputation(batch.users, batch.items).sigmoid(), reduction="none")
        missed = bce(logits, batch.labels, reduction="none") - imputed
        return debiased.ips(missed.square(), self.propensities(batch), len(batch) * self.pairs_per_observed)
