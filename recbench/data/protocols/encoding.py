"""Encoding of fields: values to ids and floats, learned from training rows alone, in bounded memory.

Two passes. While the rows are read, each field writes provisional numbers of its values (in order of first sight) to a
file of its own. When the split is known, the numbers of training rows are counted, the vocabulary is cut to them, and
the files are read again and mapped to final ids. Rows behind those of the log (of the table of items) are encoded with
them, and nothing is learned from them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recbench.data.protocols.fields import FieldSpec
from recbench.data.readers.convert import filled

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]

# Pieces that stay in the processor's cache.
ROWS_AT_ONCE = 2**15
COUNTED_AT_ONCE = 2**17
QUANTILE_SAMPLE = 2**20
LOWEST_BUCKET = -100
UNSEEN = 0


class Dictionary:
    """Provisional numbers of text values, in order of first sight; it grows with the distinct values only."""

    def __init__(self) -> None:
        self._type = pl.Categorical(pl.Categories.random())
        # polars forgets the numbers when no column with them is left.
        self._anchor = pl.Series([], dtype=self._type)
        self._values: list[pl.Series] = []
        self._size = 0

    def encode(self, values: pl.Series) -> Ints:
        """Return the number of each value."""
        codes = values.cast(self._type).to_physical().to_numpy().view(np.int32)
        if len(codes) and (size := int(codes.max()) + 1) > self._size:
            new = np.flatnonzero(codes >= self._size)
            place = np.empty(size - self._size, dtype=np.int64)
            place[codes[new] - self._size] = new
            self._values.append(values[place])
            self._size = size
        return codes

    def values(self) -> pl.Series:
        """Return all values, by number."""
        return pl.concat(self._values) if self._values else pl.Series([], dtype=pl.String)


class Column:
    """A file of numbers, one for each row (or value), written in order and read in order."""

    def __init__(self, path: Path, dtype: type[np.generic]) -> None:
        self._path = path
        self._dtype = np.dtype(dtype)
        self._file: BinaryIO = path.open("wb")

    def append(self, values: NDArray[np.generic]) -> None:
        """Write the next numbers."""
        self._file.write(np.ascontiguousarray(values, dtype=self._dtype).data)

    def rewind(self) -> None:
        """Go back to the first number, to read."""
        self._file.close()
        self._file = self._path.open("rb")

    def read(self, count: int) -> NDArray[Any]:
        """Return the next numbers, fewer at the end."""
        return np.fromfile(self._file, dtype=self._dtype, count=count)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Vocabulary:
    """The ids of one field, or of several that share them: id 0 means "not seen in training"."""

    def __init__(self, min_count: int) -> None:
        self.dictionary = Dictionary()
        self.min_count = min_count
        self.counts = np.zeros(0, dtype=np.int64)
        self.size = 0
        self.kept = pl.Series([], dtype=pl.String)
        self._final: Ints = np.zeros(0, dtype=np.int32)

    def count(self, codes: Ints) -> None:
        """Count values of training rows."""
        found = np.bincount(codes, minlength=len(self.counts))
        found[: len(self.counts)] += self.counts
        self.counts = found

    def close(self, values: pl.Series) -> None:
        """Give ids to the values that training has often enough, in the order of their text."""
        counts = np.zeros(len(values), dtype=np.int64)
        counts[: len(self.counts)] = self.counts
        kept = pl.DataFrame({"value": values, "code": np.arange(len(values))}).filter(
            pl.Series(counts >= self.min_count)
        )
        kept = kept.sort("value")
        self._final = np.full(len(values), UNSEEN, dtype=np.int32)
        self._final[kept["code"].to_numpy()] = np.arange(1, len(kept) + 1, dtype=np.int32)
        self.kept = kept["value"]
        self.size = len(kept) + 1

    def shift(self, offset: int) -> None:
        """Let the ids begin at an offset."""
        self._final += np.int32(offset)

    def ids(self, codes: Ints) -> Ints:
        """Return the final id of each provisional number; a number above all is taken for the last."""
        return np.take(self._final, codes, mode="clip")


class Encoder(ABC):
    """One field on its way from raw values to what a model reads."""

    def __init__(self, spec: FieldSpec, folder: Path, dtype: type[np.generic]) -> None:
        self.spec = spec
        self.column = Column(folder / f"{spec.name}.values", dtype)
        self.offset = 0

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of ids, when they are fixed."""

    @abstractmethod
    def read(self, values: pl.Series) -> None:
        """Take the next rows in."""

    @abstractmethod
    def learn(self, train: NDArray[np.bool_]) -> None:
        """Learn from the training rows, given by a mask over all rows."""

    def number(self) -> None:
        """Fix the ids, when every field has learned."""
        return

    def place(self, offset: int) -> None:
        """Let the field's ids begin at an offset, when they are fixed."""
        self.offset = offset

    def close(self) -> None:
        """Close the field's files."""
        self.column.close()

    def texts(self) -> pl.Series | None:
        """Return the raw values by id, the first standing for what training has not seen; None for a dense field."""
        return None

    def _chunks(self, n_rows: int) -> Iterator[tuple[slice, NDArray[Any]]]:
        self.column.rewind()
        for start in range(0, n_rows, COUNTED_AT_ONCE):
            rows = slice(start, min(start + COUNTED_AT_ONCE, n_rows))
            yield rows, self.column.read(rows.stop - rows.start)
        self.column.rewind()


class Categorical(Encoder):
    """A field that becomes ids."""

    @abstractmethod
    def ids(self, n: int) -> Ints:
        """Return the ids of the next n rows (or values)."""


class Tokens(Categorical):
    """A field of one token a row."""

    def __init__(self, spec: FieldSpec, folder: Path, vocabulary: Vocabulary) -> None:
        super().__init__(spec, folder, np.int32)
        self.vocabulary = vocabulary

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.vocabulary.size

    def read(self, values: pl.Series) -> None:
        """Take the next rows in."""
        self.column.append(self.vocabulary.dictionary.encode(_text(values, self.spec)))

    def learn(self, train: NDArray[np.bool_]) -> None:
        """Count the values of training rows."""
        for rows, codes in self._chunks(len(train)):
            self.vocabulary.count(codes[train[rows]])

    def number(self) -> None:
        """Fix the ids, once for all fields that share them."""
        if self.spec.vocabulary is None:
            self.vocabulary.close(self.values())

    def place(self, offset: int) -> None:
        """Let the ids begin at an offset, once for all fields that share them."""
        super().place(offset)
        if self.spec.vocabulary is None:
            self.vocabulary.shift(offset)

    def values(self) -> pl.Series:
        """Return the values by provisional number."""
        return self.vocabulary.dictionary.values()

    def ids(self, n: int) -> Ints:
        """Return the ids of the next n rows (or values)."""
        return self.vocabulary.ids(self.column.read(n))

    def texts(self) -> pl.Series | None:
        """Return the raw values by id."""
        return _with_unseen(self.vocabulary.kept)


class Lists(Tokens):
    """A field of any number of tokens a row."""

    def __init__(self, spec: FieldSpec, folder: Path, vocabulary: Vocabulary) -> None:
        super().__init__(spec, folder, vocabulary)
        self.lengths = Column(folder / f"{spec.name}.lengths", np.int32)

    def read(self, values: pl.Series) -> None:
        """Take the next rows in."""
        lists = values if self.spec.sequence is None else values.list.tail(self.spec.sequence)
        self.lengths.append(lists.list.len().fill_null(0).to_numpy())
        super().read(lists.explode(keep_nulls=False, empty_as_null=False))

    def learn(self, train: NDArray[np.bool_]) -> None:
        """Count the values of training rows."""
        self.column.rewind()
        self.lengths.rewind()
        for start in range(0, len(train), ROWS_AT_ONCE):
            chosen = train[start : start + ROWS_AT_ONCE]
            lengths = self.lengths.read(len(chosen))
            codes = self.column.read(int(lengths.sum()))
            self.vocabulary.count(codes[np.repeat(chosen, lengths)])
        self.column.rewind()
        self.lengths.rewind()

    def close(self) -> None:
        """Close the field's files."""
        super().close()
        self.lengths.close()

    def rows(self, n_rows: int) -> tuple[Ints, Ints]:
        """Return the lengths of the next rows, and the ids of all their values."""
        lengths = self.lengths.read(n_rows)
        return lengths, self.ids(int(lengths.sum()))


class Buckets(Tokens):
    """A number as a token: the bucket of its squared logarithm, or that it is missing."""

    def read(self, values: pl.Series) -> None:
        """Take the next rows in."""
        numbers = values.to_numpy()
        with np.errstate(invalid="ignore", divide="ignore"):
            buckets = np.where(numbers > 2, np.floor(np.log(numbers) ** 2), np.trunc(numbers))
        buckets = np.maximum(buckets, LOWEST_BUCKET) - LOWEST_BUCKET + 1
        self.column.append(np.where(np.isnan(numbers), 0, buckets))

    def values(self) -> pl.Series:
        """Return the text of every bucket seen in training, by provisional number."""
        numbers = np.arange(len(self.vocabulary.counts)) + LOWEST_BUCKET - 1
        return pl.Series(["", *map(str, numbers[1:])], dtype=pl.String)

    def ids(self, n: int) -> Ints:
        """Return the ids of the next n rows; a bucket above all of training is unseen."""
        codes = self.column.read(n)
        known = codes < len(self.vocabulary.counts)
        return np.where(known, self.vocabulary.ids(codes), self.offset + UNSEEN)


class Quantiles(Categorical):
    """A number as the quantile it falls in, of at most a million evenly spaced training rows; missing is "unseen"."""

    def __init__(self, spec: FieldSpec, folder: Path) -> None:
        super().__init__(spec, folder, np.float32)
        self._edges: Floats = np.zeros(0, dtype=np.float32)

    @property
    def size(self) -> int:
        """One id a quantile, and "unseen"."""
        return len(self._edges) + 2

    def read(self, values: pl.Series) -> None:
        """Take the next rows in."""
        self.column.append(values.to_numpy())

    def learn(self, train: NDArray[np.bool_]) -> None:
        """Find the edges of the quantiles."""
        step = -(-int(train.sum()) // QUANTILE_SAMPLE)
        wanted = np.flatnonzero(train)[:: max(step, 1)]
        sample = []
        for rows, values in self._chunks(len(train)):
            low, high = np.searchsorted(wanted, (rows.start, rows.stop))
            sample.append(values[wanted[low:high] - rows.start])
        known = np.concatenate(sample)
        known = known[~np.isnan(known)]
        shares = np.arange(1, self.spec.bins) / self.spec.bins
        self._edges = np.unique(np.quantile(known, shares)).astype(np.float32) if known.size else known

    def ids(self, n: int) -> Ints:
        """Return the ids of the next n rows."""
        values = self.column.read(n)
        ids = np.searchsorted(self._edges, values, side="left").astype(np.int32) + 1
        ids[np.isnan(values)] = UNSEEN
        return ids + np.int32(self.offset)

    def texts(self) -> pl.Series | None:
        """Return the upper edge of each quantile."""
        return _with_unseen(pl.Series([f"<= {edge:g}" for edge in self._edges] + ["above"]))


class Numbers(Encoder):
    """A dense field."""

    def __init__(self, spec: FieldSpec, folder: Path) -> None:
        super().__init__(spec, folder, np.float32)
        self._mean = 0.0
        self._deviation = 1.0

    @property
    def size(self) -> int:
        """One id: the field has one vector, which its number multiplies."""
        return 1

    def read(self, values: pl.Series) -> None:
        """Take the next rows in."""
        self.column.append(values.to_numpy())

    def learn(self, train: NDArray[np.bool_]) -> None:
        """Find mean and deviation, if the field is standardised."""
        if self.spec.transform == "none":
            self.column.rewind()
            return
        count, mean, squares = 0, 0.0, 0.0
        for rows, values in self._chunks(len(train)):
            known = values[train[rows] & ~np.isnan(values)].astype(np.float64)
            if not known.size:
                continue
            # Chan et al.'s update: stable, whatever the size of the numbers.
            shift = known.mean() - mean
            total = count + known.size
            squares += np.square(known - known.mean()).sum() + shift**2 * count * known.size / total
            mean += shift * known.size / total
            count = total
        self._mean = mean
        self._deviation = float(np.sqrt(squares / count)) if squares > 0 else 1.0

    def floats(self, n_rows: int) -> Floats:
        """Return the numbers of the next rows; a missing one is the mean (0 without a transform)."""
        values = self.column.read(n_rows)
        return np.nan_to_num((values - np.float32(self._mean)) / np.float32(self._deviation), nan=0.0)


def _text(values: pl.Series, spec: FieldSpec) -> pl.Series:
    text = filled(values)
    if spec.prefix is not None:
        text = text.str.head(spec.prefix)
    return text if spec.suffix is None else text.str.tail(spec.suffix)


def _with_unseen(values: pl.Series) -> pl.Series:
    return pl.concat([pl.Series([None], dtype=pl.String), values.cast(pl.String).rename("")])
