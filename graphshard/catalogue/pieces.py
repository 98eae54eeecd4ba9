"""Ops that cut a tensor into pieces, and ops that join pieces: ``select``, ``slice``, ``split``, ``cat``, ``stack``."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from graphshard.catalogue.call import Call, same_rows
from graphshard.catalogue.record import Ops
from graphshard.catalogue.shape import single_pointing
from graphshard.ir.calls import calls
from graphshard.ir.placement import Placed, Placement, Pointing, Points, Rows, Size, join, widest

aten = torch.ops.aten


def select(call: Call) -> Placement:
    """One index of a dim that every rank holds whole; row i of an ``edge_index`` keeps what it numbers."""
    placed = call.tensor("self")
    dim = call.dim("dim", len(placed.dims))
    if placed.dims[dim] is not None:
        call.refuse(
            f"picks one of the rows {placed.dims[dim]}, which lives on one rank only",
            "use a boolean mask over the nodes",
        )
    points = placed.points
    if isinstance(points, tuple) and dim == 0:
        points = points[int(call["index"])]
    return replace(placed, dims=placed.dims[:dim] + placed.dims[dim + 1 :], points=points)


def slice_(call: Call) -> Placement:
    """A slice of a dim that every rank holds whole, or all of a sharded one."""
    placed = call.tensor("self")
    dim = call.dim("dim", len(placed.dims))
    start, end, step = call["start"], call["end"], call["step"]
    whole = start in (None, 0) and step == 1 and (end is None or _is_whole(call, end, placed.dims[dim]))
    for bound in (start, end):
        if isinstance(bound, fx.Node) and call.rows_of_size(bound)[1] and not whole:
            call.refuse("cuts at a count of rows, which is another number on each rank")
    if placed.dims[dim] is None:
        points = placed.points
        if isinstance(points, tuple) and dim == 0:
            points = points[slice(start, end, step)]
        return replace(placed, points=points)
    if not whole:
        call.refuse(
            f"slices the rows {placed.dims[dim]}, whose order is not the same on the ranks",
            "use a boolean mask over the nodes or edges",
        )
    return placed


def cat(call: Call) -> Placement:
    """Rows joined end to end, or features side by side."""
    nodes = [t for t in call["tensors"] if not _is_empty(call.shape(t))]
    placed = [call.tensor(t) for t in nodes]
    dim = call.dim("dim", len(placed[0].dims))
    points = widest(*(p.points for p in placed))
    if points is None:
        placed = [call.values(t) if p.points is not None else p for t, p in zip(nodes, placed, strict=True)]
    elif dim != 0:
        _check_rows_joined(call, points, placed)
    ndim = len(placed[0].dims)
    dims: list[Rows | None] = [
        same_rows(call, placed, [d] * len(placed)) if d != dim else None for d in range(ndim)
    ]
    for d, rows in enumerate(dims):
        if rows is not None and any(p.dims[d] is None for p in placed):
            call.refuse(f"puts the rows {rows} beside a tensor that every rank holds whole")
    joined = [rows for rows in (p.dims[dim] for p in placed) if rows is not None]
    if joined:
        if len(joined) != len(placed):
            call.refuse(f"joins the rows {joined[0]} to rows that every rank holds whole")
        dims[dim] = join(joined)
    elif isinstance(points, tuple) and dim == 0:
        points = _joined_pointing([p.points for p in placed], [call.shape(n)[0] for n in nodes])
    return Placed(tuple(dims), points=points)


def stack(call: Call) -> Placement:
    """Tensors over the same rows, in a new dim; ``stack([row, col])`` makes an ``edge_index``."""
    nodes = list(call["tensors"])
    placed = [call.tensor(t) for t in nodes]
    ndim = len(placed[0].dims)
    dim = call.dim("dim", ndim + 1)
    points: Pointing = None
    if any(p.points is not None for p in placed):
        single = [p.points for p in placed]
        if dim == 0 and not any(isinstance(p, tuple) for p in single):
            points = tuple(p if isinstance(p, Points) else None for p in single)
        else:
            placed = [
                call.values(t) if p.points is not None else p for t, p in zip(nodes, placed, strict=True)
            ]
    rows = [same_rows(call, placed, [d] * len(placed)) for d in range(ndim)]
    for d, found in enumerate(rows):
        if found is not None and any(p.dims[d] is None for p in placed):
            call.refuse(f"puts the rows {found} beside a tensor that every rank holds whole")
    return Placed((*rows[:dim], None, *rows[dim:]), points=points)


def split(call: Call) -> Placement:
    """Pieces of a dim that every rank holds whole (``split``, ``chunk``, ``unbind``)."""
    placed = call.tensor("self")
    dim = call.dim("dim", len(placed.dims))
    if placed.dims[dim] is not None:
        call.refuse(f"cuts the rows {placed.dims[dim]}, whose order is not the same on the ranks")
    pieces = call.node.meta["val"]
    if not calls(call.node, aten.unbind):
        if isinstance(placed.points, tuple) and dim == 0:
            placed = replace(placed, points=single_pointing(call, placed.points))
        return tuple(placed for _ in pieces)
    dims = placed.dims[:dim] + placed.dims[dim + 1 :]
    points = placed.points
    if isinstance(points, tuple) and dim == 0:
        return tuple(replace(placed, dims=dims, points=p) for p in points)
    return tuple(replace(placed, dims=dims) for _ in pieces)


def flip(call: Call) -> Placement:
    """``ei.flip(0)`` swaps source and destination."""
    placed = call.tensor("self")
    flipped = {d % len(placed.dims) for d in call["dims"]}
    if any(placed.dims[d] is not None for d in flipped):
        call.refuse("reverses rows that are spread over the ranks")
    points = placed.points
    if isinstance(points, tuple) and 0 in flipped:
        points = points[::-1]
    return replace(placed, points=points)


def getitem(call: Call) -> Placement:
    """``t[i]`` of a tuple that an op returned."""
    source = call.raw(call["a"])
    if not isinstance(source, tuple):
        call.refuse("picks an item of a value that is not a tuple")
    item: Placement = source[call["b"]]
    return item


def _joined_pointing(parts: list[Pointing], sizes: list[Any]) -> Pointing:
    rows: list[Points | None] = []
    for part, size in zip(parts, sizes, strict=True):
        rows.extend(part if isinstance(part, tuple) else (part,) * int(size))
    return tuple(rows)


def _check_rows_joined(call: Call, points: Pointing, placed: list[Placed]) -> None:
    """Every row of several ``edge_index`` joined end to end must number nodes of one plan, or none at all."""
    for row, found in enumerate(points if isinstance(points, tuple) else ()):
        parts = [p.points[row] if isinstance(p.points, tuple) else p.points for p in placed]
        if found is None and any(p is not None for p in parts):
            known = " and ".join(dict.fromkeys(str(p) if p else "plain numbers" for p in parts))
            call.refuse(
                f"joins node numbers that do not belong together in row {row}: {known}",
                "join edges with edges and pairs with pairs, or index with each by itself",
            )


def _is_whole(call: Call, end: Any, rows: Rows | None) -> bool:
    if isinstance(end, int):
        return end >= 2**31 - 1
    if not isinstance(end, fx.Node):
        return False
    placement = call.raw(end)
    return isinstance(placement, Size) and len(placement.rows) == 1 and placement.rows[0] == rows


def _is_empty(shape: tuple[Any, ...]) -> bool:
    """Whether this is the shape ``[0]``, which torch.cat takes for no tensor at all."""
    return len(shape) == 1 and isinstance(shape[0], int) and shape[0] == 0


OPS: Ops = {
    aten.select.int: select,
    aten.slice.Tensor: slice_,
    aten.cat.default: cat,
    aten.concat.default: cat,
    aten.stack.default: stack,
    aten.split.Tensor: split,
    aten.split_with_sizes.default: split,
    aten.chunk.default: split,
    aten.unbind.int: split,
    aten.flip.default: flip,
    operator.getitem: getitem,
}
