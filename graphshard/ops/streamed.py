"""A sum over neighbours whose halo rows come in a block of columns at a time.

::

                columns 0..63    64..127     ...
    forward     own and halo rows of the block -> sum over edges -> these columns of the result
    backward    sum over transposed edges -> halo rows home, added -> these columns of the gradient

The table of owned and halo rows is never there whole, only one block of it. Every sum has its terms in the order that
it has without blocks, so no bit differs from ``scale * weighted_sum(halo_sync(x), weight, A)``. Where a block would
hold everything, as on small graphs, there is one.

A preaggregation (``preaggregation.py``) may stand in the place of A and of the weights: rows and sums of rows travel
then, and the terms of a sum are added in another order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from graphshard.kernels.interface import kernels_for
from graphshard.kernels.structure import Structure
from graphshard.ops.aggregation import by_heads, check_dtypes, dots
from graphshard.ops.exchange import halo_reduce, halo_sync
from graphshard.ops.preaggregation import Preaggregation, Way
from graphshard.ops.registration import below_autograd, fake, gradient, operator
from graphshard.ranks.groups import exchange, group_size

__all__ = ["ARGUMENTS", "scale_gradient", "streamed_reduce", "streamed_sum", "weight_gradient"]

BLOCK_BYTES = 1 << 23
"""What the owned rows of a block may take; narrower blocks cost messages and visits of every edge."""

NARROWEST = 32
"""Columns that a block has at least: two cache lines of float32 for each row that an edge reads."""

ARGUMENTS = (
    "Tensor? weight, Tensor? scale, Tensor[] structure, "
    "Tensor send_index, SymInt[] send_splits, SymInt[] recv_splits, str group, SymInt num_nodes"
)
"""How a sum is taken, and by which plan."""


class Block(NamedTuple):
    """Columns ``start..stop-1`` of each head ``first..last-1``, which ``out`` has from column ``to`` on."""

    first: int
    last: int
    start: int
    stop: int
    to: int

    @property
    def columns(self) -> int:
        return (self.last - self.first) * (self.stop - self.start)

    def of(self, table: Tensor) -> Tensor:
        """These columns of ``[rows, heads, width]``: a view."""
        return table[:, self.first : self.last, self.start : self.stop]


def blocks(table: Tensor, num_nodes: int, group: str) -> Iterator[Block]:
    """The blocks of ``[rows, heads, width]``: the same on every rank, for each is an exchange."""
    heads, width = table.shape[1:]
    rows = max(num_nodes // group_size(group), 1)
    at_most = BLOCK_BYTES // (rows * table.element_size()) // NARROWEST * NARROWEST
    at_most = max(at_most, NARROWEST)
    if width > at_most:
        for head in range(heads):
            for start in range(0, width, at_most):
                yield Block(head, head + 1, start, min(start + at_most, width), head * width + start)
    else:
        together = at_most // max(width, 1)
        for first in range(0, heads, together):
            yield Block(first, min(first + together, heads), 0, width, first * width)


@operator(f"streamed_sum(Tensor x, {ARGUMENTS}) -> Tensor")
def streamed_sum(
    x: Tensor, weight: Tensor | None, scale: Tensor | None, structure: Sequence[Tensor], *plan: Any
) -> Tensor:
    """``scale * weighted_sum(halo_sync(x), weight, structure)``, with the halo rows of a block of columns at a time.

    Args:
        x: ``[n, ...]`` owned rows. weight, structure: as for ``graphshard.ops.aggregation.weighted_sum``; or None and
            a preaggregation of them.
        scale: ``[rows]``, by which each row of the sum is multiplied; None for 1.
        plan: as for ``graphshard.ops.exchange.halo_sync``, and how many nodes the whole graph has.

    Returns:
        ``[rows, ...]``, of x's dtype. Backward: :func:`streamed_reduce`.

    Raises:
        GraphshardError: the dtypes differ.
        RuntimeMismatch, ShardError: as there.
    """
    if Preaggregation.is_one(structure):
        out = _preaggregated(x, None, structure, *plan[-2:], back=False)
        return out if scale is None else out.mul_(_of_rows(scale, out))
    check_dtypes(x, weight)
    *route, num_nodes = plan
    table, weights = by_heads(x, weight)
    by_row, kernels = Structure.of(structure).by_row, kernels_for(table)
    out = x.new_empty((by_row.groups, *x.shape[1:]))
    flat = out.view(by_row.groups, x.shape[1:].numel())
    for block in blocks(table, num_nodes, route[-1]):
        rows = halo_sync(block.of(table), *route)
        kernels.sums_into(flat, block.to, by_row, weights, block.first, rows)
        del rows  # before those of the next block are there
    if scale is not None:
        flat *= scale.unsqueeze(-1)
    return out


@operator(f"streamed_reduce(Tensor grad, {ARGUMENTS}) -> Tensor")
def streamed_reduce(
    grad: Tensor, weight: Tensor | None, scale: Tensor | None, structure: Sequence[Tensor], *plan: Any
) -> Tensor:
    """The adjoint of :func:`streamed_sum` for its x: gradients of halo rows go home a block of columns at a time.

    Args:
        grad: ``[rows, ...]``. The others: as there.

    Returns:
        ``[n, ...]``, terms added in rank order. Backward: :func:`streamed_sum`.
    """
    if Preaggregation.is_one(structure):
        return _preaggregated(grad, scale, structure, *plan[-2:], back=True)
    check_dtypes(grad, weight)
    *sent, recv_splits, group, num_nodes = plan
    table, weights = by_heads(grad, weight)
    by_column, kernels = Structure.of(structure).by_column, kernels_for(table)
    n = by_column.groups - sum(recv_splits)
    out = grad.new_empty((n, *grad.shape[1:]))
    flat = out.view(n, grad.shape[1:].numel())
    for block in blocks(table, num_nodes, group):
        part = block.of(table).contiguous() if scale is None else block.of(table) * scale.view(-1, 1, 1)
        rows = part.new_empty((by_column.groups, block.columns))
        kernels.sums_into(rows, 0, by_column, weights, block.first, part)
        del part  # before memory for rows that come is taken
        flat[:, block.to : block.to + block.columns] = halo_reduce(rows, *sent, recv_splits, "sum", group)
        del rows
    return out


def _preaggregated(
    x: Tensor, scale: Tensor | None, tensors: Sequence[Tensor], group: str, num_nodes: int, *, back: bool
) -> Tensor:
    """The sum of ``scale * x`` in one direction of a preaggregation, a block of columns at a time."""
    way, send_splits, recv_splits = Preaggregation.of(tensors).route(back)
    check_dtypes(x, way.sum.weight)
    table, _ = by_heads(x, way.sum.weight)
    rows, kernels = way.sum.grouped.groups, kernels_for(table)
    out = x.new_empty((rows, *x.shape[1:]))
    flat = out.view(rows, x.shape[1:].numel())
    for block in blocks(table, num_nodes, group):
        found = _with_received(block.of(table), scale, way, block.first, send_splits, recv_splits, group)
        kernels.sums_into(flat, block.to, way.sum.grouped, way.sum.weight, block.first, found)
        del found  # before those of the next block are there
    return out


def _with_received(
    x: Tensor,
    scale: Tensor | None,
    way: Way,
    first: int,
    send_splits: list[int],
    recv_splits: list[int],
    group: str,
) -> Tensor:
    """``scale * x``, then what the other ranks send for it: ``[rows, heads, width]``, with the heads from first on."""
    own, heads, width = x.shape
    out = x.new_empty((own + sum(recv_splits), heads, width))
    rows = out[:own]
    if scale is None:
        rows.copy_(x)
    else:
        torch.mul(x, scale.view(-1, 1, 1), out=rows)
    sent = x.new_empty((sum(send_splits), heads * width))
    kernels_for(x).sums_into(sent, 0, way.sent.grouped, way.sent.weight, first, rows)
    exchange(out[own:], sent.view(-1, heads, width), send_splits, recv_splits, group)
    return out


def _of_rows(scale: Tensor, rows: Tensor) -> Tensor:
    """A number for each row, as what multiplies the rows."""
    return scale.view(-1, *[1] * (rows.dim() - 1))


def weight_gradient(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    structure: Sequence[Tensor],
    plan: Sequence[Any],
) -> Tensor:
    """``dot(scale * grad[row of e], rows[column of e])`` for each edge e; the halo rows are fetched once more."""
    rows, _ = by_heads(grad, weight)
    table, _ = by_heads(halo_sync(x, *plan[:4]), weight)
    found: Tensor = dots(rows if scale is None else rows * scale.view(-1, 1, 1), table, structure)
    return found.view(weight.shape)


def scale_gradient(
    grad: Tensor, x: Tensor, weight: Tensor | None, structure: Sequence[Tensor], plan: Sequence[Any]
) -> Tensor:
    """``dot(grad[i], unscaled sum[i])`` for each row i; the halo rows are fetched once more."""
    unscaled: Tensor = streamed_sum(x, weight, None, structure, *plan)
    return (grad * unscaled).flatten(1).sum(1)


@fake(streamed_sum)
def _streamed_sum_fake(
    x: Tensor, _weight: Tensor | None, _scale: Tensor | None, structure: Sequence[Tensor], *_: Any
) -> Tensor:
    return x.new_empty((structure[0].size(0) - 1, *x.shape[1:]))


@fake(streamed_reduce)
def _streamed_reduce_fake(
    grad: Tensor, _weight: Tensor | None, _scale: Tensor | None, structure: Sequence[Tensor], *plan: Any
) -> Tensor:
    if Preaggregation.is_one(structure):
        rows = Preaggregation.of(structure).backward.sum.start.size(0) - 1
    else:
        rows = structure[3].size(0) - 1 - sum(plan[2])
    return grad.new_empty((rows, *grad.shape[1:]))


@gradient(streamed_sum)
class _StreamedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *rest: Any) -> Tensor:
        return _kept(ctx, streamed_sum, x, *rest)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = streamed_reduce(grad, weight, scale, ctx.structure, *ctx.plan)
        return to_x, *_of_edges_and_rows(ctx, grad, x, weight, scale), *(None,) * 6


@gradient(streamed_reduce)
class _StreamedReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, *rest: Any) -> Tensor:
        return _kept(ctx, streamed_reduce, grad, *rest)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        grad, weight, scale = ctx.saved_tensors
        to_grad = None
        if ctx.needs_input_grad[0]:
            to_grad = streamed_sum(cotangent, weight, scale, ctx.structure, *ctx.plan)
        return to_grad, *_of_edges_and_rows(ctx, grad, cotangent, weight, scale), *(None,) * 6


def _kept(ctx: Any, op: Any, first: Tensor, *rest: Any) -> Tensor:
    """Forward of both: the first argument is kept for gradients of weights and scales alone."""
    weight, scale, ctx.structure, *ctx.plan = rest
    ctx.save_for_backward(first if any(ctx.needs_input_grad[1:3]) else None, weight, scale)
    return below_autograd(op, first, *rest)  # type: ignore[no-any-return]


def _of_edges_and_rows(
    ctx: Any, grad: Tensor, x: Tensor, weight: Tensor | None, scale: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of the weights and of the scale, both of which are those of ``grad . (scale * sum of x)``."""
    to_weight = to_scale = None
    if ctx.needs_input_grad[1]:
        assert weight is not None
        to_weight = weight_gradient(grad, x, weight, scale, ctx.structure, ctx.plan)
    if ctx.needs_input_grad[2]:
        to_scale = scale_gradient(grad, x, weight, ctx.structure, ctx.plan)
    return to_weight, to_scale
