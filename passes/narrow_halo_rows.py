"""narrow_halo_rows: halo rows and their gradients travel as bfloat16. **Inexact**: off unless asked for.

Before::  v_halo = halo_sync(v)
After::   v_halo, = merged_sync([v], wire=bfloat16)

A value keeps its dtype, and owned rows all their digits; what comes from other ranks has 8 significant bits. Half of
the bytes in float32, a quarter in float64. Constants of the graph are sent once, so they stay exact, as do integers.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch import fx

from graphshard import combined
from graphshard.passes.base import Emitter, Program
from graphshard.passes.constants import constant_values
from graphshard.passes.halo_rows import SYNC


@dataclass(frozen=True)
class NarrowHaloRows:
    """Round what is sent in every step; counts the exchanges."""

    wire: torch.dtype = torch.bfloat16
    name: str = "narrow_halo_rows"

    def run(self, program: Program) -> int:
        constants = constant_values(program)
        edits = 0
        for node in list(program.graph.nodes):
            if node in constants:
                continue
            if node.target is combined.merged_sync and "wire" not in node.kwargs:
                node.kwargs = {**node.kwargs, "wire": self.wire}
                edits += 1
            elif node.target is SYNC and self._is_wider(node):
                self._narrow(program, node)
                edits += 1
        return edits

    def _is_wider(self, sync: fx.Node) -> bool:
        dtype = sync.meta["val"].dtype
        return bool(dtype.is_floating_point) and dtype.itemsize > self.wire.itemsize

    def _narrow(self, program: Program, sync: fx.Node) -> None:
        emit = Emitter(program, sync)
        value = sync.meta["val"]
        with emit.before(sync):
            together = emit.call(
                combined.merged_sync, [sync.args[0]], *sync.args[1:], wire=self.wire, example=(value,)
            )
            together.meta["placement"] = (sync.meta["placement"],)
            item = emit.call(operator.getitem, together, 0, example=value)
        item.meta = {key: kept for key, kept in sync.meta.items() if key != "unbacked_bindings"}
        sync.replace_all_uses_with(item)
        program.graph.erase_node(sync)
