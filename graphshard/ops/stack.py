"""Every rank's own value of a reduction, stacked: what a product or a norm over all ranks is computed from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphshard.ops.exchange import all_reduce
from graphshard.ops.registration import below_autograd, fake, gradient, operator
from graphshard.ranks.groups import group_rank, group_size


@operator("stack_ranks(Tensor x, str group) -> Tensor")
def stack_ranks(x: Tensor, group: str) -> Tensor:
    """Every rank's ``x`` (same floating-point or integer dtype and shape on each), stacked in rank order.

    Args:
        x: any shape. group: name of the process group, or ``""``.

    Returns:
        ``[world_size, *x.shape]``, the same on every rank. Backward: the ranks' cotangents, terms of the true
        one, are summed, and each rank takes its own row.
    """
    rows = x.new_zeros((group_size(group), *x.shape))
    rows[group_rank(group)] = x
    stacked: Tensor = all_reduce(rows, "sum", group)
    return stacked


@fake(stack_ranks)
def _stack_ranks_fake(x: Tensor, group: str) -> Tensor:
    return x.new_empty((group_size(group), *x.shape))


@gradient(stack_ranks)
class _StackRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: str) -> Tensor:
        ctx.group = group
        return below_autograd(stack_ranks, x, group)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return all_reduce(grad, "sum", ctx.group)[group_rank(ctx.group)], None
