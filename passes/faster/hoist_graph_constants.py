"""hoist_graph_constants: what depends on the graph alone is computed once for each graph, not in every step.

Before::  A = edge_structure(dst, src, n, n + h); w = ...; ax = weighted_sum(halo_sync(x), w, A); y = linear(ax, W)
After::   the same, with A, w, the sync and ax marked as constants; every step runs only ``y = linear(ax, W)``

Self loops, degrees, normalisations, sorted edges, and what is computed from features that need no gradient, syncs
included, are such constants. ``graphshard.execute.constants`` keeps their values as long as the data stays the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from graphshard.catalogue.record import Trait
from graphshard.catalogue.table import has_trait
from graphshard.infer.constants import ONCE, constant_values, constants_first
from graphshard.ir.program import Program


@dataclass(frozen=True)
class HoistGraphConstants:
    """Mark each constant of the graph; counts them."""

    name: ClassVar[str] = "hoist_graph_constants"

    def run(self, program: Program) -> int:
        constants_first(program)
        constants = constant_values(program)
        marked = 0
        for node in program.graph.nodes:
            once = node in constants and node.op == "call_function" and not _is_cheap(node, constants)
            marked += once and not node.meta.get(ONCE, False)
            if once:
                node.meta[ONCE] = True
        return marked


def _is_cheap(node: fx.Node, constants: frozenset[fx.Node]) -> bool:
    """A fill that only a step reads: memory that is better taken when it is needed."""
    return has_trait(node, Trait.CONSTANT) and constants.isdisjoint(node.users)
