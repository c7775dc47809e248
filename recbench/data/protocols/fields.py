"""Input fields of click models, as a benchmark describes them."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

BINS = 32


def without_unused(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Leave out those of the keys that have no value.

    A run's identity is made of what its benchmark says, and a key that it does not use is no part of that.
    """
    return {key: value for key, value in values.items() if value or key not in keys}


class FieldSpec(BaseModel):
    """One input field of a click model: a column of the log, of the users or of the items."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    column: str | None = None
    """Column it is made from, where its name differs."""
    prefix: PositiveInt | None = None
    """Keep only this many leading characters."""
    suffix: PositiveInt | None = None
    """Keep only this many trailing characters."""
    multi: bool = False
    """Several values a row (a list column), in no order."""
    sequence: PositiveInt | None = None
    """Several values a row, in order, of which at most so many, the last ones, are kept."""
    transform: Literal["none", "standardise", "log-square", "quantile"] | None = None
    """Of a column of numbers. ``none`` and ``standardise`` (to mean 0 and deviation 1; missing becomes the mean) give a
    dense field. ``log-square`` (floor(log(x)^2) above 2, the whole number below, as the winners of the Criteo challenge
    did) and ``quantile`` give a categorical one."""
    bins: PositiveInt = BINS
    """Of ``quantile``."""
    min_count: PositiveInt = 1
    """Values seen in fewer training rows become "unseen"."""
    vocabulary: str | None = None
    """Another field whose ids this one shares (a user's past items and the item)."""
    history_of: str | None = None
    """A sequence that is in no column: the values of that field, of one token, in the same user's rows of an earlier
    time, oldest first."""
    positive: bool = False
    """Of a history: of positive rows only, by the first label."""

    @property
    def source(self) -> str:
        """Name of the column."""
        return self.column or self.name

    @property
    def ragged(self) -> bool:
        """Whether a row has any number of values."""
        return self.multi or self.sequence is not None

    @property
    def dense(self) -> bool:
        """Whether the field is a number, not an id."""
        return self.transform in {"none", "standardise"}

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [self.multi, self.sequence is not None, self.transform is not None]
        if sum(kinds) > 1:
            raise ValueError(f"field '{self.name}': multi, sequence and transform exclude each other")
        if self.vocabulary and self.min_count > 1:
            raise ValueError(
                f"field '{self.name}': min_count belongs to the field '{self.vocabulary}', which has the ids"
            )
        if self.bins != BINS and self.transform != "quantile":
            raise ValueError(f"field '{self.name}': bins are those of transform: quantile, which it has not")
        if self.dense and self.min_count > 1:
            raise ValueError(f"field '{self.name}': min_count counts values of tokens or buckets, and it is a number")
        if self.transform and (self.prefix or self.suffix or self.vocabulary):
            raise ValueError(
                f"field '{self.name}': prefix, suffix and vocabulary are for tokens, and it has a transform"
            )
        if self.history_of and not (self.sequence and self.vocabulary):
            raise ValueError(
                f"field '{self.name}': a history needs sequence, the most values it shows, and vocabulary, whose ids "
                "they have"
            )
        if self.history_of and (self.column or self.prefix or self.suffix):
            raise ValueError(
                f"field '{self.name}': column, prefix and suffix are those of the field '{self.history_of}', whose "
                "history it is"
            )
        if self.positive and not self.history_of:
            raise ValueError(f"field '{self.name}': positive says which rows a history shows, and it has no history_of")
        return self

    @model_serializer(mode="wrap")
    def _as_given(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_unused(dump(self), "history_of", "positive")
