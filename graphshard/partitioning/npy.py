"""Arrays in ``.npy`` files, read a piece at a time into memory of one's own.

A mapped file would be simpler, but its pages count as memory of the process, and where its address space is limited it
cannot be mapped at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphshard.errors import PartitionError


@dataclass(frozen=True)
class Npy:
    """An array in a file, rows one after the other.

    Attributes:
        path: of the file. dtype: NumPy's, one that torch has. shape: of the array. offset: where it begins.
    """

    path: Path
    dtype: Any
    shape: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, path: Path) -> Npy:
        """The array of a file.

        Raises:
            PartitionError: it is no array of numbers, or its columns are stored one after the other.
        """
        try:
            with path.open("rb") as stream:
                version = np.lib.format.read_magic(stream)
                read = (
                    np.lib.format.read_array_header_1_0
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                shape, fortran, dtype = read(stream)
                offset = stream.tell()
        except (OSError, ValueError) as error:
            raise PartitionError(f"{path} cannot be read as an array: {error}") from None
        try:
            torch.from_numpy(np.empty(0, dtype))
        except (TypeError, ValueError):
            raise PartitionError(
                f"{path} holds {dtype}, which is no dtype of torch: save it as numbers in this machine's order of bytes"
            ) from None
        if fortran and len(shape) > 1:
            raise PartitionError(
                f"{path} stores columns one after the other: save it as np.ascontiguousarray(array)"
            )
        size = offset + math.prod(shape) * dtype.itemsize
        if path.stat().st_size < size:
            raise PartitionError(f"{path} is cut short: it has {path.stat().st_size} bytes instead of {size}")
        return cls(path, dtype, shape, offset)

    @property
    def torch_dtype(self) -> torch.dtype:
        return torch.from_numpy(np.empty(0, self.dtype)).dtype

    @property
    def rows(self) -> int:
        """Rows of the first dim; 1 of a number."""
        return self.shape[0] if self.shape else 1

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return math.prod(self.shape[1:]) * int(self.dtype.itemsize)

    @property
    def bytes(self) -> int:
        """Bytes of all."""
        return math.prod(self.shape) * int(self.dtype.itemsize)

    def read(self, first: int, last: int) -> Any:
        """The numbers ``first..last-1`` of the array laid flat."""
        found = np.empty(last - first, self.dtype)
        read_into(self.path, self.offset + first * self.dtype.itemsize, found)
        return found

    def pieces(self, count: int) -> Iterator[Any]:
        """All numbers, ``count`` at a time."""
        total = math.prod(self.shape)
        for first in range(0, total, count):
            yield self.read(first, min(first + count, total))


def read_into(path: Path, offset: int, array: Any) -> None:
    """Fill a flat array with the bytes of a file from ``offset`` on.

    Raises:
        PartitionError: the file ends before.
    """
    with path.open("rb", buffering=0) as stream:
        stream.seek(offset)
        view = array.view(np.uint8).data
        at = 0
        while at < len(view):
            count = stream.readinto(view[at:])
            if not count:
                raise PartitionError(f"{path} became shorter while it was read: start again")
            at += count
