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
from typing import Any

import torch
from torch import fx

from graphshard import local_ops
from graphshard.passes.base import Emitter, Program
from graphshard.passes.infer_placement import infer
from graphshard.passes.rules.call import Call, Edit, HaloReduce, HaloSync, Rewrite
from graphshard.placement import Halo, Placement, reach


@dataclass(frozen=True)
class InsertHaloSync:
    """Insert every halo sync and halo reduce that the placements ask for; counts both."""

    name: str = "insert_halo_sync"

    def run(self, program: Program) -> int:
        found = infer(program)
        for edit in found.edits:
            if isinstance(edit, Rewrite) and edit.family == "scatter_by_source":
                _widen_scatter(program, edit.node, _written_halo(edit.node, found.placements))
        reduces = [e for e in infer(program).edits if isinstance(e, HaloReduce)]
        for reduce in reduces:
            _insert_reduce(program, reduce)
        syncs = _by_value(infer(program).edits)
        for (value, dim, halo), users in syncs.items():
            _insert_sync(program, value, dim, halo, users)
        return len(reduces) + len(syncs)


def _by_value(edits: list[Edit]) -> dict[tuple[fx.Node, int, Halo], list[fx.Node]]:
    users: dict[tuple[fx.Node, int, Halo], list[fx.Node]] = {}
    for edit in edits:
        if isinstance(edit, HaloSync):
            users.setdefault((edit.value, edit.dim, edit.halo), []).append(edit.user)
    return users


def _plan(program: Program, halo: Halo) -> tuple[fx.Node, fx.Node, fx.Node]:
    names = ("send_index", "send_splits", "recv_splits")
    index, send, recv = (program.placeholder(name, halo.nodes, halo.plan) for name in names)
    return index, send, recv


def _insert_sync(program: Program, value: fx.Node, dim: int, halo: Halo, users: list[fx.Node]) -> None:
    plan, group = _plan(program, halo), program.placeholder("group")
    emit = Emitter(program, value if value.op != "placeholder" else users[0])
    with emit.after(value):
        rows = value if dim == 0 else emit.call(torch.ops.aten.transpose.int, value, 0, dim)
        synced = emit.call(
            torch.ops.graphshard.halo_sync.default,
            *(rows, *plan, group),
            name=f"{value.name}_{halo.plan or 'halo'}",
            example=_with_halo(rows.meta["val"]),
        )
        if dim != 0:
            synced = emit.call(torch.ops.aten.transpose.int, synced, 0, dim)
    for user in users:
        user.replace_input_with(value, synced)


def _with_halo(example: Any) -> Any:
    """An example value with a row count of its own: n + h is no expression of n."""
    mode = example.fake_mode
    with mode:
        return example.new_empty((mode.shape_env.create_unbacked_symint(), *example.shape[1:]))


def _written_halo(node: fx.Node, placements: Mapping[fx.Node, Placement]) -> Halo:
    """The rows that a scatter by source writes into."""
    index = Call(node, placements, []).tensor("index")
    points = reach(index.points)
    assert points is not None
    assert isinstance(points.rows, Halo)
    return points.rows


def _widen_scatter(program: Program, node: fx.Node, halo: Halo) -> None:
    """Let a scatter by source write into owned and halo rows; the base counts on owned rows only."""
    base = node.args[0]
    assert isinstance(base, fx.Node)
    _, _, recv_splits = _plan(program, halo)
    emit = Emitter(program, node)
    wide = _with_halo(base.meta["val"])
    with emit.before(node):
        padded = emit.call(local_ops.pad_halo, base, recv_splits, 0, name=f"{base.name}_padded", example=wide)
    node.update_arg(0, padded)
    node.meta["val"] = _with_halo(node.meta["val"])


def _insert_reduce(program: Program, edit: HaloReduce) -> None:
    emit = Emitter(program, edit.value)
    users = list(edit.value.users)
    padded = edit.value.args[0]
    assert isinstance(padded, fx.Node)
    base = padded.args[0]
    assert isinstance(base, fx.Node)
    plan, group = _plan(program, edit.halo), program.placeholder("group")
    with emit.after(edit.value):
        reduced = emit.call(
            torch.ops.graphshard.halo_reduce.default,
            *(edit.value, *plan, edit.reduce, group),
            name=f"{edit.value.name}_owned",
            example=base.meta["val"],
        )
    for user in users:
        user.replace_input_with(edit.value, reduced)
