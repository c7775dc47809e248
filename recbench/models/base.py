"""Base classes of models: what a model may define, and the configuration that carries its search space."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from recbench.errors import UsageError, unknown
from recbench.models.explanation import Explanation
from recbench.models.procedure import Phase, Stage, Sweep
from recbench.tasks.batches import BatchSource
from recbench.tasks.ctr import CTRBatch, CTRData, FieldSpace
from recbench.tasks.interactions import TopNData, UserBatch
from recbench.tasks.rating import RatingBatch, RatingData

Positive = Annotated[int, Field(gt=0)]
PerRow = Annotated[int, Field(gt=0, le=10_000)]
"""What each row of a batch has as many of, negatives or steps: bounded, for memory grows with it."""
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
Factor = Annotated[float, Field(gt=0, le=1)]

Owners = Mapping[str, tuple[str, tuple[Any, ...]]]
"""Key -> the other key it depends on, and the values of that one beside which it means something."""


def tunable(
    default: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    log: bool = False,
    choices: tuple[Any, ...] | None = None,
) -> Any:
    """Declare a config field's default and its search space: a range, or a choice of values."""
    space: dict[str, Any] = {"choices": list(choices)} if choices else {"low": low, "high": high, "log": log}
    return Field(default, json_schema_extra={"search": space})


class ModelConfig(BaseModel):
    """Hyper-parameters of a model: defaults, bounds and search space in one place; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    owners: ClassVar[Owners] = {}
    """Of the keys that only some values of another key have."""

    @classmethod
    def parse(cls, values: Mapping[str, Any], origin: str) -> Self:
        """Validate values that come from ``origin`` (the command line, a file); any fault is one sentence."""
        for key in values:
            if key not in cls.model_fields:
                raise unknown("key", key, cls.model_fields, f"in {origin}")
        try:
            return cls.model_validate(dict(values))
        except UsageError as error:  # of a validator that looks at several keys
            raise UsageError(f"{error} (in {origin})") from None
        except ValidationError as error:
            first = error.errors()[0]
            fault = first["msg"].removeprefix("Value error, ")
            if first["loc"]:
                key = ".".join(str(part) for part in first["loc"])
                fault = f"{key}: {fault}, found {first['input']!r}"
            raise UsageError(f"{fault} (in {origin})") from None

    @classmethod
    def search_space(cls) -> dict[str, dict[str, Any]]:
        """Return the search space by key: ``{"choices": [...]}`` or ``{"low": ..., "high": ..., "log": ...}``."""
        extras: dict[str, Any] = {name: field.json_schema_extra or {} for name, field in cls.model_fields.items()}
        return {name: extra["search"] for name, extra in extras.items() if "search" in extra}

    @model_validator(mode="after")
    def _keys_have_an_owner(self) -> Self:
        for key, (other, values) in self.owners.items():
            if not self.matters(key) and getattr(self, key) != type(self).model_fields[key].default:
                expected = " or ".join(map(_shown, values))
                found = _shown(getattr(self, other))
                raise UsageError(f"{key}: expected only with {other} = {expected}, found {other} = {found}")
        return self

    def matters(self, key: str) -> bool:
        """Say whether the key has a meaning beside the other values of this configuration."""
        if key not in self.owners:
            return True
        other, values = self.owners[key]
        return getattr(self, other) in values


def _shown(value: Any) -> str:
    """Write a value as it is given on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class TrainedConfig(ModelConfig):
    """Of every model trained by gradient steps."""

    learning_rate: PositiveFloat = tunable(1e-3, low=1e-4, high=1e-2, log=True)
    weight_decay: NonNegativeFloat = 0.0
    """Adam's: added to the gradient as weight_decay * parameter."""
    batch_size: Positive = 2048
    epochs: Positive = 100
    patience: Positive = 5
    """Epochs without a better validation value before training stops."""


@dataclass(frozen=True)
class Reference:
    """A published number this model is checked against."""

    source: str
    """Where it is printed."""
    benchmark: str
    """Full name of the benchmark it belongs to; one not of this package where there is none."""
    metric: str
    value: float
    tolerance: float


class Model(nn.Module):
    """A model: its configuration, its parameters, its loss and its scores, in one file.

    The class name in lower case is the model's name. Loops, devices, logging, checkpoints and metrics are not its
    business; its constructor draws initial weights from torch's global generator, which the run has seeded.
    """

    Config: ClassVar[type[ModelConfig]] = ModelConfig
    """Its hyper-parameters, a class nested in the model's."""
    tasks: ClassVar[tuple[str, ...]]
    """Names of the tasks whose data it can train on."""
    version: ClassVar[str] = "1"
    """Raised when a change of code changes its numbers."""
    reference: ClassVar[Reference | None] = None
    deterministic: ClassVar[bool] = False
    """Whether all seeds give the same model."""

    config: Any

    @classmethod
    def model_name(cls) -> str:
        """Return the name on the command line and in records."""
        return cls.__name__.lower()

    @classmethod
    def create(cls, config: ModelConfig, data: Any) -> Self:
        """Make the model for the given training data."""
        return cls(config, data)

    @classmethod
    def deviations(cls, config: Any) -> list[str]:
        """Return a sentence for each way in which this configuration departs from how the model is published."""
        return []

    def procedure(self, data: Any) -> Iterator[Stage]:
        """Yield the stages of training: by default one, of one phase over ``batches`` with ``loss``."""
        config = self.config
        phase = Phase(
            "train", self.batches(data), self.loss, list(self.parameters()), config.learning_rate, config.weight_decay
        )
        yield Stage("train", [phase], config.epochs, config.patience)

    def batches(self, data: Any) -> BatchSource[Any]:
        """Return the training batches this model wants of the task's data."""
        raise TypeError(f"{type(self).__name__} defines neither batches() nor procedure()")

    def loss(self, batch: Any) -> Tensor:
        """Return the mean loss of a batch, a scalar."""
        raise TypeError(f"{type(self).__name__} defines neither loss() nor procedure()")

    def explain(self, data: Any) -> Explanation | None:
        """Say what training has selected or attends to, on training data; called once, when it has ended."""
        return None


class CTRModel(Model):
    """Scores rows of categorical fields: ``forward`` gives logits, trained by binary cross-entropy."""

    tasks: ClassVar[tuple[str, ...]] = ("ctr",)
    multi_task: ClassVar[bool] = False
    """Whether it learns several labels at once, and so can train on a benchmark that has them."""

    def __init__(self, config: ModelConfig, fields: FieldSpace) -> None:
        super().__init__()
        self.config = config
        self.fields = fields

    @classmethod
    def create(cls, config: ModelConfig, data: CTRData) -> Self:
        """Make the model for the fields of the data."""
        cls.check_labels(data)
        return cls(config, data.fields)

    @classmethod
    def check_labels(cls, data: CTRData) -> None:
        """Raise ``UsageError`` if the data have several labels and the model learns one."""
        if len(data.labels) > 1 and not cls.multi_task:
            raise UsageError(
                f"{cls.model_name()} learns one label, and this benchmark has {len(data.labels)}: "
                f"{', '.join(data.labels)}; use a model that learns several, such as mmoe"
            )

    @abstractmethod
    def forward(self, batch: CTRBatch) -> Tensor:
        """Return logits, shape (B,); (B, T) with ``multi_task``, for T labels."""

    def batches(self, data: CTRData) -> BatchSource[CTRBatch]:
        """All rows in random order."""
        return data.rows(self.config.batch_size)

    def loss(self, batch: CTRBatch) -> Tensor:
        """Mean binary cross-entropy, over rows and labels."""
        logits: Tensor = self(batch)
        return nn.functional.binary_cross_entropy_with_logits(logits.view_as(batch.labels), batch.labels)


class Recommender(Model):
    """Scores all items for a block of users."""

    tasks: ClassVar[tuple[str, ...]] = ("topn", "kg", "sequential")
    folds_in: ClassVar[bool] = False
    """Whether it scores from the history in the batch, and so can score users who were not in training."""

    @classmethod
    def create(cls, config: ModelConfig, data: TopNData) -> Self:
        """Make the model, if it can score the users who will be asked for."""
        if data.fold_in and not cls.folds_in:
            raise UsageError(
                f"{cls.model_name()} knows users by their number, and this benchmark asks for users who are not in "
                "training; use a model with folds_in = True, which scores from a user's history"
            )
        return super().create(config, data)

    def __init__(self, config: ModelConfig, data: TopNData) -> None:
        super().__init__()
        self.config = config
        self.n_users = data.n_users
        self.n_items = data.n_items

    def prepare_scoring(self) -> None:
        """Compute once, before an evaluation, what its calls of ``score`` share."""

    @abstractmethod
    def score(self, batch: UserBatch) -> Tensor:
        """Return the scores of all items, shape (B, I)."""


class ClosedFormRecommender(Recommender):
    """A recommender with a solution in closed form: ``fit`` in place of a loss. All seeds give the same model."""

    deterministic: ClassVar[bool] = True

    @abstractmethod
    def fit(self, data: TopNData) -> None:
        """Solve for the model's buffers."""

    def procedure(self, data: TopNData) -> Iterator[Stage]:
        """One stage of one sweep."""
        yield Stage("fit", [Sweep("fit", lambda: self.fit(data))])


class RatingModel(Model):
    """Predicts the probability that a user likes an item."""

    tasks: ClassVar[tuple[str, ...]] = ("rating",)

    def __init__(self, config: ModelConfig, data: RatingData) -> None:
        super().__init__()
        self.config = config
        self.n_users = data.n_users
        self.n_items = data.n_items

    @abstractmethod
    def predict(self, users: Tensor, items: Tensor) -> Tensor:
        """Return probabilities, shape (B,)."""

    def batches(self, data: RatingData) -> BatchSource[RatingBatch]:
        """All observed pairs in random order."""
        return data.ratings(self.config.batch_size)


def parameter_count(model: nn.Module) -> int:
    """Return the number of trained numbers: parameters, and the buffers a closed form solves for."""
    trained = sum(parameter.numel() for parameter in model.parameters())
    if trained:
        return trained
    return sum(buffer.numel() for buffer in model.buffers() if torch.is_floating_point(buffer) and not _flat(buffer))


def _flat(buffer: Tensor) -> bool:
    return math.prod(buffer.shape) <= 1
