"""What a tensor tells of itself in names of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Seen", "entries_of", "version_of"]


def version_of(tensor: Tensor) -> int:
    """How often a tensor's memory was written to in place; 0 of an inference tensor, which does not count.

    Relies on ``Tensor._version``.
    """
    return 0 if tensor.is_inference() else tensor._version


@dataclass(frozen=True)
class Seen:
    """A tensor that was passed before, and its version; held, so that no other takes its memory."""

    tensor: Tensor
    version: int

    @classmethod
    def now(cls, tensor: Tensor) -> Seen:
        return cls(tensor, version_of(tensor))

    def is_still(self, other: Tensor) -> bool:
        """Whether it is passed again: the same memory, not written to since; an inference tensor never is."""
        if other.is_inference() or self.version != version_of(other):
            return False
        return self.tensor is other or (
            self.tensor.layout is torch.strided
            and other.layout is torch.strided
            and _place(self.tensor) == _place(other)
        )


def _place(tensor: Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def entries_of(sparse: Tensor) -> tuple[Tensor, Tensor]:
    """Indices ``[dims, n]`` and values ``[n, ...]`` of a sparse COO tensor as they are, coalesced or not.

    Relies on ``Tensor._indices`` and ``Tensor._values``; the documented ones refuse a tensor that is not coalesced.
    """
    return sparse._indices(), sparse._values()
