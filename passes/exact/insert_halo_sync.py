"""insert_halo_sync: rows of other ranks' nodes, fetched where edges read them.

Before::  x_j = index_select(x, 0, src)             # src points into the halo, x holds owned rows
After::   x_halo = halo_sync(x)
          x_j = index_select(x_halo, 0, src)

and the adjoint, where edges write to their source::

    out = scatter_add(zeros, 0, src, msg)     ->    out = scatter_add(pad_halo(zeros), 0, src, msg)
                                                    out_owned = halo_reduce(out)

One value is synced once, however many gathers read it. A gather by destination reads owned rows and needs
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from graphshard.catalogue.call import Call
from graphshard.catalogue.edits import Edit, HaloSync, ScatterBySource
from graphshard.catalogue.scatter import reduce_of
from graphshard.infer.emitter import Emitter
from graphshard.infer.halo import plan_of, synced, with_rows_of_its_own
from graphshard.infer.placement import infer, place
from graphshard.ir.placement import Halo, Placed, Placement, reach
from graphshard.ir.program import Program
from graphshard.ir.reason import because
from graphshard.ops import local as local_ops


@dataclass(frozen=True)
class InsertHaloSync:
    """Insert every halo sync and halo reduce that the placements ask for; counts both."""

    name: ClassVar[str] = "insert_halo_sync"

    def run(self, program: Program) -> int:
        found = infer(program)
        by_source = [e.node for e in found.edits if isinstance(e, ScatterBySource)]
        for node in by_source:
            _reduce_copies(program, node, _written_halo(node, found.placements))
        syncs = _by_value(infer(program).edits)
        for (value, dim, halo), users in syncs.items():
            _insert_sync(program, value, dim, halo, users)
        return len(by_source) + len(syncs)


def _by_value(edits: list[Edit]) -> dict[tuple[fx.Node, int, Halo], list[fx.Node]]:
    users: dict[tuple[fx.Node, int, Halo], list[fx.Node]] = {}
    for edit in edits:
        if isinstance(edit, HaloSync):
            users.setdefault((edit.value, edit.dim, edit.halo), []).append(edit.user)
    return users


def _insert_sync(program: Program, value: fx.Node, dim: int, halo: Halo, users: list[fx.Node]) -> None:
    emit = Emitter(program, value if value.op != "placeholder" else users[0])
    with emit.after(value):
        rows = value if dim == 0 else emit.call(torch.ops.aten.transpose.int, value, 0, dim)
        sync = synced(emit, rows, halo, name_of=value)
        _say_why(sync, value, halo, users[0])
        if dim != 0:
            sync = emit.call(torch.ops.aten.transpose.int, sync, 0, dim)
    for user in users:
        user.replace_input_with(value, sync)


def _say_why(sync: fx.Node, value: fx.Node, halo: Halo, user: fx.Node) -> None:
    """The gather, what it reads, and the numbers by which it does."""
    indices = (n for n in user.all_input_nodes if n is not value and _points_into(n, halo))
    index = next(indices, None)
    by: tuple[str | fx.Node, ...] = () if index is None else (" by ", index)
    because(
        sync,
        user,
        " reads rows of ",
        value,
        *by,
        f", whose numbers reach the rows {halo}" if by else f" among {halo}",
    )


def _points_into(node: fx.Node, halo: Halo) -> bool:
    placement = node.meta.get("placement")
    points = reach(placement.points) if isinstance(placement, Placed) else None
    return points is not None and points.rows == halo


def _written_halo(node: fx.Node, placements: Mapping[fx.Node, Placement]) -> Halo:
    """The rows that a scatter by source writes into."""
    call = Call(node, placements, [])
    points = reach(call.tensor(_index_of(call)).points)
    assert points is not None
    assert isinstance(points.rows, Halo)
    return points.rows


def _index_of(call: Call) -> fx.Node:
    if "indices" in call.args:  # index_put: whole rows are written through one index
        return next(index for index in call["indices"] if index is not None)  # type: ignore[no-any-return]
    return call["index"]  # type: ignore[no-any-return]


def _reduce_copies(program: Program, node: fx.Node, halo: Halo) -> None:
    """Let a scatter by source write into owned and halo rows, and combine the copies of each node.

    The base counts on owned rows only.
    """
    base, owned = node.args[0], node.meta["val"]
    assert isinstance(base, fx.Node)
    reduce = _reduction(node)
    plan, group = plan_of(program, halo), program.placeholder("group")
    emit = Emitter(program, node)
    wide = with_rows_of_its_own(base.meta["val"])
    with emit.before(node):
        padded = emit.call(
            local_ops.pad_halo,
            *(base, plan[2], int(reduce == "prod")),
            name=f"{base.name}_padded",
            example=wide,
        )
    node.update_arg(0, padded)
    node.meta["val"], node.meta["placement"] = wide, place(node)
    users = list(node.users)
    with emit.after(node):
        reduced = emit.call(
            torch.ops.graphshard.halo_reduce.default,
            *(node, *plan, reduce, group),
            name=f"{node.name}_owned",
            example=owned,
        )
    because(reduced, node, f" adds to rows of {halo}, which other ranks own")
    for user in users:
        user.replace_input_with(node, reduced)


def _reduction(node: fx.Node) -> str:
    """What combines the copies of a node: "sum", "max", "min" or "prod"."""
    if node.target is local_ops.scatter_extreme:
        return str(node.args[4])
    return "prod" if reduce_of(Call(node, {}, [])) == "prod" else "sum"
