"""Aggregations with gradients: what ``lower_aggregations`` puts in the place of gathers and scatters.

::

    weighted_sum(x, w, A)    A_w x           backward  A_w' g,  dots(g, x, A)
    dots(q, k, A)            q A k'          backward  weighted_sum both ways
    gather(x, A, end)        x[end of e]     backward  segment_sum
    segment_sum(m, A)        sum by row      backward  gather
    edge_softmax(s, A)       over each row   backward  edge_softmax_gradient
    edge_extreme(x, A)       max by row      backward  edge_extreme_gradient, ties share

A is the structure of a set of edges (``graphshard.kernels.structure``) as a list of tensors, made once for each
graph. No tensor of edges by features is made, and autograd keeps none. Every op can be differentiated twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphshard.errors import GraphshardError
from graphshard.kernels.interface import kernels_for
from graphshard.kernels.structure import PADDING, Structure, build, transposed
from graphshard.ops.registration import below_autograd, composite, fake, gradient, operator

__all__ = [
    "dots",
    "edge_counts",
    "edge_extreme",
    "edge_numbers",
    "edge_order",
    "edge_softmax",
    "edge_structure",
    "gather",
    "row_weights",
    "segment_sum",
    "sort_edges",
    "weighted_sum",
]

Edges = Sequence[Tensor]
"""A `graphshard.kernels.structure.Structure`, as :func:`edge_structure` makes it."""


@operator("edge_structure(Tensor row, Tensor column, SymInt rows, SymInt columns) -> Tensor[]")
def edge_structure(row: Tensor, column: Tensor, rows: int, columns: int) -> list[Tensor]:
    """`graphshard.kernels.structure.build`, as a list of tensors."""
    return build(row, column, rows, columns).tensors


@fake(edge_structure)
def _edge_structure_fake(row: Tensor, _column: Tensor, rows: int, columns: int) -> list[Tensor]:
    context = torch.library.get_ctx()

    def found(size: Any) -> Tensor:
        return row.new_empty(size, dtype=torch.int32)

    def known_or_empty() -> Tensor:
        return found(context.new_dynamic_size())

    by_row, by_column = (
        [found(n + 1), found(row.size(0) + PADDING), known_or_empty()] for n in (rows, columns)
    )
    return [*by_row, *by_column, known_or_empty(), known_or_empty()]


def _rows_and_edges(structure: Edges) -> tuple[Any, Any]:
    """How many rows, and how many edges."""
    return structure[0].size(0) - 1, structure[1].size(0) - PADDING


@composite("edge_numbers(Tensor index) -> Tensor")
def edge_numbers(index: Tensor) -> Tensor:
    """The number of each edge: int64 ``[edges]``, for ``[edges]``."""
    return torch.arange(index.size(0), device=index.device)


@composite("edge_order(Tensor row) -> Tensor")
def edge_order(row: Tensor) -> Tensor:
    """The edges in the order of their rows, those of one row in their own: int64 ``[edges]``."""
    return row.argsort(stable=True)


@composite("sort_edges(Tensor values, Tensor order) -> Tensor")
def sort_edges(values: Tensor, order: Tensor) -> Tensor:
    """``[edges, ...]`` values in the order of :func:`edge_order`."""
    return values.index_select(0, order)


@composite("edge_counts(Tensor[] structure, int ndim, ScalarType dtype) -> Tensor")
def edge_counts(structure: Edges, ndim: int, dtype: torch.dtype) -> Tensor:
    """How many edges each row has, but at least 1: ``[rows, 1, ...]`` of ``ndim`` dims."""
    counts = structure[0].diff().clamp(min=1)
    return counts.to(dtype).view(-1, *[1] * (ndim - 1))


@composite("row_weights(Tensor? weight, Tensor scale, Tensor[] structure, str how) -> Tensor")
def row_weights(weight: Tensor | None, scale: Tensor, structure: Edges, how: str) -> Tensor:
    """Weights of edges that scale each row of a sum: by ``scale`` ("multiply"), or by 1 / ``scale`` ("divide").

    Args:
        weight: ``[edges]``, ``[edges, heads]``, or None for 1. scale: ``[rows]``.

    Returns:
        Like ``weight``; ``[edges]`` for None.
    """
    factor: Tensor = gather(scale, structure, "row")
    if how == "divide":
        factor = factor.reciprocal()
    return factor if weight is None else weight * factor.view(-1, *[1] * (weight.dim() - 1))


# ---- weighted_sum and dots ---------------------------------------------------------------------------------


@operator("weighted_sum(Tensor x, Tensor? weight, Tensor[] structure) -> Tensor")
def weighted_sum(x: Tensor, weight: Tensor | None, structure: Edges) -> Tensor:
    """``out[i] = sum of weight[e] * x[column of e]`` over the edges e of row i.

    Args:
        x: ``[columns, ...]``. weight: None for 1, or ``[edges]``; ``[edges, heads]`` for x ``[columns, heads,
            width]``. structure: of the edges.

    Returns:
        ``[rows, ...]``, of x's dtype.

    Raises:
        GraphshardError: the dtypes differ.
    """
    check_dtypes(x, weight)
    table, weights = by_heads(x, weight)
    by_row = Structure.of(structure).by_row
    return kernels_for(table).sums(by_row, weights, table).view(by_row.groups, *x.shape[1:])


def by_heads(x: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A table as ``[columns, heads, width]``, and its weights as ``[edges, heads]``."""
    heads = 1 if weight is None or weight.dim() == 1 else weight.size(1)
    table = x.reshape(x.size(0), heads, x.shape[1:].numel() // heads)
    return table, None if weight is None else weight.reshape(-1, heads)


@fake(weighted_sum)
def _weighted_sum_fake(x: Tensor, _weight: Tensor | None, structure: Edges) -> Tensor:
    return x.new_empty((_rows_and_edges(structure)[0], *x.shape[1:]))


@gradient(weighted_sum)
class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, structure: Edges) -> Tensor:
        ctx.structure = structure
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return below_autograd(weighted_sum, x, weight, structure)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            to_x = weighted_sum(grad, weight, transposed(ctx.structure))
        if ctx.needs_input_grad[1]:
            rows, _ = by_heads(grad, weight)
            table, _ = by_heads(x, weight)
            to_weight = dots(rows, table, ctx.structure).view(weight.shape)
        return to_x, to_weight, None


@operator("dots(Tensor rows, Tensor table, Tensor[] structure) -> Tensor")
def dots(rows: Tensor, table: Tensor, structure: Edges) -> Tensor:
    """``out[e, h] = dot(rows[row of e, h], table[column of e, h])``.

    Args:
        rows: ``[rows, heads, width]``. table: ``[columns, heads, width]``. structure: of the edges.

    Returns:
        ``[edges, heads]``.

    Raises:
        GraphshardError: the dtypes differ.
    """
    check_dtypes(rows, table)
    return kernels_for(table).dots(Structure.of(structure).by_row, rows, table)


def check_dtypes(a: Tensor, b: Tensor | None) -> None:
    """Raise where two tensors of an aggregation have different dtypes."""
    if b is not None and a.dtype != b.dtype:
        raise GraphshardError(f"an aggregation takes tensors of one dtype, not {a.dtype} and {b.dtype}")


@fake(dots)
def _dots_fake(_rows: Tensor, table: Tensor, structure: Edges) -> Tensor:
    return table.new_empty((_rows_and_edges(structure)[1], table.size(1)))


@gradient(dots)
class _Dots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, table: Tensor, structure: Edges) -> Tensor:
        ctx.structure = structure
        ctx.save_for_backward(
            rows if ctx.needs_input_grad[1] else None, table if ctx.needs_input_grad[0] else None
        )
        return below_autograd(dots, rows, table, structure)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows, table = ctx.saved_tensors
        to_rows = to_table = None
        if ctx.needs_input_grad[0]:
            to_rows = weighted_sum(table, grad, ctx.structure)
        if ctx.needs_input_grad[1]:
            to_table = weighted_sum(rows, grad, transposed(ctx.structure))
        return to_rows, to_table, None


# ---- gather and segment_sum --------------------------------------------------------------------------------


@operator("gather(Tensor x, Tensor[] structure, str end) -> Tensor")
def gather(x: Tensor, structure: Edges, end: str) -> Tensor:
    """``x[row of e]`` or ``x[column of e]`` for each edge e: ``[edges, ...]``.

    Args:
        x: ``[rows, ...]`` or ``[columns, ...]``. structure: of the edges. end: "row" or "column".
    """
    found = Structure.of(structure)
    return x.index_select(0, found.row if end == "row" else found.column)


@fake(gather)
def _gather_fake(x: Tensor, structure: Edges, _end: str) -> Tensor:
    return x.new_empty((_rows_and_edges(structure)[1], *x.shape[1:]))


@gradient(gather)
class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, structure: Edges, end: str) -> Tensor:
        ctx.by_row = structure if end == "row" else transposed(structure)
        return below_autograd(gather, x, structure, end)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return segment_sum(grad, ctx.by_row), None, None


@operator("segment_sum(Tensor values, Tensor[] structure) -> Tensor")
def segment_sum(values: Tensor, structure: Edges) -> Tensor:
    """``out[i] = sum of values[e]`` over the edges e of row i: ``[edges, ...]`` to ``[rows, ...]``."""
    table, _ = by_heads(values, None)
    by_row = Structure.of(structure).by_row.of_edges()
    return kernels_for(values).sums(by_row, None, table).view(by_row.groups, *values.shape[1:])


@fake(segment_sum)
def _segment_sum_fake(values: Tensor, structure: Edges) -> Tensor:
    return values.new_empty((_rows_and_edges(structure)[0], *values.shape[1:]))


@gradient(segment_sum)
class _SegmentSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, structure: Edges) -> Tensor:
        ctx.structure = structure
        return below_autograd(segment_sum, values, structure)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return gather(grad, ctx.structure, "row"), None


# ---- edge_softmax ------------------------------------------------------------------------------------------


@operator("edge_softmax(Tensor scores, Tensor[] structure, float small) -> Tensor")
def edge_softmax(scores: Tensor, structure: Edges, small: float) -> Tensor:
    """``exp(s - max) / (sum of exp + small)`` over the edges of each row.

    Args:
        scores: ``[edges]`` or ``[edges, heads]``. structure: of the edges. small: added to each sum.

    Returns:
        Like ``scores``. Source: ``torch_geometric.utils.softmax``.
    """
    flat = _by_edge(scores)
    return kernels_for(flat).softmax(Structure.of(structure).by_row, flat, small).view(scores.shape)


def _by_edge(values: Tensor) -> Tensor:
    """``[edges, heads]``."""
    return values.reshape(values.size(0), values.shape[1:].numel())


@operator("edge_softmax_gradient(Tensor shares, Tensor grad, Tensor[] structure) -> Tensor")
def edge_softmax_gradient(shares: Tensor, grad: Tensor, structure: Edges) -> Tensor:
    """``share * (grad - sum of share * grad over the edges of its row)``.

    Args:
        shares: what :func:`edge_softmax` returned. grad: its cotangent. structure: of the edges.

    Returns:
        Like ``shares``.
    """
    by_row = Structure.of(structure).by_row
    found = kernels_for(grad).softmax_gradient(by_row, _by_edge(shares), _by_edge(grad))
    return found.view(shares.shape)


@fake(edge_softmax)
def _edge_softmax_fake(scores: Tensor, _structure: Edges, _small: float) -> Tensor:
    return torch.empty_like(scores, memory_format=torch.contiguous_format)


@fake(edge_softmax_gradient)
def _edge_softmax_gradient_fake(shares: Tensor, _grad: Tensor, _structure: Edges) -> Tensor:
    return torch.empty_like(shares, memory_format=torch.contiguous_format)


@gradient(edge_softmax)
class _EdgeSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, structure: Edges, small: float) -> Tensor:
        ctx.structure = structure
        shares: Tensor = below_autograd(edge_softmax, scores, structure, small)
        ctx.save_for_backward(shares)
        return shares

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return edge_softmax_gradient(*ctx.saved_tensors, grad, ctx.structure), None, None


@gradient(edge_softmax_gradient)
class _EdgeSoftmaxGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shares: Tensor, grad: Tensor, structure: Edges) -> Tensor:
        ctx.structure = structure
        ctx.save_for_backward(shares, grad)
        return below_autograd(edge_softmax_gradient, shares, grad, structure)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor, None]:
        shares, grad = ctx.saved_tensors
        to_grad = edge_softmax_gradient(shares, cotangent, ctx.structure)
        total, weight = (
            gather(segment_sum(shares * t, ctx.structure), ctx.structure, "row") for t in (grad, cotangent)
        )
        return cotangent * (grad - total) - grad * weight, to_grad, None


# ---- edge_extreme ------------------------------------------------------------------------------------------


@composite("edge_extreme(Tensor x, Tensor[] structure, str reduce) -> Tensor")
def edge_extreme(x: Tensor, structure: Edges, reduce: str) -> Tensor:
    """The largest or smallest ``x[column of e]`` over the edges e of each row; 0 for a row without edges.

    Its gradient is PyTorch's for ``x.new_zeros(...).scatter_reduce_(.., include_self=False)``: shared evenly
    among ties, and the zero that the result starts from is one more tie where the extreme is 0.

    Args:
        x: ``[columns, ...]``. structure: of the edges. reduce: "amax" or "amin".

    Returns:
        ``[rows, ...]``.
    """
    best: Tensor = edge_extreme_and_ties(x, structure, reduce)[0]
    return best


@operator("edge_extreme_and_ties(Tensor x, Tensor[] structure, str reduce) -> (Tensor, Tensor)")
def edge_extreme_and_ties(x: Tensor, structure: Edges, reduce: str) -> tuple[Tensor, Tensor]:
    """:func:`edge_extreme`, and how many edges of each row have it; both of x's dtype."""
    return kernels_for(x).extremes(Structure.of(structure).by_row, x, 1 if reduce == "amax" else -1)


@operator("edge_extreme_gradient(Tensor x, Tensor best, Tensor share, Tensor[] structure) -> Tensor")
def edge_extreme_gradient(x: Tensor, best: Tensor, share: Tensor, structure: Edges) -> Tensor:
    """``out[j] = sum of share[i] * (x[j] == best[i])`` over the edges of column j to rows i: ``[columns, ...]``."""
    return kernels_for(x).extremes_gradient(Structure.of(structure).by_column, x, best, share)


@fake(edge_extreme_and_ties)
def _edge_extreme_and_ties_fake(x: Tensor, structure: Edges, _reduce: str) -> tuple[Tensor, Tensor]:
    best = x.new_empty((_rows_and_edges(structure)[0], *x.shape[1:]))
    return best, torch.empty_like(best)


@fake(edge_extreme_gradient)
def _edge_extreme_gradient_fake(x: Tensor, _best: Tensor, _share: Tensor, _structure: Edges) -> Tensor:
    return x.new_empty(x.shape)


@gradient(edge_extreme_and_ties)
class _EdgeExtreme(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, structure: Edges, reduce: str) -> tuple[Tensor, Tensor]:
        ctx.structure = structure
        best, ties = below_autograd(edge_extreme_and_ties, x, structure, reduce)
        ctx.save_for_backward(x, best, ties)
        ctx.mark_non_differentiable(ties)
        ctx.set_materialize_grads(False)  # or ties get zeros of their own
        return best, ties

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, None, None]:
        if grad is None:
            return None, None, None
        x, best, ties = (saved.detach() for saved in ctx.saved_tensors)
        share = grad / (ties + (best == 0))
        return edge_extreme_gradient(x, best, share, ctx.structure), None, None


@gradient(edge_extreme_gradient)
class _EdgeExtremeGradient(torch.autograd.Function):
    """Linear in ``share``; which edges have the extreme does not change with it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, best: Tensor, share: Tensor, structure: Edges) -> Tensor:
        ctx.structure = structure
        ctx.save_for_backward(x, best)
        return below_autograd(edge_extreme_gradient, x, best, share, structure)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[None, None, Tensor, None]:
        x, best = ctx.saved_tensors
        hit = gather(x, ctx.structure, "column") == gather(best, ctx.structure, "row")
        taken = gather(cotangent, ctx.structure, "column") * hit
        return None, None, segment_sum(taken, ctx.structure), None
