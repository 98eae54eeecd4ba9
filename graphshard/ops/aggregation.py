"""Aggregations with gradients: what ``lower_aggregations`` puts in the place of gathers and scatters.

::

    weighted_sum(x, w, A)    A_w x           backward  A_w' g,  dots(g, x, A)
    dots(q, k, A)            q A k'          backward  weighted_sum both ways
    gather(x, A, end)        x[end of e]     backward  segment_sum
    segment_sum(m, A)        sum by row      backward  gather
    edge_softmax(s, A)       over each row   backward  its own
    extreme(x, A)            max by row      backward  its own, ties share

A is the structure of a set of edges (``graphshard.kernels.structure``), made once for each graph. No tensor of
edges by features is made, and autograd keeps none. Every function can be differentiated twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphshard.errors import GraphshardError
from graphshard.kernels.interface import kernels_for
from graphshard.kernels.structure import Structure, build

__all__ = [
    "dots",
    "edge_counts",
    "edge_numbers",
    "edge_order",
    "edge_softmax",
    "edge_structure",
    "extreme",
    "gather",
    "row_weights",
    "segment_sum",
    "sort_edges",
    "weighted_sum",
]


def edge_structure(row: Tensor, column: Tensor, rows: int, columns: int) -> Structure:
    """See `graphshard.kernels.structure.build`."""
    return build(row, column, rows, columns)


def edge_numbers(index: Tensor) -> Tensor:
    """The number of each edge: int64 ``[edges]``, for ``[edges]``."""
    return torch.arange(index.numel(), device=index.device)


def edge_order(row: Tensor) -> Tensor:
    """The edges in the order of their rows, those of one row in their own: int64 ``[edges]``."""
    return row.argsort(stable=True)


def sort_edges(values: Tensor, order: Tensor) -> Tensor:
    """``[edges, ...]`` values in the order of :func:`edge_order`."""
    return values.index_select(0, order)


def edge_counts(structure: Structure, ndim: int, dtype: torch.dtype) -> Tensor:
    """How many edges each row has, but at least 1: ``[rows, 1, ...]`` of ``ndim`` dims."""
    counts = structure.by_row.start.diff().clamp(min=1)
    return counts.to(dtype).view(-1, *[1] * (ndim - 1))


def row_weights(weight: Tensor | None, scale: Tensor, structure: Structure, how: str) -> Tensor:
    """Weights of edges that scale each row of a sum: by ``scale`` ("multiply"), or by 1 / ``scale`` ("divide").

    Args:
        weight: ``[edges]``, ``[edges, heads]``, or None for 1. scale: ``[rows]``.

    Returns:
        Like ``weight``; ``[edges]`` for None.
    """
    factor = scale.index_select(0, structure.row)
    if how == "divide":
        factor = factor.reciprocal()
    return factor if weight is None else weight * factor.view(-1, *[1] * (weight.dim() - 1))


def weighted_sum(x: Tensor, weight: Tensor | None, structure: Structure) -> Tensor:
    """``out[i] = sum of weight[e] * x[column of e]`` over the edges e of row i.

    Args:
        x: ``[columns, ...]``. weight: None for 1, or ``[edges]``; ``[edges, heads]`` for x ``[columns, heads,
            width]``. structure: of the edges.

    Returns:
        ``[rows, ...]``, of x's dtype.

    Raises:
        GraphshardError: the dtypes differ.
    """
    _check_dtypes(x, weight)
    heads = 1 if weight is None or weight.dim() == 1 else weight.size(1)
    table = x.reshape(x.size(0), heads, x.shape[1:].numel() // heads)
    weights = None if weight is None else weight.reshape(-1, heads)
    out: Tensor = _WeightedSum.apply(table, weights, structure)  # type: ignore[no-untyped-call]
    return out.view(-1, *x.shape[1:])


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, weight: Tensor | None, structure: Structure) -> Tensor:
        ctx.structure = structure
        ctx.save_for_backward(table if ctx.needs_input_grad[1] else None, weight)
        return kernels_for(table).sums(structure.by_row, weight, table)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        table, weight = ctx.saved_tensors
        to_table = to_weight = None
        if ctx.needs_input_grad[0]:
            to_table = _WeightedSum.apply(grad, weight, ctx.structure.transposed)  # type: ignore[no-untyped-call]
        if ctx.needs_input_grad[1]:
            to_weight = _Dots.apply(grad, table, ctx.structure)  # type: ignore[no-untyped-call]
        return to_table, to_weight, None


def dots(rows: Tensor, table: Tensor, structure: Structure) -> Tensor:
    """``out[e, h] = dot(rows[row of e, h], table[column of e, h])``.

    Args:
        rows: ``[rows, heads, width]``. table: ``[columns, heads, width]``. structure: of the edges.

    Returns:
        ``[edges, heads]``.
    """
    _check_dtypes(rows, table)
    return _Dots.apply(rows, table, structure)  # type: ignore[no-untyped-call, no-any-return]


def _check_dtypes(a: Tensor, b: Tensor | None) -> None:
    if b is not None and a.dtype != b.dtype:
        raise GraphshardError(f"an aggregation takes tensors of one dtype, not {a.dtype} and {b.dtype}")


class _Dots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, table: Tensor, structure: Structure) -> Tensor:
        ctx.structure = structure
        ctx.save_for_backward(
            rows if ctx.needs_input_grad[1] else None, table if ctx.needs_input_grad[0] else None
        )
        return kernels_for(table).dots(structure.by_row, rows, table)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows, table = ctx.saved_tensors
        to_rows = to_table = None
        if ctx.needs_input_grad[0]:
            to_rows = _WeightedSum.apply(table, grad, ctx.structure)  # type: ignore[no-untyped-call]
        if ctx.needs_input_grad[1]:
            to_table = _WeightedSum.apply(rows, grad, ctx.structure.transposed)  # type: ignore[no-untyped-call]
        return to_rows, to_table, None


def gather(x: Tensor, structure: Structure, end: str) -> Tensor:
    """``x[row of e]`` or ``x[column of e]`` for each edge e: ``[edges, ...]``.

    Args:
        x: ``[rows, ...]`` or ``[columns, ...]``. structure: of the edges. end: "row" or "column".
    """
    by_row = structure if end == "row" else structure.transposed
    return _Gather.apply(x, by_row)  # type: ignore[no-untyped-call, no-any-return]


def segment_sum(values: Tensor, structure: Structure) -> Tensor:
    """``out[i] = sum of values[e]`` over the edges e of row i: ``[edges, ...]`` to ``[rows, ...]``."""
    return _SegmentSum.apply(values, structure)  # type: ignore[no-untyped-call, no-any-return]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, structure: Structure) -> Tensor:
        ctx.structure = structure
        return x.index_select(0, structure.row)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return segment_sum(grad, ctx.structure), None


class _SegmentSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, structure: Structure) -> Tensor:
        ctx.structure = structure
        table = values.reshape(values.size(0), 1, values.shape[1:].numel())
        out = kernels_for(values).sums(structure.by_row.of_edges(), None, table)
        return out.view(-1, *values.shape[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return gather(grad, ctx.structure, "row"), None


def edge_softmax(scores: Tensor, structure: Structure, small: float) -> Tensor:
    """``exp(s - max) / (sum of exp + small)`` over the edges of each row.

    Args:
        scores: ``[edges]`` or ``[edges, heads]``. structure: of the edges. small: added to each sum.

    Returns:
        Like ``scores``. Source: ``torch_geometric.utils.softmax``.
    """
    shares: Tensor = _EdgeSoftmax.apply(scores, structure, small)  # type: ignore[no-untyped-call]
    return shares


class _EdgeSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, structure: Structure, small: float) -> Tensor:
        ctx.structure = structure
        flat = scores.reshape(scores.size(0), scores.shape[1:].numel())
        shares = kernels_for(flat).softmax(structure.by_row, flat, small).view(scores.shape)
        ctx.save_for_backward(shares)
        return shares

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (shares,) = ctx.saved_tensors
        structure: Structure = ctx.structure
        if torch.is_grad_enabled():  # to be differentiated once more
            total = gather(segment_sum(shares * grad, structure), structure, "row")
            return shares * (grad - total), None, None
        shape = (shares.size(0), shares.shape[1:].numel())
        found = kernels_for(grad).softmax_gradient(
            structure.by_row, shares.reshape(shape), grad.reshape(shape)
        )
        return found.view(shares.shape), None, None


def extreme(x: Tensor, structure: Structure, reduce: str) -> Tensor:
    """The largest or smallest ``x[column of e]`` over the edges e of each row; 0 for a row without edges.

    Its gradient is PyTorch's for ``x.new_zeros(...).scatter_reduce_(.., include_self=False)``: shared evenly
    among ties, and the zero that the result starts from is one more tie where the extreme is 0.

    Args:
        x: ``[columns, ...]``. structure: of the edges. reduce: "amax" or "amin".

    Returns:
        ``[rows, ...]``.
    """
    return _Extreme.apply(x, structure, 1 if reduce == "amax" else -1)  # type: ignore[no-untyped-call, no-any-return]


class _Extreme(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, structure: Structure, sign: int) -> Tensor:
        ctx.structure = structure
        best, ties = kernels_for(x).extremes(structure.by_row, x, sign)
        ctx.save_for_backward(x, best, ties)
        return best

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, best, ties = ctx.saved_tensors
        structure: Structure = ctx.structure
        share = grad / (ties + (best == 0))
        if torch.is_grad_enabled():  # to be differentiated once more, as it is linear in grad
            hit = x.detach()[structure.column] == best[structure.row]
            taken = gather(share, structure, "row") * hit
            return segment_sum(taken, structure.transposed), None, None
        return kernels_for(x).extremes_gradient(structure.by_column, x, best, share), None, None
