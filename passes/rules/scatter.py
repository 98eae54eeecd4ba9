"""Writing rows by index: by destination everything is local, by source the copies of a node are combined."""

from __future__ import annotations

from torch import fx

from graphshard.passes.rules.call import Call, Rewrite, Rule, check_same_nodes, same_rows
from graphshard.passes.rules.pointwise import is_one
from graphshard.placement import Halo, Kept, Owned, Placed, Placement, reach


def scatter(call: Call) -> Placement:
    """``scatter_add`` / ``scatter_reduce`` / ``scatter``: the index has the shape of what is written."""
    source = call.get("src", call.get("value"))
    reduce = _reduce_of(call)
    index = call.tensor("index")
    dim = call.dim("dim", len(call.tensor("self").dims))
    written = call.values(source) if isinstance(source, fx.Node) else None
    if written is not None and written.dims:
        _check_rows(call, index, written, dim)
    return _write(call, dim, index, reduce, written)


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
    return _write(call, dim, index, str(reduce), source)


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
    points = reach(index.points)
    if points is not None and points.plan is not None and call.tensor("self").dims[dim] is not None:
        call.refuse(
            "writes node rows by source node, which may belong to another rank",
            "write by destination, or mask with src == dst first",
        )
    return _write(call, dim, index, "sum" if call["accumulate"] else "replace", values)


def _put_masked(call: Call, dim: int, mask: Placed, values: Placed) -> Placement:
    placed = call.values("self")
    if placed.dims[dim] is None and not mask.sharded:
        if values.sharded or placed.sharded:
            call.refuse("writes through a mask that every rank holds whole, with sharded rows in other dims")
        return placed
    rows = same_rows(call, [placed, mask], [dim, 0])
    if rows is None or placed.dims[dim] is None or len(mask.dims) != 1:
        call.refuse("masks rows with a mask over other rows")
    _check_masked_values(call, dim, values, Kept(rows, call["indices"][dim].name))
    return Placed(tuple(rows if d == dim else r for d, r in enumerate(placed.dims)))


def _check_masked_values(call: Call, dim: int, values: Placed, kept: Kept) -> None:
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


def _write(call: Call, dim: int, index: Placed, reduce: str, written: Placed | None) -> Placement:
    """Where the rows of ``index`` lead: the placement of the result."""
    base = call.values("self")
    rows, points = base.dims[dim], reach(index.points)
    if rows is None:
        return _write_replicated(call, base, index, written)
    if not isinstance(rows, (Owned, Halo)):
        call.refuse(f"writes into the rows {rows} by number, which is not the same on the ranks")
    if points is None:
        call.refuse(
            "writes node rows by an index whose numbers are not node numbers of this graph",
            "index with edge_index",
        )
    check_same_nodes(call, rows, points)
    if isinstance(rows, Halo):
        return Placed(base.dims, mirror=_supported(call, reduce))
    if points.plan is not None:
        if dim != 0:
            call.refuse("scatters by source node along a dim other than 0", "put the nodes in dim 0")
        _supported(call, reduce)
        if call.get("include_self") is False:
            call.refuse(
                "scatters by source node with include_self=False; which nodes get nothing is known to no rank",
                "scatter into zeros with include_self=True",
            )
        call.edits.append(Rewrite(call.node, "scatter_by_source"))
    return Placed(base.dims)


def _write_replicated(call: Call, base: Placed, index: Placed, written: Placed | None) -> Placement:
    if index.points is not None:
        call.refuse(
            "writes by node number into a tensor that every rank holds whole",
            "size it with num_nodes, such as x.new_zeros(x.size(0), ...)",
        )
    if index.sharded or (written is not None and written.sharded):
        call.refuse("reduces node or edge rows into groups (a pooling by graph), which is not supported yet")
    return Placed(base.dims)


def _supported(call: Call, reduce: str) -> str:
    if reduce != "sum":
        call.refuse(
            f"scatters by source node with reduce='{reduce}'; across ranks only 'sum' is supported so far",
            "aggregate with 'sum' or 'mean' written as a sum and a count, or aggregate by destination",
        )
    return reduce


def _check_rows(call: Call, index: Placed, written: Placed, dim: int) -> None:
    """The index and what is written must run over the same rows in every dim: then none is left out.

    (PyTorch lets the index be smaller than the source, which over sharded rows would pick other ones.)
    """
    for d in range(len(index.dims)):
        rows = same_rows(call, [index, written], [d, d])
        if rows is not None and (index.dims[d] is None or written.dims[d] is None):
            call.refuse(f"writes rows {rows} and rows that every rank holds whole together")
        if rows is not None and d != dim and call.tensor("self").dims[d] != rows:
            call.refuse(f"spreads the rows {rows} over a dim that is not scattered")


def _reduce_of(call: Call) -> str:
    name = str(call.node.target)
    if "scatter_add" in name:
        return "sum"
    return str(call.get("reduce") or "replace")


RULES: dict[str, Rule] = {
    "aten.scatter_add.default": scatter,
    "aten.scatter_reduce.two": scatter,
    "aten.scatter.src": scatter,
    "aten.scatter.value": scatter,
    "aten.index_add.default": index_add,
    "aten.index_reduce.default": index_add,
    "aten.index_put.default": index_put,
}
