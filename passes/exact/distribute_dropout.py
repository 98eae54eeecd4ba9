"""distribute_dropout: a dropout mask that is the same on 1, 2 or 64 ranks.

Before::  y = dropout(x, 0.5)
After::   y = dropout_rows(x, owned_ids, dim=0, p=0.5, key=(seed, step), site=0)

The mask is a function of (seed, step, call site, global id of the row): which rank holds a row, and in which
order, does not matter. Rows of a concatenation are told apart by their segment, rows behind a mask keep their
ids.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from graphshard.catalogue.call import Call
from graphshard.catalogue.edits import DropoutOverRows
from graphshard.infer.emitter import Emitter
from graphshard.infer.placement import rewrites
from graphshard.infer.row_ids import row_ids
from graphshard.ir.program import Program
from graphshard.ops import dropout
from graphshard.ops import local as local_ops


@dataclass(frozen=True)
class DistributeDropout:
    """Rewrite each active dropout; counts them."""

    name: ClassVar[str] = "distribute_dropout"

    def run(self, program: Program) -> int:
        drawn = (dropout.dropout_rows, local_ops.random_like)
        first = sum(n.target in drawn for n in program.graph.nodes)
        edits = 0
        for call in rewrites(program, DropoutOverRows):
            _rewrite(program, call, first + edits)
            edits += 1
        return edits


def _rewrite(program: Program, call: Call, site: int) -> None:
    """Replace the call by ``dropout_rows``."""
    node, x = call.node, call["input"]
    placed = call.tensor(x)
    emit = Emitter(program, node)
    key = program.placeholder("dropout_key")
    with emit.before(node):
        dim = placed.sharded[0] if placed.sharded else 0
        rows = placed.dims[dim] if placed.sharded else None
        ids = row_ids(emit, rows) if rows is not None else None
        dropped = emit.call(
            dropout.dropout_rows,
            *(x, ids, dim, call["p"], key, site),
            name=f"dropout_{site}",
            example=x.meta["val"],
        )
    if isinstance(node.meta["val"], torch.Tensor):
        node.replace_all_uses_with(dropped)
    else:
        _replace_items(call, dropped)
    program.graph.erase_node(node)


def _replace_items(call: Call, dropped: fx.Node) -> None:
    for item in list(call.node.users):
        if item.target is operator.getitem and item.args[1] == 0:
            item.replace_all_uses_with(dropped)
        elif item.users:
            call.refuse("has its mask read by the model", "draw the mask outside the model")
        item.graph.erase_node(item)
