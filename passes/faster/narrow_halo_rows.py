"""narrow_halo_rows: halo rows and their gradients travel as bfloat16. **Inexact**: off unless asked for.

Before::  v_halo = halo_sync(v)
After::   v_halo, = merged_sync([v], wire=bfloat16)

A value keeps its dtype, and owned rows all their digits; what comes from other ranks has 8 significant bits. Half of
the bytes in float32, a quarter in float64. Constants of the graph are sent once, so they stay exact, as do integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from graphshard.infer.constants import constant_values
from graphshard.ir.program import Program
from graphshard.ops import merged as combined
from graphshard.passes.faster.halo_rows import SYNC
from graphshard.passes.faster.merge_halo_syncs import merge_syncs


@dataclass(frozen=True)
class NarrowHaloRows:
    """Round what is sent in every step; counts the exchanges."""

    wire: torch.dtype = torch.bfloat16
    name: ClassVar[str] = "narrow_halo_rows"
    chosen: ClassVar[bool] = False
    inexact: ClassVar[bool] = True

    def run(self, program: Program) -> int:
        constants = constant_values(program)
        edits = 0
        for node in list(program.graph.nodes):
            if node in constants:
                continue
            if node.target is SYNC and self._is_wider(node):
                together = merge_syncs(program, [node])
            elif node.target is combined.merged_sync and "wire" not in node.kwargs:
                together = node
            else:
                continue
            together.kwargs = {**together.kwargs, "wire": self.wire}
            edits += 1
        return edits

    def _is_wider(self, sync: fx.Node) -> bool:
        dtype = sync.meta["val"].dtype
        return bool(dtype.is_floating_point) and dtype.itemsize > self.wire.itemsize
