"""What a tensor tells of itself in names of its own."""

from __future__ import annotations

from torch import Tensor

__all__ = ["entries_of", "version_of"]


def version_of(tensor: Tensor) -> int:
    """How often a tensor's memory was written to in place; 0 of an inference tensor, which does not count.

    Relies on ``Tensor._version``.
    """
    return 0 if tensor.is_inference() else tensor._version


def entries_of(sparse: Tensor) -> tuple[Tensor, Tensor]:
    """Indices ``[dims, n]`` and values ``[n, ...]`` of a sparse COO tensor as they are, coalesced or not.

    Relies on ``Tensor._indices`` and ``Tensor._values``; the documented ones refuse a tensor that is not coalesced.
    """
    return sparse._indices(), sparse._values()
