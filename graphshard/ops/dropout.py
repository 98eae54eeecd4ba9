"""Dropouts with masks that no number of ranks changes, and that nobody keeps: they are drawn again where needed.

::

    dropout_rows(x)            x * mask            backward  the same of the gradient; nothing is kept
    relu_dropout(x)            relu(x) * mask      backward  from two bits for each element
    relu_dropout_in_place(x)   the same, over x

Both can be differentiated twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from graphshard.kernels.interface import Kernels, kernels_for
from graphshard.kernels.masks import Mask
from graphshard.ops.local import relu_in_place

__all__ = ["WITHOUT_DROPOUT", "dropout_rows", "relu_dropout", "relu_dropout_in_place"]


def dropout_rows(x: Tensor, ids: Tensor | None, dim: int, p: float, key: Sequence[int], site: int) -> Tensor:
    """``torch.nn.functional.dropout`` with a mask that does not depend on the number of ranks.

    Args:
        x: any shape; rows are along ``dim``.
        ids: int64 ``[x.size(dim)]``, the rows' global ids; None where every rank holds all of x.
        dim: the dim of the rows.
        p: the probability of dropping an element; the others are scaled by ``1 / (1 - p)``.
        key, site: see ``graphshard.kernels.random_bits.random_bits``.
    """
    if p >= 1:
        return x * 0
    return _Dropout.apply(x, ids, dim, p, key, site)  # type: ignore[no-untyped-call, no-any-return]


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ids: Tensor | None, *mask: Any) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.mask = mask
        return kernels_for(x).dropout(x, Mask(ids, *mask))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (ids,) = ctx.saved_tensors
        return dropout_rows(grad, ids, *ctx.mask), None, None, None, None, None


def relu_dropout(x: Tensor, ids: Tensor | None, dim: int, p: float, key: Sequence[int], site: int) -> Tensor:
    """``dropout_rows(relu(x), ...)`` for p < 1, and as exact where values or gradients are infinite or NaN."""
    return _apply(x.clone(), ids, dim, p, key, site)


def relu_dropout_in_place(
    x: Tensor, ids: Tensor | None, dim: int, p: float, key: Sequence[int], site: int
) -> Tensor:
    """:func:`relu_dropout`, over x."""
    return _apply(x, ids, dim, p, key, site)


WITHOUT_DROPOUT: dict[Callable[..., Tensor], Callable[..., Tensor]] = {
    relu_dropout: torch.ops.aten.relu.default,
    relu_dropout_in_place: relu_in_place,
}
"""What is left of a fused op, of its first argument, where nothing is dropped."""


def _apply(x: Tensor, ids: Tensor | None, *mask: Any) -> Tensor:
    # Empty, and computed from x: a second backward gives x its zeros, as it does through torch's own relu.
    anchor = (x if x.dim() else x.view(1))[:0].clone()
    return _ReluDropout.apply(x, anchor, ids, *mask)  # type: ignore[no-untyped-call, no-any-return]


class _ReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, ids: Tensor | None, *mask: Any) -> Tensor:
        ctx.mark_dirty(x)
        ctx.mask, ctx.kernels = Mask(ids, *mask), kernels_for(x)
        ctx.save_for_backward(anchor, ctx.kernels.relu_dropout(x.detach(), ctx.mask))
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        anchor, done = ctx.saved_tensors
        return _Gate.apply(grad, anchor, done, ctx.mask, ctx.kernels), *(None,) * 6  # type: ignore[no-untyped-call]


class _Gate(torch.autograd.Function):
    """The gradient of relu and dropout: linear in what comes in, so its own backward."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, anchor: Tensor, done: Tensor, mask: Mask, kernels: Kernels) -> Tensor:
        ctx.save_for_backward(anchor, done)
        ctx.rest = mask, kernels
        return kernels.relu_dropout_gradient(grad, done, mask)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        anchor, done = ctx.saved_tensors
        gate = _Gate.apply(grad, anchor, done, *ctx.rest)  # type: ignore[no-untyped-call]
        return gate, torch.zeros_like(anchor), None, None, None
