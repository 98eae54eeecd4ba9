"""A sum over neighbours while their halo rows travel.

::

    forward   start sending own rows ... sum over edges from owned nodes ... wait ... add the edges from halo nodes
    backward  gradients of halo rows first, start sending them home ... those of owned rows ... wait ... add

Only the exchange is asynchronous; the order of all sums is fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphshard.kernels.interface import kernels_for
from graphshard.kernels.structure import Structure, build
from graphshard.ops.copies import combine_by_rank
from graphshard.ranks.groups import start_exchange

__all__ = ["SplitStructure", "overlapped_sum", "split_structure"]


@dataclass(frozen=True)
class SplitStructure:
    """The edges from owned nodes and those from halo nodes, as structures of their own.

    Attributes:
        own, halo: columns are owned rows, and halo rows from 0 on.
        own_edges, halo_edges: int64, which edges of the whole these are.
    """

    own: Structure
    halo: Structure
    own_edges: Tensor
    halo_edges: Tensor


def split_structure(structure: Structure, owned: int) -> SplitStructure:
    """Cut a structure at column ``owned``."""
    is_own = structure.column < owned
    own, halo = (mask.nonzero().flatten() for mask in (is_own, ~is_own))
    rows, columns = structure.by_row.groups, structure.by_column.groups
    return SplitStructure(
        build(structure.row[own], structure.column[own], rows, owned),
        build(structure.row[halo], structure.column[halo] - owned, rows, columns - owned),
        own,
        halo,
    )


def overlapped_sum(
    x: Tensor,
    weight: Tensor | None,
    parts: SplitStructure,
    send_index: Tensor,
    send_splits: Sequence[int],
    recv_splits: Sequence[int],
    group: str,
) -> Tensor:
    """``weighted_sum(halo_sync(x), weight, A)`` for an A cut by :func:`split_structure`.

    Args:
        x: ``[n, ...]`` owned rows. weight: as for ``graphshard.ops.aggregation.weighted_sum``. The rest: the plan.

    Returns:
        ``[rows, ...]``. Sums over halo edges are added to those over owned ones: another rounding.
    """
    heads = 1 if weight is None or weight.dim() == 1 else weight.size(1)
    table = x.reshape(x.size(0), heads, x.shape[1:].numel() // heads)
    weights = None if weight is None else weight.reshape(-1, heads)
    plan = (send_index, list(send_splits), list(recv_splits), group)
    out: Tensor = _OverlappedSum.apply(table, weights, parts, plan)  # type: ignore[no-untyped-call]
    return out.view(-1, *x.shape[1:])


class _OverlappedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, weight: Tensor | None, parts: SplitStructure, plan: Any) -> Tensor:
        send_index, send_splits, recv_splits, group = plan
        halo = table.new_empty((sum(recv_splits), *table.shape[1:]))
        wait = start_exchange(halo, table.index_select(0, send_index), send_splits, recv_splits, group)
        kernels = kernels_for(table)
        own_weight, halo_weight = _cut(weight, parts)
        out = kernels.sums(parts.own.by_row, own_weight, table)
        wait()
        out += kernels.sums(parts.halo.by_row, halo_weight, halo)
        ctx.parts, ctx.plan = parts, plan
        needs_weight = ctx.needs_input_grad[1]
        ctx.save_for_backward(weight, *((table, halo) if needs_weight else (None, None)))
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        weight, table, halo = ctx.saved_tensors
        parts, (send_index, send_splits, recv_splits, group) = ctx.parts, ctx.plan
        kernels, grad = kernels_for(grad), grad.contiguous()
        own_weight, halo_weight = _cut(weight, parts)
        to_table = to_weight = None
        if ctx.needs_input_grad[0]:
            leaving = kernels.sums(parts.halo.by_column, halo_weight, grad)
            coming = grad.new_empty((send_index.numel(), *grad.shape[1:]))
            wait = start_exchange(coming, leaving, recv_splits, send_splits, group)
            to_table = kernels.sums(parts.own.by_column, own_weight, grad)
            wait()
            combine_by_rank(to_table, send_index, send_splits, coming, "sum")
        if ctx.needs_input_grad[1]:
            to_weight = torch.empty_like(weight)
            to_weight[parts.own_edges] = kernels.dots(parts.own.by_row, grad, table)
            to_weight[parts.halo_edges] = kernels.dots(parts.halo.by_row, grad, halo)
        return to_table, to_weight, None, None


def _cut(weight: Tensor | None, parts: SplitStructure) -> tuple[Tensor | None, Tensor | None]:
    """The weights of the edges of each part."""
    if weight is None:
        return None, None
    return weight[parts.own_edges], weight[parts.halo_edges]
