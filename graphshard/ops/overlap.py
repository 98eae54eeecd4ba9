"""A sum over neighbours while their halo rows travel.

::

    forward   start sending own rows ... sum over edges from owned nodes ... wait ... add the edges from halo nodes
    backward  gradients of halo rows first, start sending them home ... those of owned rows ... wait ... add

Only the exchange is asynchronous; the order of all sums is fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from graphshard.kernels.interface import kernels_for
from graphshard.kernels.structure import PADDING, Structure, build
from graphshard.ops.aggregation import by_heads, dots
from graphshard.ops.copies import combine_by_rank
from graphshard.ops.registration import below_autograd, composite, fake, gradient, operator
from graphshard.ranks.groups import start_exchange

__all__ = ["Parts", "overlapped_sum", "split_structure"]


class Parts(NamedTuple):
    """The edges from owned nodes and those from halo nodes, as structures of their own.

    Attributes:
        own, halo: structures, as lists; their columns are owned rows, and halo rows from 0 on.
        own_edges, halo_edges: int64, which edges of the whole these are.
    """

    own: Sequence[Tensor]
    halo: Sequence[Tensor]
    own_edges: Tensor
    halo_edges: Tensor

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Parts:
        """The parts that :func:`split_structure` made the list of."""
        return cls(tensors[:8], tensors[8:16], *tensors[16:])


@operator("split_structure(Tensor[] structure, SymInt owned) -> Tensor[]")
def split_structure(structure: Sequence[Tensor], owned: int) -> list[Tensor]:
    """Cut a structure at column ``owned``: 18 tensors, see :class:`Parts`."""
    whole = Structure.of(structure)
    is_own = whole.column < owned
    own, halo = (mask.nonzero().flatten() for mask in (is_own, ~is_own))
    rows, columns = whole.by_row.groups, whole.by_column.groups
    return [
        *build(whole.row[own], whole.column[own], rows, owned).tensors,
        *build(whole.row[halo], whole.column[halo] - owned, rows, columns - owned).tensors,
        own,
        halo,
    ]


@fake(split_structure)
def _split_structure_fake(structure: Sequence[Tensor], owned: int) -> list[Tensor]:
    context = torch.library.get_ctx()
    rows, columns = structure[0].size(0), structure[3].size(0)

    def part(edges: Any, columns: Any) -> list[Tensor]:
        sizes = (rows, edges + PADDING, context.new_dynamic_size(), columns, edges + PADDING)
        sizes = (*sizes, *(context.new_dynamic_size() for _ in range(3)))
        return [structure[0].new_empty(size) for size in sizes]

    own, halo = context.new_dynamic_size(), context.new_dynamic_size()
    numbers = (structure[0].new_empty(size, dtype=torch.int64) for size in (own, halo))
    return [*part(own, owned + 1), *part(halo, columns - owned), *numbers]


_PLAN = "Tensor[] parts, Tensor send_index, SymInt[] send_splits, SymInt[] recv_splits, str group"


@composite(f"overlapped_sum(Tensor x, Tensor? weight, {_PLAN}) -> Tensor")
def overlapped_sum(
    x: Tensor,
    weight: Tensor | None,
    parts: Sequence[Tensor],
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
    out: Tensor = overlapped_sum_and_halo(x, weight, parts, send_index, send_splits, recv_splits, group)[0]
    return out


@operator(f"overlapped_sum_and_halo(Tensor x, Tensor? weight, {_PLAN}) -> (Tensor, Tensor)")
def overlapped_sum_and_halo(
    x: Tensor,
    weight: Tensor | None,
    parts: Sequence[Tensor],
    send_index: Tensor,
    send_splits: Sequence[int],
    recv_splits: Sequence[int],
    group: str,
) -> tuple[Tensor, Tensor]:
    """:func:`overlapped_sum`, and the halo rows ``[h, ...]`` that came in for it."""
    cut = Parts.of(parts)
    table, weights = by_heads(x, weight)
    halo = table.new_empty((sum(recv_splits), *table.shape[1:]))
    wait = start_exchange(halo, table.index_select(0, send_index), send_splits, recv_splits, group)
    kernels = kernels_for(table)
    own_weight, halo_weight = _cut(weights, cut)
    out = kernels.sums(Structure.of(cut.own).by_row, own_weight, table)
    wait()
    out += kernels.sums(Structure.of(cut.halo).by_row, halo_weight, halo)
    return out.view(-1, *x.shape[1:]), halo.view(-1, *x.shape[1:])


@operator(f"overlapped_reduce(Tensor grad, Tensor? to_halo, Tensor? weight, {_PLAN}) -> Tensor")
def overlapped_reduce(
    grad: Tensor,
    to_halo: Tensor | None,
    weight: Tensor | None,
    parts: Sequence[Tensor],
    send_index: Tensor,
    send_splits: Sequence[int],
    recv_splits: Sequence[int],
    group: str,
) -> Tensor:
    """The adjoint of :func:`overlapped_sum_and_halo` for its x: gradients of halo rows travel home meanwhile.

    Args:
        grad: ``[rows, ...]``, of the sum. to_halo: ``[h, ...]``, of the halo rows; None for none. The others: its.

    Returns:
        ``[n, ...]``, terms added in rank order.
    """
    cut = Parts.of(parts)
    table, weights = by_heads(grad.contiguous(), weight)
    own_weight, halo_weight = _cut(weights, cut)
    kernels = kernels_for(table)
    leaving = kernels.sums(Structure.of(cut.halo).by_column, halo_weight, table)
    if to_halo is not None:
        leaving += to_halo.reshape(leaving.shape)
    coming = table.new_empty((send_index.numel(), *table.shape[1:]))
    wait = start_exchange(coming, leaving, recv_splits, send_splits, group)
    out = kernels.sums(Structure.of(cut.own).by_column, own_weight, table)
    wait()
    combine_by_rank(out, send_index, send_splits, coming, "sum")
    return out.view(-1, *grad.shape[1:])


def _cut(weight: Tensor | None, parts: Parts) -> tuple[Tensor | None, Tensor | None]:
    """The weights of the edges of each part."""
    if weight is None:
        return None, None
    return weight[parts.own_edges], weight[parts.halo_edges]


def _weight_gradient(
    grad: Tensor, x: Tensor, halo: Tensor, weight: Tensor, tensors: Sequence[Tensor]
) -> Tensor:
    """``dot(grad[row of e], rows[column of e])`` for each edge e, whose rows are owned ones or halo rows."""
    parts = Parts.of(tensors)
    rows, own, other = (by_heads(t, weight)[0] for t in (grad, x, halo))
    found = torch.cat([dots(rows, own, parts.own), dots(rows, other, parts.halo)])
    order = torch.cat([parts.own_edges, parts.halo_edges]).argsort()
    return found.index_select(0, order).view(weight.shape)


@fake(overlapped_sum_and_halo)
def _overlapped_sum_and_halo_fake(
    x: Tensor, _weight: Tensor | None, parts: Sequence[Tensor], *plan: Any
) -> tuple[Tensor, Tensor]:
    shapes = (parts[0].size(0) - 1, sum(plan[2]))
    return tuple(x.new_empty((rows, *x.shape[1:])) for rows in shapes)  # type: ignore[return-value]


@fake(overlapped_reduce)
def _overlapped_reduce_fake(
    grad: Tensor, _to_halo: Tensor | None, _weight: Tensor | None, parts: Sequence[Tensor], *_plan: Any
) -> Tensor:
    return grad.new_empty((parts[3].size(0) - 1, *grad.shape[1:]))


@gradient(overlapped_sum_and_halo)
class _OverlappedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, parts: Sequence[Tensor], *plan: Any
    ) -> tuple[Tensor, Tensor]:
        out, halo = below_autograd(overlapped_sum_and_halo, x, weight, parts, *plan)
        ctx.set_materialize_grads(False)
        ctx.parts, ctx.plan = parts, plan
        ctx.save_for_backward(weight, *((x, halo) if ctx.needs_input_grad[1] else (None, None)))
        return out, halo

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, to_halo: Tensor | None) -> tuple[Tensor | None, ...]:
        weight, x, halo = ctx.saved_tensors
        to_x = to_weight = None
        if grad is None and to_halo is None:
            return (None,) * 7
        if grad is None:  # a second backward may reach the halo rows alone
            assert to_halo is not None
            grad = to_halo.new_zeros((ctx.parts[0].size(0) - 1, *to_halo.shape[1:]))
        if ctx.needs_input_grad[0]:
            to_x = overlapped_reduce(grad, to_halo, weight, ctx.parts, *ctx.plan)
        if ctx.needs_input_grad[1]:
            to_weight = _weight_gradient(grad, x, halo, weight, ctx.parts)
        return to_x, to_weight, *(None,) * 5


@gradient(overlapped_reduce)
class _OverlappedReduce(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, to_halo: Tensor | None, weight: Tensor | None, parts: Any, *plan: Any
    ) -> Tensor:
        ctx.parts, ctx.plan = parts, plan
        ctx.save_for_backward(grad, weight)
        return below_autograd(overlapped_reduce, grad, to_halo, weight, parts, *plan)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        grad, weight = ctx.saved_tensors
        to_grad, halo = overlapped_sum_and_halo(cotangent, weight, ctx.parts, *ctx.plan)
        to_weight = None
        if ctx.needs_input_grad[2]:
            to_weight = _weight_gradient(grad, cotangent, halo, weight, ctx.parts)
        return to_grad, halo if ctx.needs_input_grad[1] else None, to_weight, *(None,) * 5
