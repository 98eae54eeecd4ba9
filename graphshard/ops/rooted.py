"""A sum over neighbours and the own row, each times a matrix: a layer of GraphSAGE, kept as its input alone.

::

    out = A x N' + x R' + b        A: weights of edges and scales of rows;  N, R: matrices;  b: bias

    t = A' g                       g: the gradient of out, t travels home as it is made
    x gets t N + g R               N gets t' x        R gets g' x        b gets the sum of g

Written op by op, ``A x`` is kept for the gradient of N, and two gradients of x are there at once before they are
added. Both are tensors of all rows. Here backward sums over transposed edges first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graphshard.ops.registration import below_autograd, fake, gradient, operator
from graphshard.ops.streamed import ARGUMENTS, scale_gradient, streamed_reduce, streamed_sum, weight_gradient

__all__ = ["rooted_sum"]

_PIECE = 1 << 14
"""Rows whose gradients are made at once, where they are written over others."""

_MATRICES = "Tensor neighbour, Tensor root, Tensor? bias, bool sum_first"


@operator(f"rooted_sum(Tensor x, {ARGUMENTS}, {_MATRICES}) -> Tensor")
def rooted_sum(
    x: Tensor, weight: Tensor | None, scale: Tensor | None, structure: Sequence[Tensor], *rest: Any
) -> Tensor:
    """``streamed_sum(x, weight, scale, structure, *plan, num_nodes) @ neighbour.T + x @ root.T + bias``.

    Args:
        x: ``[n, inputs]`` owned rows. weight, scale, structure, plan, num_nodes: as for
            ``graphshard.ops.streamed.streamed_sum``.
        neighbour, root: ``[outputs, inputs]``. bias: ``[outputs]`` or None.
        sum_first: whether the rows that travel are those of x, or, once multiplied, of ``outputs`` columns. Gradients
            travel with ``outputs`` columns.

    Returns:
        ``[n, outputs]``, of x's dtype.
    """
    *plan, neighbour, root, bias, sum_first = rest
    if sum_first:
        out = F.linear(streamed_sum(x, weight, scale, structure, *plan), neighbour, bias)
    else:
        out = streamed_sum(F.linear(x, neighbour), weight, scale, structure, *plan)
        if bias is not None:
            out += bias
    return out.addmm_(x, root.t())


@fake(rooted_sum)
def _rooted_sum_fake(
    x: Tensor, _weight: Tensor | None, _scale: Tensor | None, structure: Sequence[Tensor], *rest: Any
) -> Tensor:
    return x.new_empty((structure[0].size(0) - 1, rest[-4].size(0)))


@gradient(rooted_sum)
class _RootedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *rest: Any) -> Tensor:
        weight, scale, ctx.structure, *ctx.plan, neighbour, root, _, _ = rest
        ctx.save_for_backward(x, weight, scale, neighbour, root)
        return below_autograd(rooted_sum, x, *rest)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale, neighbour, root = ctx.saved_tensors
        to_x = to_weight = to_scale = to_neighbour = to_root = to_bias = None
        needs_x, needs_weight, needs_scale = ctx.needs_input_grad[:3]
        needs_neighbour, needs_root, needs_bias, _ = ctx.needs_input_grad[-4:]
        if needs_bias:
            to_bias = grad.sum(0)
        if needs_root:
            to_root = grad.t() @ x
        if needs_weight:
            to_weight = weight_gradient(grad @ neighbour, x, weight, scale, ctx.structure, ctx.plan)
        if needs_scale:
            to_scale = scale_gradient(grad @ neighbour, x, weight, ctx.structure, ctx.plan)
        if needs_x or needs_neighbour:
            home = streamed_reduce(grad, weight, scale, ctx.structure, *ctx.plan)
            if needs_neighbour:
                to_neighbour = home.t() @ x
            if needs_x:
                to_x = _of_rows(home, neighbour, grad, root)
        return to_x, to_weight, to_scale, *(None,) * 6, to_neighbour, to_root, to_bias, None


def _of_rows(home: Tensor, neighbour: Tensor, grad: Tensor, root: Tensor) -> Tensor:
    """``home @ neighbour + grad @ root``; over the memory of ``home`` where it fits and no backward reads that."""
    if torch.is_grad_enabled() or neighbour.size(0) != neighbour.size(1):
        return (home @ neighbour).addmm_(grad, root)
    for rows, cotangent in zip(torch.split(home, _PIECE), torch.split(grad, _PIECE), strict=True):
        rows.copy_((rows @ neighbour).addmm_(cotangent, root))
    return home
