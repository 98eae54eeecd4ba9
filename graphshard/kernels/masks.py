"""Which elements of a tensor a dropout keeps: said, not stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphshard.kernels.random_bits import random_start


@dataclass(frozen=True)
class Mask:
    """The mask of one dropout in one step, for a tensor of any shape.

    Attributes:
        ids: int64 ``[rows]``, contiguous: the rows' global ids; None for their numbers.
        dim: the dim of the rows; a 0-dim tensor is one row.
        p: the probability of dropping an element, in 0..1 without 1.
        key, site: see ``graphshard.kernels.random_bits.random_bits``.
    """

    ids: Tensor | None
    dim: int
    p: float
    key: Sequence[int]
    site: int

    def shape_of(self, x: Tensor) -> tuple[int, int, int]:
        """``[outer, rows, inner]``: a tensor's sizes before, of and after the dim of its rows."""
        if not x.dim():
            return 1, 1, 1
        dim = self.dim % x.dim()
        return math.prod(x.shape[:dim]), x.size(dim), math.prod(x.shape[dim + 1 :])

    @property
    def start(self) -> int:
        """Where the random numbers start."""
        return random_start(self.key, self.site)

    @property
    def threshold(self) -> int:
        """An element is kept where its 53 random bits are no less."""
        return int(self.p * (1 << 53))

    def scale(self, dtype: torch.dtype) -> Tensor:
        """``[1]``, what a kept element is multiplied with; rounded as torch divides 1 by ``1 - p``."""
        return torch.ones(1, dtype=dtype) / (1 - self.p)
