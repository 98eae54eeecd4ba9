"""Ops that rename, reorder, split or join dims without computing anything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import fx

from graphshard.passes.rules.call import Call, Rule, same_rows
from graphshard.placement import (
    Placed,
    Placement,
    Pointing,
    Points,
    Rows,
    Size,
    join,
    reach,
    same_segments,
    widest,
)


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
        points = reach(points) if not _mixed(points) else _refuse_mixed(call)
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
        points = _single_pointing(call, points)
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
    points = _single_pointing(call, placed.points) if added else placed.points
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
        points = _single_pointing(call, points)
    return replace(placed, dims=tuple(dims), points=points)


def unsqueeze(call: Call) -> Placement:
    """A new dim of size 1."""
    placed = call.tensor("self")
    dim = call.dim("dim", len(placed.dims) + 1)
    points = placed.points
    if isinstance(points, tuple) and dim == 0:
        points = _single_pointing(call, points)
    return replace(placed, dims=(*placed.dims[:dim], None, *placed.dims[dim:]), points=points)


def squeeze(call: Call) -> Placement:
    """Dims of size 1 go; a sharded dim never does, however few rows a rank has."""
    placed = call.tensor("self")
    shape = call.shape("self")
    wanted = call.get("dim")
    chosen = range(len(shape)) if wanted is None else wanted if isinstance(wanted, (list, tuple)) else [wanted]
    gone = {d % len(shape) for d in chosen if _equal(shape[d % len(shape)], 1)} if shape else set()
    if wanted is None and placed.sharded:
        call.refuse(
            "without a dim would drop the rows of a rank that holds one node",
            "name the dim to squeeze",
        )
    if any(placed.dims[d % len(shape)] is not None for d in chosen if shape):
        call.refuse("squeezes rows, which would drop them on a rank that holds one", "leave the rows' dim alone")
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
            placed = [call.values(t) if p.points is not None else p for t, p in zip(nodes, placed, strict=True)]
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
    if "unbind" not in str(call.node.target):
        if isinstance(placed.points, tuple) and dim == 0:
            placed = replace(placed, points=_single_pointing(call, placed.points))
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
    source = call.raw(call["arg0"])
    if not isinstance(source, tuple):
        call.refuse("picks an item of a value that is not a tuple")
    item: Placement = source[call["arg1"]]
    return item


def _reordered(call: Call, placed: Placed, order: list[int]) -> Placed:
    points = placed.points
    if isinstance(points, tuple) and order and order[0] != 0:
        points = _single_pointing(call, points)
    return replace(placed, dims=tuple(placed.dims[d] for d in order), points=points)


def _single_pointing(call: Call, points: Pointing) -> Pointing:
    if not isinstance(points, tuple):
        return points
    return _refuse_mixed(call) if _mixed(points) else reach(points)


def _mixed(points: tuple[Points | None, ...]) -> bool:
    return None in points and any(p is not None for p in points)


def _refuse_mixed(call: Call) -> Pointing:
    call.refuse("mixes node numbers with other numbers in one dim")


def _joined_pointing(parts: list[Pointing], sizes: list[Any]) -> Pointing:
    rows: list[Points | None] = []
    for part, size in zip(parts, sizes, strict=True):
        rows.extend(part if isinstance(part, tuple) else (part,) * int(size))
    return tuple(rows)


def _output_shape(call: Call) -> tuple[Any, ...]:
    value = call.node.meta["val"]
    assert isinstance(value, torch.Tensor)
    return tuple(value.shape)


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


def _expr(size: Any) -> Any:
    return size.node.expr if isinstance(size, torch.SymInt) else size


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


RULES: dict[str, Rule] = {
    "aten.view.default": view,
    "aten.reshape.default": view,
    "aten._unsafe_view.default": view,
    "aten.view_copy.default": view,
    "aten.flatten.using_ints": lambda call: _reshaped(call, call.tensor("self")),
    "aten.expand.default": expand,
    "aten.expand_as.default": expand_as,
    "aten.repeat.default": repeat,
    "aten.unsqueeze.default": unsqueeze,
    "aten.squeeze.default": squeeze,
    "aten.squeeze.dim": squeeze,
    "aten.squeeze.dims": squeeze,
    "aten.permute.default": permute,
    "aten.transpose.int": transpose,
    "aten.t.default": transpose,
    "aten.numpy_T.default": transpose,
    "aten.select.int": select,
    "aten.slice.Tensor": slice_,
    "aten.cat.default": cat,
    "aten.concat.default": cat,
    "aten.stack.default": stack,
    "aten.split.Tensor": split,
    "aten.split_with_sizes.default": split,
    "aten.chunk.default": split,
    "aten.unbind.int": split,
    "aten.flip.default": flip,
    "_operator.getitem": getitem,
}
