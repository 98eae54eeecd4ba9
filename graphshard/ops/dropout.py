"""Dropouts with masks that no number of ranks changes, and that nobody keeps: they are drawn again where needed.

::

    dropout_rows(x)    x * mask            backward  the same of the gradient; nothing is kept
    relu_dropout(x)    relu(x) * mask      backward  from two bits for each element
    relu_dropout_(x)   the same, over x

All can be differentiated twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphshard.kernels.interface import kernels_for
from graphshard.kernels.masks import Mask
from graphshard.ops.registration import (
    Overload,
    below_autograd,
    composite,
    fake,
    gradient,
    none_of_none,
    operator,
)

__all__ = ["WITHOUT_DROPOUT", "dropout_rows", "relu_dropout", "relu_dropout_"]

_MASK = "Tensor? ids, int dim, float p, Tensor key, int site"


@operator(f"dropout_rows(Tensor x, {_MASK}) -> Tensor")
def dropout_rows(x: Tensor, ids: Tensor | None, dim: int, p: float, key: Tensor, site: int) -> Tensor:
    """``torch.nn.functional.dropout`` with a mask that does not depend on the number of ranks.

    Args:
        x: any shape; rows are along ``dim``.
        ids: int64 ``[x.size(dim)]``, the rows' global ids; None where every rank holds all of x.
        dim: the dim of the rows.
        p: the probability of dropping an element; the others are scaled by ``1 / (1 - p)``.
        key: int64 ``[2]`` on the CPU, the seed and the step; site: see ``graphshard.kernels.random_bits.random_bits``.
    """
    if p >= 1:
        return x * 0
    return kernels_for(x).dropout(x, Mask(ids, dim, p, key.tolist(), site))


@fake(dropout_rows)
def _dropout_rows_fake(x: Tensor, *_mask: Any) -> Tensor:
    return torch.empty_like(x)


@gradient(dropout_rows)
class _DropoutRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *mask: Any) -> Tensor:
        ctx.mask = mask
        return below_autograd(dropout_rows, x, *mask)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return dropout_rows(grad, *ctx.mask), *(None,) * 5


@composite(f"relu_dropout(Tensor x, {_MASK}) -> Tensor")
def relu_dropout(x: Tensor, ids: Tensor | None, dim: int, p: float, key: Tensor, site: int) -> Tensor:
    """``dropout_rows(relu(x), ...)`` for p < 1, and as exact where values or gradients are infinite or NaN."""
    out: Tensor = relu_dropout_(x.clone(), ids, dim, p, key, site)
    return out


@operator(f"relu_dropout_(Tensor(a!) x, {_MASK}) -> Tensor(a!)")
def relu_dropout_(x: Tensor, ids: Tensor | None, dim: int, p: float, key: Tensor, site: int) -> Tensor:
    """:func:`relu_dropout`, over x."""
    relu_dropout_bits_(x, ids, dim, p, key, site)
    return x


@operator(f"relu_dropout_bits_(Tensor(a!) x, {_MASK}) -> Tensor")
def relu_dropout_bits_(x: Tensor, ids: Tensor | None, dim: int, p: float, key: Tensor, site: int) -> Tensor:
    """:func:`relu_dropout`, over x; returns what was done to each element: flat, for :func:`relu_dropout_gradient`."""
    return kernels_for(x).relu_dropout(x, Mask(ids, dim, p, key.tolist(), site)).view(-1)


@operator(f"relu_dropout_gradient(Tensor grad, Tensor done, {_MASK}) -> Tensor")
def relu_dropout_gradient(
    grad: Tensor, done: Tensor, ids: Tensor | None, dim: int, p: float, key: Tensor, site: int
) -> Tensor:
    """The gradient of relu and dropout: linear in what comes in, so its own backward."""
    return kernels_for(grad).relu_dropout_gradient(grad, done, Mask(ids, dim, p, key.tolist(), site))


@fake(relu_dropout_)
def _relu_dropout_in_place_fake(x: Tensor, *_mask: Any) -> Tensor:
    return x


@fake(relu_dropout_bits_)
def _relu_dropout_bits_fake(
    x: Tensor, ids: Tensor | None, dim: int, p: float, _key: Tensor, site: int
) -> Tensor:
    mask = Mask(ids, dim, p, (), site)  # the key is not read
    return x.new_empty(kernels_for(x).relu_dropout_bytes(mask.shape_of(x)), dtype=torch.uint8)


@fake(relu_dropout_gradient)
def _relu_dropout_gradient_fake(grad: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(grad, memory_format=torch.contiguous_format)


WITHOUT_DROPOUT: dict[Overload, Overload] = {
    relu_dropout: torch.ops.aten.relu.default,
    relu_dropout_: torch.ops.aten.relu_.default,
}
"""What is left of a fused op, of its first argument, where nothing is dropped."""


@gradient(relu_dropout_)
def _relu_dropout_in_place_applied(x: Tensor, *mask: Any) -> Tensor:
    # Empty, and computed from x: a second backward gives x its zeros, as it does through torch's own relu.
    anchor = (x if x.dim() else x.view(1))[:0].clone()
    return _ReluDropout.apply(x, anchor, *mask)  # type: ignore[no-untyped-call, no-any-return]


@none_of_none
class _ReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, *mask: Any) -> Tensor:
        ctx.mark_dirty(x)
        ctx.mask = mask
        ctx.save_for_backward(anchor, below_autograd(relu_dropout_bits_, x, *mask))
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        anchor, done = ctx.saved_tensors
        return _Gate.apply(grad, anchor, done, *ctx.mask), *(None,) * 6  # type: ignore[no-untyped-call]


@none_of_none
class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, anchor: Tensor, done: Tensor, *mask: Any) -> Tensor:
        ctx.mask = mask
        ctx.save_for_backward(anchor, done)
        return below_autograd(relu_dropout_gradient, grad, done, *mask)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        anchor, done = ctx.saved_tensors
        gate = _Gate.apply(grad, anchor, done, *ctx.mask)  # type: ignore[no-untyped-call]
        return gate, torch.zeros_like(anchor), *(None,) * 6


@gradient(relu_dropout_gradient)
def _relu_dropout_gradient_applied(grad: Tensor, done: Tensor, *mask: Any) -> Tensor:
    return _Gate.apply(grad, grad.new_empty(0), done, *mask)  # type: ignore[no-untyped-call, no-any-return]
