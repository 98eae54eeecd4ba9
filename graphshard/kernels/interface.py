"""What kernels there are, and which implementation a tensor gets."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from graphshard.errors import GraphshardError
from graphshard.kernels.masks import Mask
from graphshard.kernels.structure import Grouped


class Kernels(Protocol):
    """Loops over the edges of each group, and over the elements of rows.

    Feature tensors are ``[rows, heads, width]``. Weights, scores and results that belong to edges are ``[edges,
    heads]``, in the order of the edges' numbers. Nothing here has a gradient: see ``graphshard.ops.aggregation`` and
    ``graphshard.ops.dropout``.
    """

    def sums(self, grouped: Grouped, weight: Tensor | None, table: Tensor) -> Tensor:
        """``out[i, h] = sum of weight[e, h] * table[other of e, h]`` over i's edges e; without weights, 1."""

    def sums_into(
        self, out: Tensor, to: int, grouped: Grouped, weight: Tensor | None, first: int, table: Tensor
    ) -> None:
        """:meth:`sums` with the weights of the heads from ``first`` on, written from column ``to`` on of ``out``.

        Args:
            out: ``[groups, columns]``, contiguous. table: ``[rows, heads, width]``, of which ``heads`` may be fewer
                than those that ``weight [edges, heads]`` has.
        """

    def dots(self, grouped: Grouped, rows: Tensor, table: Tensor) -> Tensor:
        """``out[e, h] = dot(rows[i, h], table[other of e, h])`` for each edge e of i."""

    def softmax(self, grouped: Grouped, scores: Tensor, small: float) -> Tensor:
        """``out[e] = exp(score[e] - max) / (sum of exp + small)`` over the edges of e's group."""

    def softmax_gradient(self, grouped: Grouped, shares: Tensor, grad: Tensor) -> Tensor:
        """``out[e] = share[e] * (grad[e] - sum of share * grad)`` over the edges of e's group."""

    def extremes(self, grouped: Grouped, table: Tensor, sign: int) -> tuple[Tensor, Tensor]:
        """The largest (sign 1) or smallest (-1) row of the table at the other ends, and how many equal it.

        A group without edges has the extreme 0 and no tie; a NaN is the extreme, and equal to nothing.
        """

    def extremes_gradient(self, grouped: Grouped, table: Tensor, best: Tensor, share: Tensor) -> Tensor:
        """``out[j] = sum of share[i] * (table[j] == best[i])`` over the edges of column j to rows i."""

    def dropout(self, x: Tensor, mask: Mask) -> Tensor:
        """``x * scale`` where the mask keeps an element, else ``x * 0``; any shape, in x's order of memory."""

    def relu_dropout(self, x: Tensor, mask: Mask) -> Tensor:
        """``dropout(relu(x))``, written over x; what was done to each element, for :meth:`relu_dropout_gradient`."""

    def relu_dropout_bytes(self, shape: tuple[int, int, int]) -> int:
        """How many bytes that takes, for ``[outer, rows, inner]`` elements."""

    def relu_dropout_gradient(self, grad: Tensor, done: Tensor, mask: Mask) -> Tensor:
        """``grad * scale`` where an element was kept, ``grad * 0`` where dropped, 0 where x was not positive."""


CPU_DTYPES = (torch.float32, torch.float64)
"""What the numba kernels take; other dtypes are torch's."""

_CHOSEN: ContextVar[str | None] = ContextVar("graphshard_kernels", default=None)


@contextmanager
def using(name: str) -> Iterator[None]:
    """Use the kernels called "numba" or "torch" inside the block, for tests and benchmarks.

    Raises:
        GraphshardError: there are none of that name.
    """
    if name not in ("numba", "torch"):
        raise GraphshardError(f"no kernels {name!r}; choose numba or torch")
    token = _CHOSEN.set(name)
    try:
        yield
    finally:
        _CHOSEN.reset(token)


def kernels_for(tensor: Tensor) -> Kernels:
    """The fastest kernels that take this tensor: numba's on the CPU where it can be imported, else torch's."""
    wanted = _CHOSEN.get()
    fits = tensor.device.type == "cpu" and tensor.dtype in CPU_DTYPES
    if wanted != "torch" and fits and (compiled := _numba_kernels()) is not None:
        return compiled
    from graphshard.kernels.torch_sparse import TorchKernels

    return TorchKernels()


def numba_chosen() -> bool:
    """Whether loops that numba compiles are to be used: it works here, and nobody asked for torch's kernels."""
    return _CHOSEN.get() != "torch" and _numba_kernels() is not None


@cache
def _numba_kernels() -> Kernels | None:
    """numba's kernels; None where numba is not installed, and with a warning where it is but does not work."""
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        from graphshard.kernels.numba_cpu import NumbaKernels
    except Exception as error:  # a broken installation raises what it likes
        warnings.warn(
            f"numba is installed but cannot be imported ({type(error).__name__}: {error}), so torch's slower sparse "
            "kernels do its work; repair numba, or uninstall it",
            RuntimeWarning,
            stacklevel=3,
        )
        return None
    return NumbaKernels()
