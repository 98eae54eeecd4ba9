"""Every rank's own value of a reduction, stacked: what a product or a norm over all ranks is computed from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphshard.ops.exchange import all_reduce
from graphshard.ranks.groups import group_rank, group_size


@torch.library.custom_op("graphshard::stack_ranks", mutates_args=())
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


@stack_ranks.register_fake
def _stack_ranks_fake(x: Tensor, group: str) -> Tensor:
    return x.new_empty((group_size(group), *x.shape))


def _stack_ranks_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 (torch passes it by name)
    _, ctx.group = inputs


def _stack_ranks_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return all_reduce(grad, "sum", ctx.group)[group_rank(ctx.group)], None


stack_ranks.register_autograd(_stack_ranks_backward, setup_context=_stack_ranks_setup)
