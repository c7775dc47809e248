"""What a trained model tells about itself: the figures, tables and matrices that ``recbench explain`` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Matrix:
    """One number for each row and column, drawn as a heat map: attention of fields to fields."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Table:
    """Columns of equal length; the first is a label, and the last, where it holds numbers, is drawn as bars."""

    title: str
    columns: Mapping[str, Sequence[str | float]]


@dataclass(frozen=True)
class Explanation:
    """``figures``: single numbers by name, such as the share of features kept."""

    figures: Mapping[str, float] = field(default_factory=dict)
    parts: Sequence[Matrix | Table] = ()
