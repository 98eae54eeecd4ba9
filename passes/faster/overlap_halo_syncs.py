"""overlap_halo_syncs: a sum over neighbours begins while their halo rows travel.

Before::  x_halo = halo_sync(x); out = weighted_sum(x_halo, w, A)
After::   parts = split_structure(A, n)                                  # once for each graph
          out = overlapped_sum(x, w, parts)

Where the synced rows are read by this one sum, in every step. It gains nothing where ranks have no core to spare
for the exchange (ranks that share a machine), so it is off unless asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from graphshard.infer.constants import constant_size, constant_values
from graphshard.infer.emitter import Emitter
from graphshard.ir.placement import Owned
from graphshard.ir.program import Program
from graphshard.ops import aggregation, overlap
from graphshard.passes.faster.halo_rows import SYNC
from graphshard.passes.faster.patterns import rows_of


@dataclass(frozen=True)
class OverlapHaloSyncs:
    """Overlap each sync that one sum reads; counts them."""

    name: ClassVar[str] = "overlap_halo_syncs"
    chosen: ClassVar[bool] = False

    def run(self, program: Program) -> int:
        edits = 0
        constants = constant_values(program)
        for node in list(program.graph.nodes):
            if node.target is not aggregation.weighted_sum or node in constants:
                continue
            arguments: Any = node.args
            sync, weight, structure = arguments
            alone = sync.target is SYNC and len(sync.users) == 1
            if not alone or sync in constants or not isinstance(rows_of(node), Owned):
                continue
            _overlap(program, node, sync, weight, structure)
            edits += 1
        program.graph.eliminate_dead_code()
        return edits


def _overlap(program: Program, node: fx.Node, sync: Any, weight: Any, structure: Any) -> None:
    emit, value = Emitter(program, node), sync.args[0]
    owned = rows_of(value)
    assert isinstance(owned, Owned)
    with emit.after(structure):
        count = constant_size(emit, owned, value.meta["val"].size(0))
        parts = emit.call(overlap.split_structure, structure, count)
    with emit.before(node):
        made = emit.call(
            overlap.overlapped_sum, value, weight, parts, *sync.args[1:], example=node.meta["val"]
        )
    node.replace_all_uses_with(made)
    program.graph.erase_node(node)
