"""preaggregate_halo_rows: for a sum, ranks send rows or sums of rows, whichever are fewer.

Before::  out = streamed_sum(x, w, scale, A, N)                       # every foreign row that an edge reads travels
After::   P = preaggregation(w, A)                                    # once for each graph
          out = streamed_sum(x, None, scale, P, N)                    # a minimum vertex cover of rows and sums does

Where the weights of a streamed sum are constants of the graph, so that the rank that owns a source can be told them
once. Each pair of ranks decides by its own edges, and sends rows alone where little is saved. Terms are added in
another order.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import fx

from graphshard.infer.constants import constant_values, last_of
from graphshard.infer.emitter import Emitter
from graphshard.ir.program import Program
from graphshard.ir.reason import because
from graphshard.ops import streamed
from graphshard.ops.preaggregation import preaggregation
from graphshard.passes.faster.cost_model import Speeds


@dataclass(frozen=True)
class PreaggregateHaloRows:
    """Let each streamed sum get sums as well as rows; counts them."""

    speeds: Speeds = field(default_factory=Speeds)
    name: ClassVar[str] = "preaggregate_halo_rows"

    def run(self, program: Program) -> int:
        edits, made = 0, dict[Any, fx.Node]()
        constants = constant_values(program)
        for node in list(program.graph.nodes):
            if node.target is streamed.streamed_sum and _is_known(node, constants):
                _preaggregate(program, node, made, self.speeds.terms_of_a_row)
                edits += 1
        return edits


def _is_known(node: fx.Node, constants: Collection[fx.Node]) -> bool:
    """Whether the weights and scales of a sum are constants of the graph, and its edges are all its own."""
    _, weight, scale, structure, *_ = node.args
    given = [n for n in (weight, scale, structure) if isinstance(n, fx.Node)]
    return all(n in constants and n.target is not preaggregation for n in given)


def _preaggregate(program: Program, node: fx.Node, made: dict[Any, fx.Node], terms_of_a_row: float) -> None:
    """Sums over the same edges with the same weights have one preaggregation, which ``made`` keeps."""
    x, weight, scale, structure, *plan, num_nodes = node.args
    key = (weight, structure, plan[0])
    emit = Emitter(program, node)
    if key not in made:
        sources = [n for n in (weight, structure) if isinstance(n, fx.Node)]
        with emit.after(last_of(program, *sources)):
            made[key] = emit.call(preaggregation, weight, structure, *plan, terms_of_a_row)
        because(made[key], "the weights are known, so the owner of a source can make a part of a sum itself")
    node.args = (x, None, scale, made[key], *plan, num_nodes)
