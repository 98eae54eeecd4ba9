"""globalize_ids: node numbers that a program computes with become global ids.

Before::  lower = lt(src, dst)
After::   src_ids = index(node_ids, [src]); dst_ids = index(node_ids, [dst]); lower = lt(src_ids, dst_ids)

Local numbers are right for reading and writing rows, and for ``==``; as numbers they mean something else on
each rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from graphshard.catalogue.edits import GlobalIds
from graphshard.graph.schema import MESSAGES
from graphshard.infer.emitter import Emitter
from graphshard.infer.placement import infer
from graphshard.ir.placement import Placed, Pointing, Points, reach
from graphshard.ir.program import Program

aten = torch.ops.aten


@dataclass(frozen=True)
class GlobalizeIds:
    """Look up the global id of every node number that is used as a number; counts the uses."""

    name: ClassVar[str] = "globalize_ids"

    def run(self, program: Program) -> int:
        found = infer(program)
        wanted = [e for e in found.edits if isinstance(e, GlobalIds)]
        for edit in wanted:
            placed = found.placements[edit.value]
            assert isinstance(placed, Placed)
            emit = Emitter(program, edit.user)
            looked_up = _look_up(emit, edit.value, placed.points, edit.user)
            edit.user.replace_input_with(edit.value, looked_up)
        return len(wanted)


def _look_up(emit: Emitter, value: fx.Node, points: Pointing, user: fx.Node) -> fx.Node:
    """The global ids of the node numbers in ``value``; row by row where its rows number different nodes."""
    name = f"{value.name}_global"
    together = reach(points)
    if together is not None:
        ids = _ids(emit, together)
        with emit.before(user):
            return emit.call(aten.index.Tensor, ids, [value], name=name)
    assert isinstance(points, tuple)
    tables = [None if p is None else _ids(emit, p) for p in points]
    with emit.before(user):
        rows = [emit.call(aten.select.int, value, 0, i) for i in range(len(points))]
        found = [
            row if ids is None else emit.call(aten.index.Tensor, ids, [row])
            for row, ids in zip(rows, tables, strict=True)
        ]
        return emit.call(aten.stack.default, found, name=name)


def _ids(emit: Emitter, points: Points) -> fx.Node:
    return emit.program.placeholder("node_ids", points.nodes, points.plan or MESSAGES)
