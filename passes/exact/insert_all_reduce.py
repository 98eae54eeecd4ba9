"""insert_all_reduce: terms of a reduction over all nodes or edges become its value.

Before::  s = sum(x, [0])                    # x holds owned rows: s is this rank's term
After::   s = sum(x, [0])
          s_all = all_reduce(s, "sum")

A row count that is read as a number (``x.sum(0) / x.size(0)``) becomes the count over all ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from graphshard.catalogue.edits import AllReduce, GlobalCount
from graphshard.infer.emitter import Emitter
from graphshard.infer.placement import infer
from graphshard.ir.placement import Edges, Owned, Size
from graphshard.ir.program import Program
from graphshard.ir.reason import because
from graphshard.ops import local as local_ops


@dataclass(frozen=True)
class InsertAllReduce:
    """Insert an all-reduce after every partial value, and a global count for every count used as a number."""

    name: ClassVar[str] = "insert_all_reduce"

    def run(self, program: Program) -> int:
        edits = infer(program).edits
        reduces = [e for e in edits if isinstance(e, AllReduce)]
        for reduce in reduces:
            _insert(program, reduce)
        counts: dict[fx.Node, list[fx.Node]] = {}
        for edit in edits:
            if isinstance(edit, GlobalCount):
                counts.setdefault(edit.size, []).append(edit.user)
        for size, users in counts.items():
            _count(program, size, users)
        return len(reduces) + len(counts)


def _insert(program: Program, edit: AllReduce) -> None:
    emit = Emitter(program, edit.value)
    users = list(edit.value.users)
    group = program.placeholder("group")
    with emit.after(edit.value):
        total = emit.call(
            torch.ops.graphshard.all_reduce.default,
            edit.value,
            edit.reduce,
            group,
            name=f"{edit.value.name}_all",
            example=edit.value.meta["val"],
        )
    because(total, edit.value, f" is the {edit.reduce} of this rank's rows alone")
    for user in users:
        user.replace_input_with(edit.value, total)


def _count(program: Program, size: fx.Node, users: list[fx.Node]) -> None:
    """Whole nodes and edges are counted when the graph is partitioned; other rows at run time."""
    placement = size.meta["placement"]
    assert isinstance(placement, Size)
    counted = placement.rows[0] if len(placement.rows) == 1 else None
    if isinstance(counted, Owned):
        total = program.placeholder("num_nodes", counted.nodes)
    elif isinstance(counted, Edges):
        total = program.placeholder("num_edges", counted.name)
    else:
        group = program.placeholder("group")
        emit = Emitter(program, size)
        with emit.after(size):
            total = emit.call(
                local_ops.global_count, size, group, name=f"{size.name}_global", example=size.meta["val"]
            )
        because(total, users[0], " computes with the number of rows, which is that of all ranks")
    for user in users:
        user.replace_input_with(size, total)
