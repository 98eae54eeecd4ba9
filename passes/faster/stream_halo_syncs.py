"""stream_halo_syncs: the halo rows of a sum come in a block of columns at a time.

Before::  x_halo = halo_sync(x); out = weighted_sum(x_halo, w, A)
After::   out = streamed_sum(x, w, scale, A, num_nodes)            # a block of columns at most is there at once

Where the synced rows are read by this one sum, in every step, and the weights need no gradient: theirs would fetch the
rows once more. Weights that are one number for each row of the result, as of a mean, become its scale: they need no
memory for each edge. Without them the bits are those without the pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from graphshard.infer.constants import constant_values
from graphshard.infer.emitter import Emitter
from graphshard.infer.gradient_flow import gradient_flow
from graphshard.ir.placement import Halo, Owned, Placed
from graphshard.ir.program import Program
from graphshard.ir.reason import because
from graphshard.ops import aggregation, streamed
from graphshard.passes.faster.halo_rows import SYNC
from graphshard.passes.faster.patterns import rows_of

aten = torch.ops.aten


@dataclass(frozen=True)
class StreamHaloSyncs:
    """Stream each sync that one sum reads; counts them."""

    name: ClassVar[str] = "stream_halo_syncs"

    def run(self, program: Program) -> int:
        edits, scales = 0, dict[fx.Node, fx.Node]()
        constants = constant_values(program)
        flowing = gradient_flow(program, inputs_need_grad=True)
        for node in list(program.graph.nodes):
            if node.target is not aggregation.weighted_sum or node in constants:
                continue
            sync: Any = node.args[0]
            alone = sync.target is SYNC and len(sync.users) == 1 and sync not in constants
            if alone and node.args[1] not in flowing and isinstance(rows_of(node), Owned):
                _stream(program, node, sync, scales)
                edits += 1
        return edits


def _stream(program: Program, node: fx.Node, sync: fx.Node, scales: dict[fx.Node, fx.Node]) -> None:
    value, *plan = sync.args
    placed = sync.meta["placement"]
    assert isinstance(placed, Placed)
    assert isinstance(placed.dims[0], Halo)
    num_nodes = program.placeholder("num_nodes", placed.dims[0].nodes)
    emit = Emitter(program, node)
    _, weight, structure = node.args
    with emit.before(node):
        weight, scale = _apart(emit, weight, scales)
        arguments = (value, weight, scale, structure, *plan, num_nodes)
        made = emit.call(streamed.streamed_sum, *arguments, example=node.meta["val"])
        because(made, "no other value reads these halo rows, so no more of them than a block has to be there")
    node.replace_all_uses_with(made)
    for old in (node, sync):
        program.graph.erase_node(old)


def _apart(emit: Emitter, weight: Any, scales: dict[fx.Node, fx.Node]) -> tuple[Any, fx.Node | None]:
    """Weights of edges, and what scales each row of the sum; ``scales`` has those of earlier sums."""
    if not isinstance(weight, fx.Node) or weight.target is not aggregation.row_weights:
        return weight, None
    left, scale, _, how = weight.args
    assert isinstance(scale, fx.Node)
    if how == "multiply":
        return left, scale
    if weight not in scales:
        scales[weight] = emit.call(aten.reciprocal.default, scale)
    return left, scales[weight]
