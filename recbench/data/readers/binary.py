"""Binary containers of arrays: NumPy archives, pickles, HDF5."""

import pickle
import pickletools
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recbench.data.cards import Hdf5Table, NpzTable, PickleTable
from recbench.data.readers.block import Block, require
from recbench.data.readers.lists import nested
from recbench.errors import RecbenchError, UsageError

_MAX_BYTES = 1 << 30
"""Largest file, and largest array, that is read: they are in memory as a whole."""


def read_npz(paths: Sequence[Path], spec: NpzTable) -> Iterator[Block]:
    """Read a two-dimensional array of NumPy archives: columns ``0``, ``1``, ... Pickled arrays are not opened.

    Raises:
        RecbenchError: not a NumPy archive, no such array in it, or an array that is not a matrix of numbers.
    """
    for path in paths:
        array = _numbers(path, _npz_array(path, spec.array), f"the array '{spec.array}'")
        if array.ndim != 2:
            raise RecbenchError(
                f"{path}: the array '{spec.array}' has the shape {array.shape}, expected two dimensions"
            )
        require(path, spec.columns, map(str, range(array.shape[1])))
        yield Block(pl.DataFrame({name: array[:, int(name)] for name in spec.columns}), None, path)


def _npz_array(path: Path, name: str) -> Any:
    # Broken bytes make zipfile, zlib and NumPy raise errors of a dozen kinds, and each means that the file is broken.
    try:
        archive = np.load(path, allow_pickle=False)
    except Exception as error:
        raise RecbenchError(f"{path}: not a NumPy archive (.npz): {error}") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise RecbenchError(f"{path}: one array (.npy), expected a NumPy archive (.npz)")
    with archive:
        _require_array(path, name, archive.files)
        try:
            return archive[name]
        except Exception as error:
            raise RecbenchError(f"{path}: the array '{name}' cannot be read: {error}") from error


def _require_array(path: Path, name: str, found: Sequence[str]) -> None:
    """Check that a file has an array.

    Raises:
        RecbenchError: it does not; the message names the arrays found.
    """
    if name not in found:
        raise RecbenchError(f"{path}: there is no array '{name}'; found: {', '.join(found) or 'none'}")


def read_pickle(paths: Sequence[Path], spec: PickleTable) -> Iterator[Block]:
    """Read pickles of plain containers, numbers, text, NumPy arrays and SciPy CSR matrices, without running any code.

    Columns: as the structure at ``spec.path`` is. List: ``row``, ``value``; dict: ``key``, ``value``, one row for each
    value or, where the values are lists, for each of their entries. Vector: ``row``, ``value``; matrix: ``row``,
    ``column``, ``value`` without zeros. Text of Python 2 is taken as Latin-1.

    Raises:
        RecbenchError: not a pickle, one that refers to other classes or functions (named), or another structure.
    """
    for path in paths:
        raw = _bytes(path)
        value = _walk(path, _unpickled(path, raw), spec.path)
        columns: dict[str, Any]
        if isinstance(value, _Array):
            columns = _array_columns(path, _numbers(path, value.array, "the array"))
        elif isinstance(value, _Csr):
            columns = _csr_columns(path, value)
        else:
            columns = nested(path, value, len(raw))
        require(path, spec.columns, columns)
        yield Block(pl.DataFrame(columns).select(*spec.columns), None, path)


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise RecbenchError(f"{path}: {path.stat().st_size} bytes, expected at most {_MAX_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise RecbenchError(f"{path}: cannot be read ({error})") from error


def _unpickled(path: Path, raw: bytes) -> Any:
    # As above: a broken pickle makes the interpreter of its commands raise errors of nearly every kind.
    try:
        _check_commands(raw)
        return _Unpickler(BytesIO(raw), encoding="latin1").load()
    except RecbenchError as error:
        raise RecbenchError(f"{path}: {error}") from error
    except Exception as error:
        raise RecbenchError(f"{path}: not a pickle, or a broken one: {str(error) or type(error).__name__}") from error


def _check_commands(raw: bytes) -> None:
    """Refuse a pickle that numbers a value far beyond those it has: a table of that size would be made for it."""
    for number, (command, argument, _) in enumerate(pickletools.genops(raw)):
        if command.name in {"PUT", "BINPUT", "LONG_BINPUT"} and int(argument or 0) > max(number, 255):
            raise ValueError(f"after {number} commands a value gets the number {argument}")


class _Dtype:
    """Stands for numpy.dtype: nothing but the code of a number type, such as ``f8``."""

    def __init__(self, code: str, *_: object) -> None:
        self.dtype = np.dtype(code if isinstance(code, str) else "O")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for numpy.ndarray, whose own methods trust what a pickle says of sizes and types."""

    array: NDArray[Any] = np.empty(0, dtype=object)

    def __init__(self, *_: object) -> None:
        """Begin empty, whatever the arguments, as the function of NumPy does that a pickle calls."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        if isinstance(data, list):
            return  # An array of objects; where it is what the table asks for, that is refused.
        self.array = _from_buffer(data, dtype, shape, "F" if fortran else "C").array


class _Csr:
    """Stands for scipy.sparse.csr_matrix."""

    shape: object = None
    parts: tuple[object, ...] = (None, None, None)
    """The arrays indptr, indices and data."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.shape = state["_shape"]
        self.parts = (state["indptr"], state["indices"], state["data"])


def _from_buffer(data: Any, dtype: _Dtype, shape: tuple[int, ...], order: Any) -> _Array:
    result = _Array()
    # Bytes of a pickle of Python 2 arrive as text in Latin-1.
    raw = data.encode("latin1") if isinstance(data, str) else data
    result.array = np.frombuffer(raw, dtype=dtype.dtype).reshape(shape, order=order)
    return result


def _scalar(dtype: _Dtype, data: Any) -> Any:
    return _from_buffer(data, dtype, (), "C").array.item()


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in {"latin1", "latin-1"}:
        raise RecbenchError(f"the pickle encodes text as {encoding}, expected latin1, which stands for bytes")
    return text.encode("latin1")


# Everything that a pickle may refer to. Only these are ever called, and none of them does more than hold values.
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    **{
        (module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (list, dict, set, frozenset)
    },
    ("collections", "defaultdict"): defaultdict,
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    **{(f"scipy.sparse{module}", "csr_matrix"): _Csr for module in ("", ".csr", "._csr")},
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise RecbenchError(f"the pickle refers to {module}.{name}, expected plain containers, numbers and arrays")
        return _ALLOWED[module, name]


def _walk(path: Path, value: Any, steps: Sequence[int | str]) -> Any:
    for depth, step in enumerate(steps):
        inside = isinstance(value, (list, tuple)) and isinstance(step, int) and step < len(value)
        if not (inside or (isinstance(value, dict) and step in value)):
            at = ", ".join(map(repr, steps[:depth])) or "the top"
            raise RecbenchError(f"{path}: there is no {step!r} at {at}, which is of the type {type(value).__name__}")
        value = value[step]
    return value


def _numbers(path: Path, value: Any, what: str) -> NDArray[Any]:
    """Return an array of numbers of a type that tables can hold."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise RecbenchError(f"{path}: {what} is of the type {kind}, expected numbers")
    if value.dtype.kind == "f":
        return value.astype(np.float64)
    return value.astype(value.dtype.newbyteorder("="))


def _array_columns(path: Path, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
    if array.ndim == 1:
        return {"row": np.arange(array.size), "value": array}
    if array.ndim != 2:
        raise RecbenchError(f"{path}: an array of the shape {array.shape}, expected a vector or a matrix")
    rows, columns = np.nonzero(array)
    return {"row": rows, "column": columns, "value": array[rows, columns]}


def _csr_columns(path: Path, matrix: _Csr) -> dict[str, NDArray[Any]]:
    starts, columns, values = (
        _numbers(path, part.array if isinstance(part, _Array) else part, "a part of the CSR matrix")
        for part in matrix.parts
    )
    flat = starts.ndim == columns.ndim == values.ndim == 1
    whole = flat and starts.dtype.kind in "iu" and columns.dtype.kind in "iu" and starts.size > 0
    # Signed, as the differences of unsigned numbers would wrap around.
    starts = starts.astype(np.int64)
    sizes: NDArray[np.int64] = starts[1:] - starts[:-1]
    if not whole or starts[0] != 0 or (sizes < 0).any() or not starts[-1] == columns.size == values.size:
        raise RecbenchError(f"{path}: the parts of the CSR matrix do not fit together")
    shape = matrix.shape
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[0] != sizes.size or not _within(columns, shape[1]):
        raise RecbenchError(f"{path}: the CSR matrix has not the shape {shape} that it gives")
    kept = values != 0
    rows = np.repeat(np.arange(sizes.size), sizes)
    return {"row": rows[kept], "column": columns[kept], "value": values[kept]}


def _within(columns: NDArray[Any], width: object) -> bool:
    return isinstance(width, int) and (not columns.size or 0 <= int(columns.min()) <= int(columns.max()) < width)


def read_hdf5(paths: Sequence[Path], spec: Hdf5Table) -> Iterator[Block]:
    """Read a matrix of HDF5 files (MATLAB 7.3 among them): columns ``row``, ``column``, ``value``, without zeros.

    MATLAB writes matrices transposed, for which ``spec.transposed`` stands.

    Raises:
        UsageError: h5py is not installed.
        RecbenchError: not an HDF5 file, no such dataset in it, or not a matrix of numbers.
    """
    try:
        import h5py
    except ImportError as error:
        raise UsageError("HDF5 files are read with h5py; install it with: pip install 'recbench[hdf5]'") from error
    for path in paths:
        # The library's errors are of several kinds, as those of NumPy above.
        try:
            with h5py.File(path, "r") as file:
                matrix = _hdf5_matrix(path, file.get(spec.dataset), spec.dataset, list(file))
        except RecbenchError:
            raise
        except Exception as error:
            raise RecbenchError(f"{path}: not an HDF5 file, or a broken one: {error}") from error
        columns = _array_columns(path, matrix.T if spec.transposed else matrix)
        require(path, spec.columns, columns)
        yield Block(pl.DataFrame(columns).select(*spec.columns), None, path)


def _hdf5_matrix(path: Path, dataset: Any, name: str, found: Sequence[str]) -> NDArray[Any]:
    """Return a dataset, shape (rows, columns)."""
    shape = getattr(dataset, "shape", None)
    if shape is None:
        raise RecbenchError(f"{path}: there is no dataset '{name}'; found: {', '.join(found) or 'none'}")
    if len(shape) != 2 or dataset.nbytes > _MAX_BYTES:
        raise RecbenchError(
            f"{path}: the dataset '{name}' has the shape {shape}, expected a matrix of at most {_MAX_BYTES} bytes"
        )
    return _numbers(path, dataset[()], f"the dataset '{name}'")
