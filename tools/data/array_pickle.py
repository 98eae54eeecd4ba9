"""Pickles of arrays of numbers, read without running what they ask for.

A pickle names functions to call. Here each name that files of arrays use stands for a reader of this module, which
takes numbers and nothing else; every other name is refused. scipy's matrices become dense arrays, after a check
that their indices fit, for numpy and scipy would write where they point.
"""

from __future__ import annotations

import pickle
import re
from collections import defaultdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from graphshard.errors import DataError

Array = np.ndarray[Any, Any]


def read_array(path: Path) -> Array:
    """The array, or the sparse matrix as a dense one, that a file holds.

    Raises:
        DataError: the file holds something else, or asks to run something.
    """
    found = _read(path)
    try:
        return np.ascontiguousarray(found.dense())
    except (AttributeError, TypeError, ValueError, IndexError, MemoryError) as error:
        raise DataError(f"{path} is damaged, it holds no array of numbers: {error}") from error


def read_neighbours(path: Path) -> dict[int, list[int]]:
    """The dict from a node to its neighbours that a file holds.

    Raises:
        DataError: the file holds something else, or asks to run something.
    """
    found = _read(path)
    if not isinstance(found, dict) or not all(
        type(node) is int and type(others) is list and all(type(other) is int for other in others)
        for node, others in found.items()
    ):
        raise DataError(f"{path} is damaged, it holds no dict from a node to the list of its neighbours")
    return dict(found)


def _read(path: Path) -> Any:
    try:
        with path.open("rb") as stream:
            return _Reader(stream, path).load()
    except DataError:
        raise
    except Exception as error:  # a pickle can be wrong in as many ways as a program
        said = " ".join(str(error).split())
        raise DataError(f"{path} is damaged: {type(error).__name__}: {said}") from error


class _Reader(pickle.Unpickler):
    def __init__(self, stream: BinaryIO, path: Path) -> None:
        super().__init__(stream, encoding="latin1")  # Python 2 wrote bytes as text
        self.path = path
        self.known = _known_names()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.known:
            raise DataError(
                f"{self.path} asks for {module}.{name}, which could run code when read: a file of arrays has no "
                "use for it, get the file anew from a source that you trust"
            )
        return self.known[module, name]


def _number_dtype(code: str) -> np.dtype[Any]:
    if re.fullmatch("[biuf][1248]", code) is None:
        raise ValueError(f"the dtype {code!r} is not one of numbers")
    return np.dtype(code)


def _encode(text: str, encoding: str) -> bytes:
    """``codecs.encode`` of the one encoding that pickles of arrays use."""
    return text.encode({"latin1": "latin1"}[encoding])


def _known_names() -> dict[tuple[str, str], Any]:
    """Name -> reader, made anew for each file: a pickle may also set attributes of what it was given."""

    class Dtype:
        """The dtypes of numbers."""

        def __init__(self, code: str, *_: Any) -> None:
            self.found = _number_dtype(code)

        def __setstate__(self, state: Any) -> None:
            self.found = self.found.newbyteorder(state[1])

    class Dense:
        """An array, of which numpy wrote: version, shape, dtype, order, bytes."""

        def __setstate__(self, state: Any) -> None:
            _, shape, dtype, by_column, content = state
            raw = content.encode("latin1") if isinstance(content, str) else content
            self.found = np.frombuffer(raw, dtype.found).reshape(shape, order="F" if by_column else "C")

        def dense(self) -> Array:
            return self.found

    class Rows:
        """A sparse matrix by rows; what scipy keeps of it becomes attributes."""

        def dense(self) -> Array:
            kept = vars(self)
            return _dense(
                kept.get("_shape", kept.get("shape")),
                kept["indptr"].dense(),
                kept["indices"].dense(),
                kept["data"].dense(),
            )

    def reconstruct(*_: Any) -> Dense:
        return Dense()

    def from_buffer(content: Any, dtype: Dtype, shape: Any, order: str) -> Dense:
        made = Dense()
        made.__setstate__((1, shape, dtype, order == "F", bytes(content)))
        return made

    known = {
        ("collections", "defaultdict"): defaultdict,
        ("__builtin__", "list"): list,
        ("builtins", "list"): list,
        ("_codecs", "encode"): _encode,
        ("numpy", "dtype"): Dtype,
        ("numpy", "ndarray"): Dense,
    }
    for numpy_core in ("numpy.core", "numpy._core"):
        known[f"{numpy_core}.multiarray", "_reconstruct"] = reconstruct
        known[f"{numpy_core}.numeric", "_frombuffer"] = from_buffer
    for module in ("scipy.sparse.csr", "scipy.sparse._csr"):
        known[module, "csr_matrix"] = Rows
    return known


def _dense(shape: Any, starts: Array, columns: Array, values: Array) -> Array:
    """The dense array of a sparse one by rows; entries of the same place are added up."""
    rows, width = (int(size) for size in shape)
    counts = np.diff(starts)
    fits = starts.shape == (rows + 1,) and columns.shape == values.shape == (int(starts[-1]),)
    if not fits or starts[0] != 0 or (counts < 0).any():
        raise ValueError("the rows of its sparse matrix do not fit")
    if columns.size and not 0 <= columns.min() <= columns.max() < width:
        raise ValueError(f"its sparse matrix has {width} columns and an entry outside")
    whole = np.zeros((rows, width), values.dtype)
    np.add.at(whole, (np.repeat(np.arange(rows), counts), columns), values)
    return whole
