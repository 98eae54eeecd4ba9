"""Reading rows by index or by mask: where a halo sync is needed, and where it is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import fx

from graphshard.catalogue.call import Call, check_same_nodes, same_rows
from graphshard.catalogue.edits import GlobalIds, HaloSync, NumberedRows
from graphshard.catalogue.known_masks import kept_rows
from graphshard.catalogue.pointwise import broadcast_rows
from graphshard.catalogue.record import Op, Ops, Trait
from graphshard.ir.placement import (
    Edges,
    Found,
    Halo,
    Kept,
    Owned,
    Placed,
    Placement,
    Points,
    Rows,
    reach,
)
from graphshard.ops import numbered

aten = torch.ops.aten


def index_select(call: Call) -> Placement:
    """``x.index_select(dim, index)``, also ``embedding`` in dim 0."""
    return _gather(call, call["self"], call.dim("dim", len(call.tensor("self").dims)), call["index"])


def embedding(call: Call) -> Placement:
    """``weight[indices]``: a table that every rank holds, read by features and not by node numbers."""
    if call["scale_grad_by_freq"]:
        call.refuse(
            "scales gradients by how often an index occurs on this rank, not in the whole graph",
            "set scale_grad_by_freq=False",
        )
    if call["sparse"]:
        call.refuse("makes sparse gradients, which are not summed over ranks", "set sparse=False")
    return _gather(call, call["weight"], 0, call["indices"])


def index(call: Call) -> Placement:
    """``x[mask]``, ``x[idx]``, ``ei[:, mask]``: one index tensor, the other dims whole."""
    indices = list(call["indices"])
    used = [(d, i) for d, i in enumerate(indices) if i is not None]
    if len(used) != 1:
        return _several(call, used)
    dim, chosen = used[0]
    if _is_bool(chosen):
        return _keep(call, dim, chosen)
    return _gather(call, call["self"], dim, chosen)


def _several(call: Call, used: list[tuple[int, Any]]) -> Placement:
    """``x[row, column]``: indices over the same rows, one number from each."""
    placed = call.tensor("self")
    if any(_is_bool(i) for _, i in used) or isinstance(placed.points, tuple):
        return _all_replicated(call, "indexes several dims at once")
    placed = call.values("self")
    dims = indexed_dims(call, placed, used)
    if sum(d is not None for d in dims) > 1:
        call.refuse("spreads two different row sets over two dims (an all-pairs tensor)")
    return Placed(dims)


def indexed_dims(
    call: Call, placed: Placed, used: list[tuple[int, Any]], *, writing: bool = False
) -> tuple[Rows | None, ...]:
    """The dims of ``self[indices]``; a dim over nodes asks for a sync where its index is a source."""
    operands = []
    for dim, chosen in used:
        by, rows = call.tensor(chosen), placed.dims[dim]
        points = reach(by.points)
        if rows is not None and not isinstance(rows, (Owned, Halo)):
            call.refuse(f"picks from the rows {rows} by number, which is not the same on the ranks")
        if rows is not None and points is None:
            call.refuse(
                "picks node rows by an index whose numbers are not node numbers of this graph",
                "index with edge_index or with arange(num_nodes)",
            )
        if rows is None and points is not None:
            call.refuse("picks from a tensor that every rank holds whole by local node numbers")
        if isinstance(rows, (Owned, Halo)) and points is not None:
            check_same_nodes(call, rows, points)
            if not points.fits(rows):
                if writing:
                    call.refuse("writes node rows by source node, which may belong to another rank")
                assert isinstance(points.rows, Halo)
                call.edits.append(HaloSync(call["self"], call.node, dim, points.rows))
        operands.append((Placed(by.dims, uniform=by.uniform), call.shape(chosen)))
    ndim = max(len(shape) for _, shape in operands)
    block = broadcast_rows(call, operands, ndim)
    dims = [d for d, _ in used]
    rest = [r for d, r in enumerate(placed.dims) if d not in dims]
    at = dims[0] if dims == list(range(dims[0], dims[0] + len(dims))) else 0
    return (*rest[:at], *block, *rest[at:])


def nonzero(call: Call) -> Placement:
    """``mask.nonzero()`` and ``torch.where(mask)``: the numbers of the rows that a mask over the nodes keeps."""
    placed = call.values("self" if "self" in call.args else "condition")
    value = call.node.meta["val"]
    several = not isinstance(value, torch.Tensor)
    if not placed.sharded:
        found = [Placed((None,) * v.dim()) for v in (value if several else [value])]
        return tuple(found) if several else found[0]
    rows = placed.dims[0]
    if len(placed.dims) != 1 or not isinstance(rows, (Owned, Halo)):
        call.refuse(
            f"numbers the rows {placed.dims} by their position, which is not the same on the ranks",
            "index with the mask itself",
        )
    if placed.uniform or not _is_bool_value(call):
        call.refuse("looks for rows that are not 0", "compare first: (x != 0).nonzero()")
    name = call["self"].name if "self" in call.args else call["condition"].name
    points = Points(rows.nodes, rows.plan if isinstance(rows, Halo) else None)
    kept = Kept(rows, name)
    if several:
        return (Placed((kept,), points=points),)
    return Placed((kept, None), points=points)


def masked_select(call: Call) -> Placement:
    """``x.masked_select(mask)`` over one dim is ``x[mask]``."""
    if len(call.shape("self")) != 1 or len(call.shape("mask")) != 1:
        return _all_replicated(call, "selects single elements")
    return _keep(call, 0, call["mask"])


def _is_bool_value(call: Call) -> bool:
    return _is_bool(call["self"] if "self" in call.args else call["condition"])


def gather(call: Call) -> Placement:
    """``x.gather(dim, index)``: row-wise in a feature dim; by node only with an index expanded over features."""
    placed, chosen = call.values("self"), call.tensor("index")
    dim = call.dim("dim", len(placed.dims))
    if placed.dims[dim] is None and chosen.points is None:
        others = [d for d in range(len(placed.dims)) if d != dim]
        dims = [
            same_rows(call, [placed, chosen], [d, d]) if d in others else chosen.dims[d]
            for d in range(len(placed.dims))
        ]
        for d in others:
            if dims[d] is not None and (placed.dims[d] is None or chosen.dims[d] is None):
                call.refuse(f"reads rows {dims[d]} from a tensor that every rank holds whole")
        return Placed(tuple(dims))
    return _gather(call, call["self"], dim, call["index"], along=True)


def _gather(call: Call, table: Any, dim: int, chosen: Any, *, along: bool = False) -> Placement:
    """Rows of ``table`` by number. ``along``: the index has the shape of the output (``torch.gather``)."""
    indexed, by = call.tensor(table), call.tensor(chosen)
    rows, points = indexed.dims[dim], reach(by.points)
    if numbered_whole(rows, by):
        return _numbered(call, table, indexed)
    if isinstance(rows, (Owned, Halo)):
        if points is None:
            call.refuse(
                "reads node rows by an index whose numbers are not node numbers of this graph",
                'index with edge_index, with a mask over the nodes, or with what has the role "index" or "replicated"',
            )
        check_same_nodes(call, rows, points)
        if indexed.points is not None:
            indexed = call.values(table)
        if not points.fits(rows):
            assert isinstance(points.rows, Halo)
            call.edits.append(HaloSync(table, call.node, dim, points.rows))
    elif rows is not None:
        call.refuse(
            f"reads the rows {rows} by number, which is not the same on the ranks",
            'give an index that numbers all edges or nodes the role "replicated"',
        )
    elif points is not None:
        call.refuse(
            "reads a table that every rank holds whole by local node numbers",
            "pass the table as a node tensor of the graph",
        )
    before, after = indexed.dims[:dim], indexed.dims[dim + 1 :]
    dims = by.dims if along else (*before, *by.dims, *after)
    if along and any(d is not None for i, d in enumerate(by.dims) if i != dim):
        call.refuse("gathers along one dim with rows spread over another")
    if sum(d is not None for d in dims) > 1:
        call.refuse("spreads two different row sets over two dims (an all-pairs tensor)")
    points_out = (
        indexed.points if dim != 0 or not isinstance(indexed.points, tuple) else _picked(call, indexed)
    )
    return Placed(tuple(dims), points=points_out)


def _numbered(call: Call, table: fx.Node, indexed: Placed) -> Placement:
    """What is read by numbers that every rank holds whole is there on every rank."""
    if indexed.points is not None:
        call.edits.append(GlobalIds(table, call.node))
    call.edits.append(NumberedRows(call.node))
    return Placed((None,) * len(call.shape(call.node)))


def numbered_whole(rows: Rows | None, index: Placed) -> bool:
    """Whether rows of one kind are read or written by numbers that every rank holds whole: those of one machine."""
    return isinstance(rows, (Owned, Edges)) and not index.sharded and index.points is None


def rows_of_ids(call: Call) -> Placement:
    """Where a rank has what each number numbers."""
    rows = call.tensor("ids").dims[0]
    call.check_whole("numbers")
    if isinstance(call["total"], fx.Node):
        call.number(call["total"])
    assert rows is not None
    return Found(rows)


def found_rows(call: Call, rows: Rows | None) -> None:
    """Check that ``where`` says where ``rows`` are."""
    found = call.raw(call["where"])
    if not isinstance(found, Found) or found.rows != rows:
        call.refuse(f"looks for rows of {rows} where {found} were found")


def rows_or_zeros(call: Call) -> Placement:
    """Each rank has the rows of some numbers, and zeros for the rest."""
    placed = call.values("x")
    found_rows(call, placed.dims[call["dim"]])
    return Placed((None,) * len(call.shape(call.node)), partial="sum")


def _picked(call: Call, indexed: Placed) -> Any:
    """Which rows of an ``edge_index`` an index over dim 0 picks: known only where all are alike."""
    known = set(indexed.points) if isinstance(indexed.points, tuple) else {indexed.points}
    if len(known) > 1:
        call.refuse("picks rows of an edge_index by a tensor", "use edge_index[0] and edge_index[1]")
    return known.pop()


def _keep(call: Call, dim: int, mask: fx.Node) -> Placement:
    """Rows that a boolean mask keeps."""
    placed, by = call.tensor("self"), call.tensor(mask)
    if len(by.dims) != 1:
        return _all_replicated(call, "indexes with a mask of several dims")
    if by.dims[0] is None:
        if placed.dims[dim] is not None:
            call.refuse("masks node or edge rows with a mask that every rank holds whole")
        if isinstance(placed.points, tuple) and dim == 0:
            call.refuse("masks the two rows of an edge_index")
        return placed
    rows = same_rows(call, [placed, by], [dim, 0])
    if placed.dims[dim] is None or rows is None:
        call.refuse(f"masks a tensor that every rank holds whole with a mask over {by.dims[0]}")
    dims = (*placed.dims[:dim], kept_rows(rows, mask), *placed.dims[dim + 1 :])
    return replace(placed.plain(), dims=dims, points=_pointing_of_kept(call, placed, by))


def _pointing_of_kept(call: Call, placed: Placed, mask: Placed) -> Any:
    """A source that the mask ``src == dst`` keeps is a destination, so it is owned."""
    name, row = call.key(call["self"])
    if isinstance(placed.points, tuple):
        return tuple(
            Points(p.nodes) if p is not None and (name, i) in mask.loops else p
            for i, p in enumerate(placed.points)
        )
    if placed.points is not None and (name, row) in mask.loops:
        return Points(placed.points.nodes)
    return placed.points


def _all_replicated(call: Call, what: str) -> Placement:
    """Anything goes between tensors that every rank holds whole."""
    for node in call.node.all_input_nodes:
        placed = call.tensor(node)
        if placed.sharded or placed.points is not None:
            call.refuse(f"{what} where rows are spread over the ranks", "index one dim at a time")
    value = call.node.meta["val"]
    return Placed((None,) * value.dim())


def _is_bool(node: Any) -> bool:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return isinstance(value, torch.Tensor) and value.dtype in (torch.bool, torch.uint8)


OPS: Ops = {
    aten.index_select.default: index_select,
    aten.embedding.default: embedding,
    aten.index.Tensor: index,
    aten.gather.default: gather,
    aten.nonzero.default: nonzero,
    aten.nonzero_numpy.default: nonzero,
    aten.where.default: nonzero,
    aten.masked_select.default: masked_select,
    numbered.rows_of_ids: Op(rows_of_ids, Trait.STOPS_GRADIENT, suffix="rows"),
    numbered.rows_or_zeros: rows_or_zeros,
    numbered.entries_or_zeros: rows_or_zeros,
}
