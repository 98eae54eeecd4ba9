"""Ops that make a tensor from sizes, and arithmetic on sizes."""

from __future__ import annotations

import operator

import torch
from torch import fx

from graphshard.catalogue.call import Call
from graphshard.catalogue.record import Op, Ops, Trait, over
from graphshard.ir.placement import Owned, Placed, Placement, Points, Rows, Size, replicated

aten = torch.ops.aten


def filled(call: Call) -> Placement:
    """``zeros``, ``ones``, ``full`` and their ``new_`` forms: rows come from the size, never from self."""
    dims: list[Rows | None] = []
    for size in call["size"]:
        rows, _ = call.rows_of_size(size)
        dims.append(rows)
    if sum(d is not None for d in dims) > 1:
        call.refuse(
            "makes a tensor over two row sets (a dense matrix of nodes by nodes)",
            "write the aggregation over an edge_index or a torch.sparse adjacency",
        )
    if isinstance(call.get("self"), fx.Node):
        call.raw(call["self"])
    if isinstance(fill := call.get("fill_value"), fx.Node):
        call.number(fill)
    return Placed(tuple(dims), uniform=any(d is not None for d in dims))


def eye(call: Call) -> Placement:
    """``eye(3)``: whole on every rank, so of a fixed size."""
    for size in (call["n"], call.get("m")):
        if size is not None and call.rows_of_size(size)[1]:
            call.refuse("makes a dense matrix of nodes by nodes", "add self loops to the edge_index instead")
    return replicated(2)


def filled_like(call: Call) -> Placement:
    """``zeros_like`` and its family: the rows of the other tensor, whatever its values are."""
    other = call.raw(call["self"])
    if not isinstance(other, Placed):
        call.refuse("takes a value that is not a tensor")
    if isinstance(fill := call.get("fill_value"), fx.Node):
        call.number(fill)
    dims = other.resolved().dims
    return Placed(dims, uniform=any(d is not None for d in dims))


def arange(call: Call) -> Placement:
    """``arange(num_nodes)`` numbers the owned nodes; any other range must not depend on a row count."""
    start, end, step = call.get("start", 0), call["end"], call.get("step", 1)
    if not isinstance(end, fx.Node):
        for bound in (start, step):
            if isinstance(bound, fx.Node):
                call.number(bound)
        return replicated(1)
    rows, counted = call.rows_of_size(end)
    if not counted:
        return replicated(1)
    if start not in (0, None) or step not in (1, None):
        call.refuse("numbers rows with a start or a step", "use arange(num_nodes) and compute from it")
    if call.node.meta["val"].dtype not in (torch.int64, torch.int32):
        call.refuse("numbers rows in a dtype that cannot index", "use arange(num_nodes).to(dtype)")
    if not isinstance(rows, Owned):
        call.refuse(
            f"numbers the rows {rows} by their position, which is not the same on the ranks",
            "number the nodes, or pass edge numbers as an edge tensor",
        )
    return Placed((rows,), points=Points(rows.nodes))


def scalar_tensor(call: Call) -> Placement:
    """A Python number as a tensor."""
    for value in call.node.all_input_nodes:
        call.number(value)
    return replicated(0)


def item(call: Call) -> Placement:
    """``int(x.max()) + 1``, ``x.item()``: equal on every rank where the tensor is, and then a number like any."""
    value = call.node.args[0]
    if call.values(value).sharded:
        call.refuse(
            "turns rows that are spread over the ranks into a Python number, which would differ between the ranks",
            "reduce them over all nodes first, as in x.sum().item()",
        )
    return Size()


def sym_size(call: Call) -> Placement:
    """``x.size(dim)``: a count of rows where the dim is sharded, an ordinary int elsewhere."""
    placed = call.raw(call["self"])
    if not isinstance(placed, Placed):
        call.refuse("asks for the size of a value that is not a tensor")
    rows = placed.resolved().dims[call.dim("dim", len(placed.dims))]
    return Size((rows,)) if rows is not None else Size()


def sym_numel(call: Call) -> Placement:
    """``x.numel()``: a count of rows for a 1-D tensor."""
    placed = call.raw(call["self"])
    if isinstance(placed, Placed) and placed.resolved().sharded:
        if len(placed.dims) != 1:
            call.refuse("counts the elements of a tensor that is spread over the ranks", "use its sizes")
        rows = placed.resolved().dims[0]
        assert rows is not None
        return Size((rows,))
    return Size()


def add_sizes(call: Call) -> Placement:
    """A sum of counts is a count; a count plus a constant is a number of the whole graph."""
    parts: list[Rows] = []
    counts = []
    for value in (call["a"], call["b"]):
        if isinstance(value, fx.Node):
            placement = call.raw(value)
            if isinstance(placement, Size) and placement.rows:
                parts.extend(placement.rows)
                counts.append(value)
                continue
            if isinstance(placement, Size) and placement.number:
                return _as_number(call)
        elif value == 0:
            continue
        return _as_number(call) if _any_count(call) else Size()
    return Size(tuple(sorted(parts, key=str)))


MANY = 16
"""A count times more than this is read as a number: hardly the size of so many tensors joined."""


def multiplied_size(call: Call) -> Placement:
    """``2 * n`` counts the rows of ``cat([x, x])``; a count times anything else is a number."""
    values = sorted((call["a"], call["b"]), key=lambda v: isinstance(v, fx.Node))
    times, value = values
    if isinstance(times, int) and 1 <= times <= MANY and isinstance(value, fx.Node):
        placement = call.raw(value)
        if isinstance(placement, Size) and placement.rows:
            return Size(tuple(sorted(placement.rows * times, key=str)))
    return _as_number(call)


def size_arithmetic(call: Call) -> Placement:
    """``/ // -`` and the rest: the result is a number, computed from global counts."""
    return _as_number(call)


def _any_count(call: Call) -> bool:
    placements = [call.raw(n) for n in call.node.all_input_nodes]
    return any(isinstance(p, Size) and (p.rows or p.number) for p in placements)


def _as_number(call: Call) -> Placement:
    depends = _any_count(call)
    for value in call.node.all_input_nodes:
        call.number(value)
    return Size(number=depends)


OPS: Ops = {
    aten.zeros.default: Op(filled, Trait.ZEROS),
    aten.ones.default: Op(filled, Trait.ONES),
    aten.full.default: Op(filled, Trait.FILL),
    aten.new_zeros.default: Op(filled, Trait.ZEROS | Trait.STOPS_GRADIENT),
    aten.new_ones.default: Op(filled, Trait.ONES | Trait.STOPS_GRADIENT),
    aten.new_full.default: Op(filled, Trait.FILL | Trait.STOPS_GRADIENT),
    aten.zeros_like.default: Op(filled_like, Trait.ZEROS | Trait.STOPS_GRADIENT),
    aten.ones_like.default: Op(filled_like, Trait.ONES | Trait.STOPS_GRADIENT),
    aten.full_like.default: Op(filled_like, Trait.FILL | Trait.STOPS_GRADIENT),
    # What an empty tensor holds is undefined on a single machine too.
    aten.empty.memory_format: filled,
    aten.new_empty.default: Op(filled, Trait.STOPS_GRADIENT),
    aten.empty_like.default: Op(filled_like, Trait.STOPS_GRADIENT),
    aten.eye.default: eye,
    aten.eye.m: eye,
    aten.arange.default: arange,
    aten.arange.start: arange,
    aten.arange.start_step: arange,
    aten.item.default: item,
    aten._local_scalar_dense.default: item,
    aten.scalar_tensor.default: scalar_tensor,
    aten.sym_size.int: sym_size,
    aten.sym_numel.default: sym_numel,
    operator.add: add_sizes,
    operator.mul: multiplied_size,
    **over(
        (
            operator.sub,
            operator.truediv,
            operator.floordiv,
            operator.mod,
            operator.pow,
            operator.neg,
            torch.sym_float,
            torch.sym_int,
            torch.sym_max,
            torch.sym_min,
            torch.sym_sqrt,
        ),
        size_arithmetic,
    ),
}


def is_filled(node: fx.Node, number: int) -> bool:
    """Whether all entries of a value are 0, or 1, as those of the empty result that a scatter starts from."""
    record = OPS.get(node.target)  # type: ignore[arg-type]
    traits = record.traits if isinstance(record, Op) else Trait.NONE
    if Trait.FILL in traits:
        fill = node.args[-1] if len(node.args) > 1 else node.kwargs.get("fill_value")
        return isinstance(fill, (int, float)) and fill == number
    return (Trait.ONES if number else Trait.ZEROS) in traits
