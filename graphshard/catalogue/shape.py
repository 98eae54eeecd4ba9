"""Ops that rename, reorder, add or drop dims without computing anything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from graphshard.catalogue.call import Call
from graphshard.catalogue.record import Ops
from graphshard.ir.placement import (
    Placed,
    Placement,
    Pointing,
    Rows,
    reach,
    same_segments,
)
from graphshard.private.symbolic_sizes import expression

aten = torch.ops.aten


def view(call: Call) -> Placement:
    """``view`` / ``reshape``: a sharded dim must survive as a dim of its own, at the same place in memory."""
    placed = call.tensor("self")
    sizes = call.get("size", call.get("shape"))
    for size in sizes:
        call.rows_of_size(size)
    return _reshaped(call, placed)


def _reshaped(call: Call, placed: Placed) -> Placed:
    old, new = call.shape("self"), _output_shape(call)
    dims: list[Rows | None] = [None] * len(new)
    for dim in placed.sharded:
        target = _same_place(old, dim, new)
        if target is None:
            call.refuse(
                f"merges or splits the rows {placed.dims[dim]} that are spread over the ranks",
                "keep nodes and edges in a dim of their own",
            )
        dims[target] = placed.dims[dim]
    points = placed.points
    if isinstance(points, tuple) and not (new and _equal(new[0], old[0])):
        points = single_pointing(call, points)
    return replace(placed, dims=tuple(dims), points=points, loops=frozenset(), complement=frozenset())


def expand(call: Call) -> Placement:
    """``expand``: new rows are copies of one row, so their order does not matter (uniform)."""
    placed = call.tensor("self")
    sizes = list(call["size"])
    ndim, added = len(sizes), len(sizes) - len(placed.dims)
    dims: list[Rows | None] = [None] * added + list(placed.dims)
    uniform = placed.uniform
    for dim, size in enumerate(sizes):
        rows, counted = call.rows_of_size(size)
        if dims[dim] is None and counted:
            dims[dim], uniform = rows, True
        elif counted and rows is not None:
            _check_expanded(call, dims[dim], rows)
    if sum(d is not None for d in dims) > 1:
        call.refuse("spreads two different row sets over two dims (an all-pairs tensor)")
    points = placed.points
    if isinstance(points, tuple) and added:
        points = single_pointing(call, points)
    assert len(dims) == ndim
    return replace(placed, dims=tuple(dims), uniform=uniform, points=points)


def expand_as(call: Call) -> Placement:
    """``expand_as``: the other tensor gives the rows of the dims that are new."""
    placed, other = call.tensor("self"), call.raw(call["other"])
    assert isinstance(other, Placed)
    other = other.resolved()
    added = len(other.dims) - len(placed.dims)
    dims: list[Rows | None] = [None] * added + list(placed.dims)
    uniform = placed.uniform
    for dim, rows in enumerate(other.dims):
        if dims[dim] is None and rows is not None:
            dims[dim], uniform = rows, True
        elif dims[dim] is not None:
            _check_expanded(call, dims[dim], rows)
    points = single_pointing(call, placed.points) if added else placed.points
    return replace(placed, dims=tuple(dims), uniform=uniform, points=points)


def _check_expanded(call: Call, rows: Rows | None, wanted: Rows | None) -> None:
    """Rows that are there already stay: a rank that holds one row must not copy it."""
    if rows is None or wanted is None or not same_segments(rows, wanted):
        call.refuse(f"expands the rows {rows} to the rows {wanted}")


def repeat(call: Call) -> Placement:
    """``repeat``: a sharded dim may be repeated once only; new leading dims are copies."""
    placed = call.tensor("self")
    repeats = list(call["repeats"])
    added = len(repeats) - len(placed.dims)
    old_shape = call.shape("self")
    dims: list[Rows | None] = [None] * added + list(placed.dims)
    points = placed.points
    for dim, times in enumerate(repeats):
        rows, counted = call.rows_of_size(times)
        size = old_shape[dim - added] if dim >= added else 1
        if dims[dim] is not None and times != 1:
            call.refuse(f"repeats the rows {dims[dim]} that are spread over the ranks")
        if counted and not _equal(size, 1):
            call.refuse("repeats several rows once for each node or edge")
        if counted:
            dims[dim], placed = rows, replace(placed, uniform=True)
    if isinstance(points, tuple):
        points = single_pointing(call, points)
    return replace(placed, dims=tuple(dims), points=points)


def unsqueeze(call: Call) -> Placement:
    """A new dim of size 1."""
    placed = call.tensor("self")
    dim = call.dim("dim", len(placed.dims) + 1)
    points = placed.points
    if isinstance(points, tuple) and dim == 0:
        points = single_pointing(call, points)
    return replace(placed, dims=(*placed.dims[:dim], None, *placed.dims[dim:]), points=points)


def squeeze(call: Call) -> Placement:
    """Dims of size 1 go; a sharded dim never does, however few rows a rank has."""
    placed = call.tensor("self")
    shape = call.shape("self")
    wanted = call.get("dim")
    chosen = (
        range(len(shape)) if wanted is None else wanted if isinstance(wanted, (list, tuple)) else [wanted]
    )
    gone = {d % len(shape) for d in chosen if _equal(shape[d % len(shape)], 1)} if shape else set()
    if wanted is None and placed.sharded:
        call.refuse(
            "without a dim would drop the rows of a rank that holds one node",
            "name the dim to squeeze",
        )
    if any(placed.dims[d % len(shape)] is not None for d in chosen if shape):
        call.refuse(
            "squeezes rows, which would drop them on a rank that holds one", "leave the rows' dim alone"
        )
    points = placed.points
    if isinstance(points, tuple) and 0 in gone:
        points = points[0]
    return replace(placed, dims=tuple(r for i, r in enumerate(placed.dims) if i not in gone), points=points)


def permute(call: Call) -> Placement:
    """Dims in another order."""
    placed = call.tensor("self")
    order = [d % len(placed.dims) for d in call["dims"]]
    return _reordered(call, placed, order)


def transpose(call: Call) -> Placement:
    """Two dims swapped; ``t`` swaps the two there are."""
    placed = call.tensor("self")
    order = list(range(len(placed.dims)))
    if len(order) > 1:
        a = call.dim("dim0", len(order)) if "dim0" in call.args else 0
        b = call.dim("dim1", len(order)) if "dim1" in call.args else 1
        order[a], order[b] = order[b], order[a]
    return _reordered(call, placed, order)


def _reordered(call: Call, placed: Placed, order: list[int]) -> Placed:
    points = placed.points
    if isinstance(points, tuple) and order and order[0] != 0:
        points = single_pointing(call, points)
    return replace(placed, dims=tuple(placed.dims[d] for d in order), points=points)


def single_pointing(call: Call, points: Pointing) -> Pointing:
    """What the whole tensor points into, once its dim 0 is no longer the rows of an ``edge_index``."""
    if not isinstance(points, tuple):
        return points
    found = reach(points)
    if found is None and any(p is not None for p in points):
        call.refuse("mixes numbers of different nodes, or node numbers with other numbers, in one dim")
    return found


def _output_shape(call: Call) -> tuple[Any, ...]:
    value = call.node.meta["val"]
    assert isinstance(value, torch.Tensor)
    return tuple(value.shape)


def _expr(size: Any) -> Any:
    return expression(size)


def _equal(a: Any, b: Any) -> bool:
    return bool(_expr(a) == _expr(b))


def _product(sizes: tuple[Any, ...]) -> Any:
    total: Any = 1
    for size in sizes:
        total = total * _expr(size)
    return total


def _same_place(old: tuple[Any, ...], dim: int, new: tuple[Any, ...]) -> int | None:
    """The dim of ``new`` that steps through memory as ``dim`` of ``old`` does; None if there is none."""
    before = _product(old[:dim])
    for candidate, size in enumerate(new):
        if _expr(size) == _expr(old[dim]) and _product(new[:candidate]) == before:
            return candidate
    return None


OPS: Ops = {
    aten.view.default: view,
    aten.reshape.default: view,
    aten._unsafe_view.default: view,
    aten.view_copy.default: view,
    aten.flatten.using_ints: lambda call: _reshaped(call, call.tensor("self")),
    aten.expand.default: expand,
    aten.expand_as.default: expand_as,
    aten.repeat.default: repeat,
    aten.unsqueeze.default: unsqueeze,
    aten.squeeze.default: squeeze,
    aten.squeeze.dim: squeeze,
    aten.squeeze.dims: squeeze,
    aten.permute.default: permute,
    aten.transpose.int: transpose,
    aten.t.default: transpose,
    aten.numpy_T.default: transpose,
}
