"""Writing rows by index: by destination everything is local, by source the copies of a node are combined.

Into groups that every rank holds whole (pooling by graph), the ranks' own results are combined.
"""

from __future__ import annotations

import torch
from torch import fx

from graphshard.catalogue.call import Call, check_same_nodes, same_rows
from graphshard.catalogue.create import is_filled
from graphshard.catalogue.edits import NumberedRows, ScatterBySource, ScatterOverRows
from graphshard.catalogue.gather import found_rows, numbered_whole
from graphshard.catalogue.known_masks import kept_rows
from graphshard.catalogue.pointwise import is_one
from graphshard.catalogue.record import Ops
from graphshard.catalogue.reduce import is_stacked
from graphshard.ir.calls import calls
from graphshard.ir.placement import Halo, Owned, Placed, Placement, Rows, reach
from graphshard.ops import local, numbered

aten = torch.ops.aten


def scatter(call: Call) -> Placement:
    """``scatter_add`` / ``scatter_reduce`` / ``scatter``: the index has the shape of what is written."""
    source = call.get("src", call.get("value"))
    reduce = reduce_of(call)
    index = call.tensor("index")
    dim = call.dim("dim", len(call.tensor("self").dims))
    written = call.values(source) if isinstance(source, fx.Node) else None
    if written is not None and written.dims:
        _check_rows(call, index, written, dim)
    return _write(call, dim, index, reduce, written, index.dims[dim] if index.dims else None)


def index_add(call: Call) -> Placement:
    """``index_add`` / ``index_reduce``: a 1-D index over the rows of the source."""
    reduce = call.get("reduce", "sum")
    index, source = call.tensor("index"), call.values("source")
    dim = call.dim("dim", len(call.tensor("self").dims))
    if isinstance(alpha := call.get("alpha"), fx.Node):
        call.number(alpha)
    rows = same_rows(call, [index, source], [0, dim])
    if rows is not None and (index.dims[0] is None or source.dims[dim] is None):
        call.refuse(f"writes rows {rows} and rows that every rank holds whole together")
    return _write(call, dim, index, str(reduce), source, index.dims[0] if index.dims else None)


def index_put(call: Call) -> Placement:
    """``x[idx] = v`` and ``x[mask] = v``."""
    used = [(d, i) for d, i in enumerate(call["indices"]) if i is not None]
    values = call.values("values")
    if len(used) != 1:
        if any(call.tensor(n).sharded for n in call.node.all_input_nodes):
            call.refuse("writes through several indices at once", "index one dim at a time")
        return call.values("self")
    dim, chosen = used[0]
    index = call.tensor(chosen)
    value = chosen.meta["val"]
    if value.dtype.is_floating_point is False and str(value.dtype) == "torch.bool":
        return _put_masked(call, dim, index, values)
    rows = index.dims[0] if index.dims else None
    if values.sharded and same_rows(call, [index, values], [0, values.sharded[0]]) != rows:
        call.refuse("writes rows that do not belong to the index")
    by_source = is_by_source(index)
    if not call["accumulate"] and by_source and call.tensor("self").dims[dim] is not None:
        call.refuse(
            "writes node rows by source node, which may belong to another rank",
            "write by destination, or mask with src == dst first",
        )
    return _write(call, dim, index, "sum" if call["accumulate"] else "replace", values, rows)


def _put_masked(call: Call, dim: int, mask: Placed, values: Placed) -> Placement:
    placed = call.values("self")
    if placed.dims[dim] is None and not mask.sharded:
        if values.sharded or placed.sharded:
            call.refuse("writes through a mask that every rank holds whole, with sharded rows in other dims")
        return placed
    rows = same_rows(call, [placed, mask], [dim, 0])
    if rows is None or placed.dims[dim] is None or len(mask.dims) != 1:
        call.refuse("masks rows with a mask over other rows")
    _check_masked_values(call, dim, values, kept_rows(rows, call["indices"][dim]))
    return Placed(tuple(rows if d == dim else r for d, r in enumerate(placed.dims)))


def _check_masked_values(call: Call, dim: int, values: Placed, kept: Rows) -> None:
    """One value for all kept rows, or one for each of them: ``h[mask] = f(h[mask])``."""
    shape = call.shape("values")
    at = dim - (len(call.shape("self")) - len(shape))
    given = values.dims[at] if at >= 0 else None
    if any(d is not None for i, d in enumerate(values.dims) if i != at) or given not in (None, kept):
        call.refuse(
            "writes rows through a mask that they do not belong to", "use torch.where over whole rows"
        )
    if given is None and at >= 0 and not is_one(shape[at]):
        call.refuse(
            "writes rows that every rank holds whole through a mask", "use torch.where over whole rows"
        )


def scatter_extreme(call: Call) -> Placement:
    """A maximum or minimum of what is written, without gradient: ``local_ops.scatter_extreme``."""
    base, index = call.tensor(call["base"]), call.tensor(call["index"])
    call.values(call["src"])
    dim, reduce = call["dim"], call["reduce"]
    rows = base.dims[dim]
    if rows is None:
        return Placed(base.dims, partial=reduce)
    if isinstance(rows, Halo):
        return Placed(base.dims, mirror=reduce)
    if is_by_source(index):
        call.edits.append(ScatterBySource(call.node))
    return Placed(base.dims)


def is_by_source(index: Placed) -> bool:
    """Whether some of the numbers are those of another rank's nodes."""
    points = reach(index.points)
    return points is not None and points.plan is not None


def _write(
    call: Call, dim: int, index: Placed, reduce: str, written: Placed | None, over: Rows | None
) -> Placement:
    """Where the rows of ``index`` lead: the placement of the result. ``over``: the rows that are written."""
    base = call.values("self")
    rows, points = base.dims[dim], reach(index.points)
    if rows is None:
        if over is not None:
            return _write_groups(call, base, index, reduce)
        return _write_replicated(call, base, index, written)
    if over is None and numbered_whole(rows, index) and (written is None or not written.sharded):
        _check_numbered(call, index, reduce)
        call.edits.append(NumberedRows(call.node))
        return Placed(base.dims)
    if not isinstance(rows, (Owned, Halo)):
        call.refuse(f"writes into the rows {rows} by number, which is not the same on the ranks")
    if points is None:
        call.refuse(
            "writes node rows by an index whose numbers are not node numbers of this graph",
            "index with edge_index",
        )
    check_same_nodes(call, rows, points)
    if isinstance(rows, Halo):
        return Placed(base.dims, mirror=reduce)
    if points.plan is not None:
        return _write_by_source(call, base, dim, reduce)
    return Placed(base.dims)


def _check_numbered(call: Call, index: Placed, reduce: str) -> None:
    if reduce == "prod":
        call.refuse("multiplies what is written into rows by numbers that every rank holds whole")
    if "indices" in call.args and len(index.dims) != 1:
        call.refuse("writes rows by an index of several dims", "flatten the index and what is written")


def write_entries(call: Call) -> Placement:
    """Every rank writes what leads to its own rows; what is written is there on all of them."""
    base = call.values("base")
    found_rows(call, base.dims[call["dim"]])
    call.check_whole("source")
    return Placed(base.dims)


def _write_by_source(call: Call, base: Placed, dim: int, reduce: str) -> Placement:
    if dim != 0:
        call.refuse("scatters by source node along a dim other than 0", "put the nodes in dim 0")
    include_self = call.get("include_self") is not False
    if include_self and (reduce == "sum" or (reduce == "prod" and is_filled(call["self"], 1))):
        call.edits.append(ScatterBySource(call.node))
    elif reduce in REDUCES or is_constant(call):
        call.edits.append(ScatterOverRows(call.node))
    else:
        call.refuse(
            "writes over each other's rows by source node, where the last to come wins",
            "reduce them: scatter_add, or scatter_reduce",
        )
    return Placed(base.dims)


def _write_groups(call: Call, base: Placed, index: Placed, reduce: str) -> Placement:
    """Node or edge rows reduced into groups that every rank holds whole."""
    if index.points is not None:
        call.refuse(
            "writes by node number into a tensor that every rank holds whole",
            "size it with num_nodes, such as x.new_zeros(x.size(0), ...)",
        )
    if base.sharded:
        call.refuse("reduces rows into groups of other rows")
    if reduce == "sum" and call.get("include_self") is not False and is_filled(call["self"], 0):
        return Placed(base.dims, partial="sum")
    if reduce == "prod" and is_stacked(call.node):
        return Placed(base.dims, partial="stack")
    if reduce not in REDUCES and not is_constant(call):
        call.refuse(
            "writes rows into groups, where the last of them to come wins",
            "reduce them: scatter_add, or scatter_reduce",
        )
    call.edits.append(ScatterOverRows(call.node))
    return Placed(base.dims)


def _write_replicated(call: Call, base: Placed, index: Placed, written: Placed | None) -> Placement:
    """Rows that every rank holds whole; other dims may be spread over the ranks, alike in all operands."""
    if index.points is not None:
        call.refuse("writes by node number what every rank holds whole")
    others = [p for p in (index, written) if p is not None and p.sharded]
    if any(len(p.dims) != len(base.dims) for p in others):
        call.refuse("writes what is spread over the ranks into a tensor of other dims")
    dims = tuple(same_rows(call, [base, *others], [d] * (1 + len(others))) for d in range(len(base.dims)))
    if any(p.dims[d] is None for p in (base, *others) for d, rows in enumerate(dims) if rows is not None):
        call.refuse("writes what is spread over the ranks into a tensor that is not, or the other way round")
    return Placed(dims)


def is_constant(call: Call) -> bool:
    """Whether the same number is written wherever an index leads: then their order does not matter."""
    return call.node.target == aten.scatter.value and not isinstance(call["value"], fx.Node)


def _check_rows(call: Call, index: Placed, written: Placed, dim: int) -> None:
    """The index and what is written must run over the same rows in every dim: then none is left out.

    (PyTorch lets the index be smaller than the source, which over sharded rows would pick other ones.)
    """
    for d in range(len(index.dims)):
        rows = same_rows(call, [index, written], [d, d])
        if rows is not None and (index.dims[d] is None or written.dims[d] is None):
            call.refuse(f"writes rows {rows} and rows that every rank holds whole together")
        base = call.tensor("self").dims
        if rows is not None and d != dim and base[dim] is not None and base[d] != rows:
            call.refuse(f"spreads the rows {rows} over a dim that is not scattered")


def reduce_of(call: Call) -> str:
    """PyTorch's name of the reduction; "replace" where values are written over each other."""
    if calls(call.node, aten.scatter_add, aten.index_add):
        return "sum"
    return str(call.get("reduce") or "replace")


REDUCES = ("sum", "mean", "amax", "amin", "prod")
"""PyTorch's own names of the reductions of ``scatter_reduce`` and ``index_reduce``."""

OPS: Ops = {
    local.scatter_extreme: scatter_extreme,
    numbered.write_entries: write_entries,
    aten.index_add.default: index_add,
    aten.index_reduce.default: index_add,
}
