"""merge_halo_syncs: values that are synced at the same time travel in one message.

Before::  v_halo = halo_sync(v); a_halo = halo_sync(a)
After::   v_halo, a_halo = merged_sync([v, a])

Those of one plan and dtype, none of which is computed from another; constants of the graph among themselves.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from graphshard.infer.constants import constant_values
from graphshard.infer.emitter import Emitter
from graphshard.ir.program import Program
from graphshard.ir.reason import because
from graphshard.ir.value_numbers import restore_order
from graphshard.ops import merged as combined
from graphshard.passes.faster.halo_rows import SYNC


@dataclass(frozen=True)
class MergeHaloSyncs:
    """Merge what can go together; counts the syncs that were merged."""

    name: ClassVar[str] = "merge_halo_syncs"

    def run(self, program: Program) -> int:
        edits = 0
        for batch in _batches(program):
            if len(batch) > 1:
                merge_syncs(program, batch)
                edits += len(batch)
        restore_order(program)
        return edits


def _batches(program: Program) -> list[list[fx.Node]]:
    """Syncs that may go together, each batch in the order of the program."""
    constants = constant_values(program)
    behind: dict[fx.Node, set[fx.Node]] = {}
    batches: dict[Any, list[list[fx.Node]]] = {}
    for node in program.graph.nodes:
        behind[node] = {sync for value in node.all_input_nodes for sync in behind[value]}
        if node.target is not SYNC:
            continue
        value = node.meta["val"]
        key = (node.args[1:], value.dtype, node in constants)
        known = batches.setdefault(key, [])
        if value.is_floating_point() and known and behind[node].isdisjoint(known[-1]):
            known[-1].append(node)
        else:
            known.append([node])
        behind[node].add(node)
    return [batch for known in batches.values() for batch in known]


def merge_syncs(program: Program, syncs: list[fx.Node]) -> fx.Node:
    """Put one exchange, which is returned, in the place of these syncs of one plan and dtype."""
    emit = Emitter(program, syncs[0])
    with emit.before(syncs[-1]):
        together = emit.call(
            combined.merged_sync,
            [sync.args[0] for sync in syncs],
            *syncs[0].args[1:],
            example=tuple(sync.meta["val"] for sync in syncs),
        )
        because(together, "these go to the same ranks at the same time, so they share one message")
        for i, sync in enumerate(syncs):
            item = emit.call(
                operator.getitem, together, i, name=f"{sync.name}_merged", example=sync.meta["val"]
            )
            item.meta = {key: value for key, value in sync.meta.items() if key != "unbacked_bindings"}
            sync.replace_all_uses_with(item)
    for sync in syncs:
        program.graph.erase_node(sync)
    return together
