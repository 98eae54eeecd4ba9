"""The ops that passes insert: what a sync, a reduction over ranks and their helpers leave behind."""

from __future__ import annotations

from dataclasses import replace

import torch

from graphshard.catalogue.call import Call
from graphshard.catalogue.record import Faults, Op, Ops, Traffic, Trait, over
from graphshard.catalogue.reduce import without
from graphshard.ir.placement import Halo, Owned, Placed, Placement, Plan, Size, join, replicated
from graphshard.ops import broken, dropout, exchange, local, merged, stack

aten = torch.ops.aten


def halo_sync(call: Call) -> Placement:
    """Owned rows become owned and halo rows."""
    placed = call.tensor("x")
    halo = _see_plan(call)
    if halo is None or placed.dims[:1] != (Owned(halo.nodes),):
        call.refuse(f"syncs {placed}, which are not the rows that the plan sends")
    return Placed((halo, *placed.dims[1:]))


def merged_sync(call: Call) -> Placement:
    """Several values of owned rows at once."""
    halo = _see_plan(call)
    found = []
    for value in call["values"]:
        placed = call.tensor(value)
        if halo is None or placed.dims[:1] != (Owned(halo.nodes),):
            call.refuse(f"syncs {placed}, which are not the rows that the plan sends")
        found.append(Placed((halo, *placed.dims[1:])))
    return tuple(found)


def bucketed_inputs(call: Call) -> Placement:
    """Identities that only mark where gradients are summed."""
    _see_plan(call)
    return tuple(call.tensor(value) for value in call["values"])


def halo_reduce(call: Call) -> Placement:
    """Mirror-partial rows become owned rows."""
    placed = call.raw(call["x"])
    halo = _see_plan(call)
    if not isinstance(placed, Placed) or placed.mirror != call["reduce"] or halo not in placed.dims:
        call.refuse(f"reduces {placed}, whose copies hold no such terms")
    return placed.resolved()


def all_reduce(call: Call) -> Placement:
    """A partial value becomes a replicated one."""
    placed = call.raw(call["x"])
    _see_plan(call)
    if not isinstance(placed, Placed) or placed.partial != call["reduce"]:
        call.refuse(f"reduces {placed} over the ranks, which holds no such terms")
    return placed.resolved()


def pad_halo(call: Call) -> Placement:
    """Owned rows, then filler rows for a scatter by source to write into."""
    placed = call.tensor(call["x"])
    halo = _see_plan(call)
    if halo is None or placed.dims[:1] != (Owned(halo.nodes),):
        call.refuse(f"pads {placed}, which are not the rows of the plan's node set")
    return replace(placed, dims=(halo, *placed.dims[1:]), points=None, uniform=False)


def in_place(call: Call) -> Placement:
    """A sum or rectifier over the memory of its first argument; ``passes.work_in_place`` makes sure of the rest."""
    placed = call.values(call.node.args[0])
    for node in call.node.all_input_nodes:
        other = call.values(node)
        if other.sharded and other.dims[:1] != placed.dims[:1]:
            call.refuse(f"combines rows that do not belong together: {placed} with {other}")
    return placed.plain()


def project_weight(call: Call) -> Placement:
    """A product of two parameters."""
    if any(call.tensor(name).sharded for name in ("weight", "a")):
        call.refuse("takes parameters that are spread over the ranks")
    return replicated(2)


def own_rows(call: Call) -> Placement:
    """Owned rows of owned and halo rows."""
    placed = call.tensor("x")
    halo = placed.dims[0] if placed.dims else None
    rows, _ = call.rows_of_size(call["count"])
    if not isinstance(halo, Halo) or rows != Owned(halo.nodes):
        call.refuse(f"takes the rows {rows} of {placed}")
    return Placed((rows, *placed.dims[1:]))


def extreme(call: Call) -> Placement:
    """This rank's own maximum or minimum over rows."""
    placed = call.values(call["x"])
    gone = tuple(call["dims"])
    return Placed(without(placed.dims, gone, keepdim=True), partial=call["reduce"])


def zero_of(call: Call) -> Placement:
    """Zeros over the rows of the tensor whose gradient they carry."""
    return call.values(call["x"]).plain()


def element_ids(call: Call) -> Placement:
    """A number for each element of the rows."""
    placed = call.tensor(call["ids"])
    return Placed((*placed.dims, *(None,) * len(call["trailing"])))


def stack_ranks(call: Call) -> Placement:
    """A value of each rank's own, stacked."""
    placed = call.raw(call["x"])
    _see_plan(call)
    if not isinstance(placed, Placed) or placed.partial != "stack":
        call.refuse(f"stacks {placed} over the ranks, which is not a value of each rank's own")
    return Placed((None, *placed.dims))


def same(call: Call) -> Placement:
    """Identities that only mark where gradients are summed or scaled."""
    placed = call.tensor(call["x"])
    _see_plan(call)
    return placed


def global_count(call: Call) -> Placement:
    """A row count, summed over the ranks."""
    _see_plan(call)
    return Size(number=True)


def dropout_rows(call: Call) -> Placement:
    """A dropout by global row ids keeps its rows, with a rectifier before it or without."""
    placed = call.values(call["x"])
    _see_plan(call)
    return Placed(placed.dims)


def random_like(call: Call) -> Placement:
    """Random numbers by global row ids: in the rows of the other tensor."""
    placed = call.tensor(call["x"])
    _see_plan(call)
    return Placed(placed.dims)


def join_ids(call: Call) -> Placement:
    """Ids of concatenated rows are told apart by segment."""
    parts = []
    for part in call["parts"]:
        rows = call.tensor(part).dims[0]
        assert rows is not None
        parts.append(rows)
    return Placed((join(parts),))


def _see_plan(call: Call) -> Halo | None:
    """The rows that the op's plan fetches, if it has one; every argument counts as looked at."""
    found = None
    for node in call.node.all_input_nodes:
        placement = call.raw(node)
        if isinstance(placement, Plan):
            found = placement.halo
    return found


OPS: Ops = {
    exchange.halo_sync: Op(
        halo_sync,
        traffic=Traffic("halo_sync", "halo sync"),
        suffix="halo",
        faults=Faults(broken.sync_nothing, broken.sync_forward_only),
    ),
    exchange.halo_reduce: Op(
        halo_reduce,
        traffic=Traffic("halo_reduce", "halo reduce"),
        suffix="owned",
        faults=Faults(broken.reduce_nothing, broken.reduce_forward_only),
    ),
    exchange.all_reduce: Op(
        all_reduce,
        traffic=Traffic("all_reduce", "all-reduce"),
        suffix="all",
        faults=Faults(broken.all_reduce_nothing, broken.all_reduce_forward_only),
    ),
    stack.stack_ranks: Op(
        stack_ranks,
        traffic=Traffic("stack_ranks"),
        suffix="ranks",
        faults=Faults(broken.stack_nothing, broken.stack_forward_only),
    ),
    merged.merged_sync: Op(
        merged_sync,
        traffic=Traffic("halo_sync", "halo sync"),
        suffix="halo",
        faults=Faults(broken.merged_nothing, broken.merged_forward_only),
        items=True,
    ),
    merged.bucketed_inputs: Op(
        bucketed_inputs,
        traffic=Traffic("gradient"),
        faults=Faults(None, broken.same_all),
        passes_on=True,
        items=True,
    ),
    exchange.replicated_input: Op(
        same, traffic=Traffic("gradient"), faults=Faults(None, broken.same), passes_on=True
    ),
    exchange.replicated_output: Op(same, faults=Faults(None, broken.same), passes_on=True),
    local.global_count: Op(global_count, traffic=Traffic("global_count")),
    local.pad_halo: Op(pad_halo, suffix="padded"),
    local.own_rows: own_rows,
    local.extreme: extreme,
    local.zero_of: zero_of,
    local.element_ids: element_ids,
    local.project_weight: project_weight,
    local.join_ids: join_ids,
    local.random_like: Op(random_like, Trait.STOPS_GRADIENT),
    dropout.dropout_rows: dropout_rows,
    dropout.relu_dropout: dropout_rows,
    dropout.relu_dropout_: dropout_rows,
    aten.relu_.default: in_place,  # keeps its result for backward
    **over((aten.add_.Tensor, aten.addmm_.default), Op(in_place, Trait.FRESH)),
}
