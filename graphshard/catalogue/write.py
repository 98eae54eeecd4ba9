"""Writing into a part of each row, or through several indices: what stays within the rows that a rank holds.

Writing whole rows by index or by mask is in ``scatter.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from graphshard.catalogue import scatter
from graphshard.catalogue.call import Call, same_rows
from graphshard.catalogue.gather import indexed_dims
from graphshard.catalogue.pointwise import broadcast_rows
from graphshard.catalogue.record import Ops
from graphshard.ir.placement import Owned, Placed, Placement, Points, Rows

aten = torch.ops.aten


def copy(call: Call) -> Placement:
    """``t.copy_(src)``: the shape of t, the values of src."""
    base, source = call.values("self"), call.values("src")
    operands = [(base, call.shape("self")), (source, call.shape("src"))]
    return Placed(broadcast_rows(call, operands, len(base.dims)))


def fill(call: Call) -> Placement:
    """``t.fill_(value)``, ``t.zero_()``."""
    base = call.values("self")
    if isinstance(call.get("value"), fx.Node) and call.tensor("value").sharded:
        call.refuse("fills with a value that is spread over the ranks")
    return Placed(base.dims, uniform=bool(base.sharded))


def select_scatter(call: Call) -> Placement:
    """One index of a whole dim, replaced: ``x[:, 0] = y``."""
    base, source = call.values("self"), call.values("src")
    dim = call.dim("dim", len(base.dims))
    written = Placed((*source.dims[:dim], None, *source.dims[dim:]), uniform=source.uniform)
    return _same(call, base, written, dim)


def slice_scatter(call: Call) -> Placement:
    """A slice of a whole dim, replaced: ``x[:, :3] = y``."""
    base, source = call.values("self"), call.values("src")
    dim = call.dim("dim", len(base.dims))
    if base.dims[dim] is not None:
        whole = call["start"] in (None, 0) and call["end"] in (None, 2**63 - 1) and call["step"] == 1
        if not whole:
            call.refuse(
                f"writes a slice of the rows {base.dims[dim]}, whose order is not the same on the ranks"
            )
        return _same(call, base, source, None)
    for bound in (call["start"], call["end"]):
        if isinstance(bound, fx.Node) and call.rows_of_size(bound)[1]:
            call.refuse("cuts at a count of rows, which is another number on each rank")
    return _same(call, base, source, dim)


def _same(call: Call, base: Placed, written: Placed, but: int | None) -> Placement:
    """Both tensors over the same rows in every dim but one, which is whole."""
    dims: list[Rows | None] = []
    for dim in range(len(base.dims)):
        rows = same_rows(call, [base, written], [dim, dim])
        if rows is not None and (dim == but or base.dims[dim] is None or written.dims[dim] is None):
            call.refuse(f"writes between the rows {rows} and a tensor that every rank holds whole")
        dims.append(rows)
    return Placed(tuple(dims))


def index_fill(call: Call) -> Placement:
    """``index_fill`` and ``index_copy`` along a whole dim, or of owned rows by their own numbers."""
    base, index = call.values("self"), call.tensor("index")
    dim = call.dim("dim", len(base.dims))
    rows = base.dims[dim]
    if isinstance(rows, Owned) and index.points == Points(rows.nodes) and "source" in call.args:
        # A node's row is on this rank, and so is the row to write.
        source = call.values("source")
        if same_rows(call, [index, source], [0, dim]) is None or None in (index.dims[0], source.dims[dim]):
            call.refuse("writes node rows from rows that every rank holds whole")
        return Placed(base.dims)
    if base.dims[dim] is not None or index.sharded or index.points is not None:
        call.refuse("writes rows by number", "use torch.where with a mask, or x[mask] = value")
    if isinstance(call.get("value"), fx.Node) and call.tensor("value").sharded:
        call.refuse("fills with a value that is spread over the ranks")
    if "source" not in call.args:
        return Placed(base.dims)
    return _same(call, base, call.values("source"), dim)


def index_put(call: Call) -> Placement:
    """``x[rows, columns] = v``, ``x[:, columns] = v`` and ``x[condition] = 1``; whole rows are scatter's."""
    used = [(d, i) for d, i in enumerate(call["indices"]) if i is not None]
    base = call.tensor("self")
    bools = [i for _, i in used if _is_bool(i)]
    if bools and len(used) == 1 and len(call.shape(bools[0])) > 1:
        return _put_elements(call, bools[0])
    one_row_dim = len(used) == 1 and (base.dims[used[0][0]] is not None or not base.sharded)
    if bools or one_row_dim or not base.sharded:
        return scatter.index_put(call)
    base, values = call.values("self"), call.values("values")
    found = indexed_dims(call, base, used, writing=True)
    shape = _indexed_shape(call, used)
    target = Placed(found)
    broadcast_rows(call, [(target, shape), (values, call.shape("values"))], len(found))
    return Placed(base.dims)


def _put_elements(call: Call, mask: fx.Node) -> Placement:
    """A value for every element that a condition over the leading dims picks."""
    base, by = call.values("self"), call.tensor(mask)
    dims = [same_rows(call, [base, by], [d, d]) for d in range(len(by.dims))]
    if any(rows is not None and None in (base.dims[d], by.dims[d]) for d, rows in enumerate(dims)):
        call.refuse("picks elements with a condition over other rows")
    values = call.values("values")
    if base.sharded and (values.sharded or any(size != 1 for size in call.shape("values"))):
        call.refuse("writes another value to each element that a condition picks", "use torch.where")
    return Placed((*dims, *base.dims[len(dims) :]))


def scatter_(call: Call) -> Placement:
    """A scatter within each row: along a whole dim, by an index over the same rows."""
    base, index = call.tensor("self"), call.tensor("index")
    dim = call.dim("dim", len(base.dims))
    if (
        not base.sharded
        or base.dims[dim] is not None
        or index.points is not None
        or index.dims[dim] is not None
    ):
        return scatter.scatter(call)
    base = call.values("self")
    source = call.get("src", call.get("value"))
    operands = [base, index]
    if isinstance(source, fx.Node) and len(call.shape(source)):
        operands.append(call.values(source))
    elif isinstance(source, fx.Node):
        call.tensor(source)
    dims = []
    for d in range(len(base.dims)):
        rows = same_rows(call, operands, [d] * len(operands))
        if rows is not None and any(p.dims[d] is None for p in operands):
            call.refuse(f"writes between the rows {rows} and a tensor that every rank holds whole")
        dims.append(rows)
    return Placed(tuple(dims))


def _indexed_shape(call: Call, used: list[tuple[int, Any]]) -> tuple[Any, ...]:
    """The shape of ``self[indices]``."""
    shape = call.shape("self")
    dims = [d for d, _ in used]
    block = list(torch.broadcast_shapes(*(call.shape(i) for _, i in used)))  # type: ignore[no-untyped-call]
    adjacent = dims == list(range(dims[0], dims[0] + len(dims)))
    rest = [s for d, s in enumerate(shape) if d not in dims]
    at = dims[0] if adjacent else 0
    return (*rest[:at], *block, *rest[at:])


def _is_bool(node: Any) -> bool:
    return node.meta["val"].dtype in (torch.bool, torch.uint8)


OPS: Ops = {
    aten.copy.default: copy,
    aten.fill.Scalar: fill,
    aten.fill.Tensor: fill,
    aten.zero.default: fill,
    aten.select_scatter.default: select_scatter,
    aten.slice_scatter.default: slice_scatter,
    aten.index_fill.int_Scalar: index_fill,
    aten.index_fill.int_Tensor: index_fill,
    aten.index_copy.default: index_fill,
    aten.index_put.default: index_put,
    aten.scatter.src: scatter_,
    aten.scatter.value: scatter_,
    aten.scatter_add.default: scatter_,
    aten.scatter_reduce.two: scatter_,
}
