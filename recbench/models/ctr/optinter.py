"""OptInter: for each pair of fields, memorise its joint values, factorise them, or leave them to the network.

Source      Lyu, Tang, Guo, Tang, He, Zhang, Liu: Memorize, Factorize, or be Naive. ICDE 2022, arXiv:2108.01265.
Layers      pair p of fields (i, j)     Z_p = a_p1 m_ij + a_p2 (f_i * f_j) + a_p3 0,     a_p = softmax(alpha_p / t),
            m_ij a vector of the joint value, f a second table. t falls by ``temperature_decay`` a training batch from 1
            to 0.01. All Z_p enter the first layer of the backbone's perceptron beside what it reads there itself: with
            W [x; Z] = W_x x + W_Z Z the backbone computes the first term and this model the second. So backbone=dnn is
            the published network over [E; Z], and without pairs a backbone is itself. Z enters the first perceptron
            that the backbone makes, which should read all fields of a row, as in dnn, deepfm, widedeep, dcn, xdeepfm.
Training    search: weights and alpha on the same batches, each with its optimiser settings. Then the greatest alpha of
            each pair is its choice, everything else goes back to its initial values, and training starts again with
            what was chosen; of the tables only the rows of pairs that use them are left.
Loss        the backbone's, and pair_l2 / 2 * (||m||^2 + ||f||^2)
Departures  the classifier is the backbone's, without the layer normalisation of the published one (most backbones have
            batch normalisation as an option); t counts training batches alone, the code evaluation batches too; tables
            of pairs start uniform within sqrt(3 / width) in both stages (code: unit normal, then (3 / width)^2), W_Z
            Xavier-normal; the backbone's settings train both stages; validation data stop both early (code: test data)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbench.errors import UsageError
from recbench.models.base import NonNegativeFloat, Positive, PositiveFloat, tunable
from recbench.models.explanation import Explanation, Matrix, Table
from recbench.models.layers.backbone import BackboneConfig, BackboneModel, snapshot
from recbench.models.layers.mlp import MLP
from recbench.models.layers.pairs import CrossEmbedding, CrossValues, ProductEmbedding, field_pairs
from recbench.models.procedure import Stage
from recbench.tasks.ctr import CTRBatch, CTRData, FieldSpace

METHODS = ("memorise", "factorise", "naive")
MEMORISE, FACTORISE, NAIVE = range(3)
LEAST_TEMPERATURE = 0.01


class OptInter(BackboneModel):
    """Around a backbone: how each pair of fields interacts is searched for, and the model trained again."""

    class Config(BackboneConfig):
        """Hyper-parameters."""

        backbone: str = "dnn"
        choices: Literal["search", "memorise", "factorise", "naive"] = "search"
        """Search for each pair's method, or take one for all of them."""
        pair_dim: Positive = tunable(4, choices=(2, 4, 8, 16))
        min_count: Positive = 2
        """Joint values in fewer training rows share one vector a pair."""
        pair_l2: NonNegativeFloat = tunable(1e-6, low=1e-9, high=1e-2, log=True)
        """Of the tables of pairs: added to the gradient as pair_l2 * weight."""
        choice_learning_rate: PositiveFloat = tunable(1e-3, low=1e-4, high=1e-1, log=True)
        """Of alpha."""
        temperature_decay: NonNegativeFloat = 5e-5
        search_epochs: Positive = 10
        search_patience: Positive = 1
        """Epochs without a better validation value before the search stops."""

    logits: nn.Parameter | None
    """alpha (P, 3) while it is searched for."""
    choices: Tensor
    shares: Tensor
    batches_seen: Tensor

    def __init__(self, config: Config, fields: FieldSpace, backbone: Any, values: CrossValues) -> None:
        super().__init__(config, fields, backbone)
        first = _first_layer(config.backbone, backbone)
        pairs = field_pairs(fields)
        n_pairs = len(pairs)
        self.memorised = CrossEmbedding(values, config.pair_dim)
        self.n_cross_vectors = len(self.memorised.weight)
        self.factorised = ProductEmbedding(fields, pairs, config.pair_dim)
        fans = first.in_features + first.out_features + n_pairs * config.pair_dim
        self.weight = nn.Parameter(torch.empty(first.out_features, n_pairs, config.pair_dim))
        nn.init.normal_(self.weight, std=(2 / fans) ** 0.5)
        self.logits = nn.Parameter(nn.init.xavier_normal_(torch.empty(n_pairs, len(METHODS))))
        self.register_buffer("choices", torch.full((n_pairs,), NAIVE))
        self.register_buffer("shares", torch.zeros(n_pairs, len(METHODS)))
        self.register_buffer("batches_seen", torch.zeros((), dtype=torch.int64))
        self._entering: Tensor
        backbone.register_forward_pre_hook(self._compute)
        first.register_forward_hook(self._enter)
        self.register_load_state_dict_pre_hook(_shape_as_saved)  # type: ignore[no-untyped-call]
        if config.choices != "search":
            self._choose(torch.full((n_pairs,), METHODS.index(config.choices)))

    @classmethod
    def create(cls, config: Any, data: CTRData) -> Self:
        """Make the model and its backbone, and count the joint values of training rows."""
        if len(data.fields.single) < 2:
            raise UsageError(
                "optinter pairs single-valued categorical fields: expected at least two in the benchmark, "
                f"found {len(data.fields.single)}"
            )
        values = CrossValues.of(data.fields, data.all_rows().ids, config.min_count)
        return cls(config, data.fields, config.make_backbone(data), values)

    @property
    def temperature(self) -> Tensor:
        """Return t of the next training batch, a scalar."""
        return (1 - self.config.temperature_decay * self.batches_seen).clamp_min(LEAST_TEMPERATURE)

    def interactions(self, batch: CTRBatch) -> Tensor:
        """Return Z (B, P, D): of all pairs while searching, then of the memorised and after them the factorised."""
        memorised, factorised = self.memorised(batch.ids), self.factorised(batch.ids)
        if self.logits is None:
            return torch.cat([memorised, factorised], 1)
        shares = (self.logits / self.temperature).softmax(1)
        if self.training:
            self.batches_seen += 1
        return shares[:, MEMORISE, None] * memorised + shares[:, FACTORISE, None] * factorised

    def _compute(self, backbone: nn.Module, inputs: tuple[CTRBatch]) -> None:
        self._entering = functional.linear(self.interactions(inputs[0]).flatten(1), self.weight.flatten(1))

    def _enter(self, layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        if output.shape != self._entering.shape:
            raise UsageError(
                f"backbone '{self.config.backbone}': expected a perceptron that reads all fields of a row at once, "
                f"found one with outputs of shape {tuple(output.shape)}"
            )
        return output + self._entering

    def procedure(self, data: CTRData) -> Iterator[Stage]:
        """Search, choose, go back to the initial weights, train again."""
        if self.logits is not None:
            initial = snapshot(self)
            alpha = {"params": [self.logits], "lr": self.config.choice_learning_rate, "weight_decay": 0.0}
            search = self._stage(data, alpha)
            yield replace(search, name="search", epochs=self.config.search_epochs, patience=self.config.search_patience)
            shares = (self.logits.detach() / self.temperature).softmax(1)
            self.load_state_dict(initial)
            self._choose(shares.argmax(1))
            self.shares.copy_(shares)
        yield self._stage(data)

    def _stage(self, data: CTRData, *others: dict[str, Any]) -> Stage:
        """Return the backbone's stage, in which the weights of pairs, and others, are trained too."""
        stage, phase = self.own_stage(data)
        if phase.optimizer != "adam":
            raise UsageError(f"backbone_config: optinter needs optimizer 'adam', found '{phase.optimizer}'")
        tables = [weight for weight in (self.memorised.weight, self.factorised.weight) if len(weight)]
        groups = [
            {"params": list(phase.parameters)},
            {"params": tables, "weight_decay": self.config.pair_l2},
            {"params": [self.weight], "weight_decay": 0.0},
            *others,
        ]
        return replace(stage, steps=[replace(phase, parameters=groups)])

    @torch.no_grad()
    def _choose(self, choices: Tensor) -> None:
        """Fix the method of each pair, and keep only the weights of pairs that need them."""
        memorised, factorised = ((choices.cpu() == method).nonzero().squeeze(1) for method in (MEMORISE, FACTORISE))
        self.memorised = self.memorised.take(memorised)
        self.factorised = self.factorised.take(factorised)
        self.weight = nn.Parameter(self.weight[:, torch.cat([memorised, factorised]).to(self.weight.device)])
        self.logits = None
        self.choices.copy_(choices)
        self.shares.copy_(functional.one_hot(choices, len(METHODS)))

    def explain(self, data: CTRData) -> Explanation:
        """Tell each pair's method, and how many parameters the choice has saved."""
        names = [field.name for field in self.fields.single]
        pairs, choices, shares = field_pairs(self.fields).tolist(), self.choices.tolist(), self.shares.tolist()
        matrix = [[0.0] * len(names) for _ in names]
        for (first, second), choice in zip(pairs, choices, strict=True):
            matrix[first][second] = matrix[second][first] = float(NAIVE - choice)
        columns: dict[str, list[str | float]] = {
            "pair": [f"{names[first]} x {names[second]}" for first, second in pairs],
            "method": [METHODS[choice] for choice in choices],
        }
        for method in reversed(range(len(METHODS))):
            columns[f"weight of {METHODS[method]}"] = [share[method] for share in shares]
        figures = {f"pairs, {name}": float(choices.count(method)) for method, name in enumerate(METHODS)}
        figures["parameters of pairs"] = float(self.memorised.weight.numel() + self.factorised.weight.numel())
        figures["parameters if all were memorised"] = float(self.n_cross_vectors * self.config.pair_dim)
        title = "Method of each pair: 2 memorise, 1 factorise, 0 naive"
        return Explanation(figures, [Table("Pairs", columns), Matrix(title, names, names, matrix)])


def _shape_as_saved(model: nn.Module, state: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """Before loading: if the saved model has chosen and this one has not, choose the same."""
    assert isinstance(model, OptInter)
    if model.logits is not None and f"{prefix}logits" not in state and f"{prefix}choices" in state:
        model._choose(state[f"{prefix}choices"])


def _first_layer(name: str, backbone: nn.Module) -> nn.Linear:
    for module in backbone.modules():
        if isinstance(module, MLP) and isinstance(module[0], nn.Linear):
            return module[0]
    raise UsageError(f"backbone '{name}': expected a model with a perceptron, which pairs can enter, such as dnn")
