"""fold_scales: a constant factor of each row becomes part of the weights of the edges that are summed into it.

Before::  out = weighted_sum(x, None, A) / degree            # a mean: a pass over all rows
After::   w = row_weights(None, degree, A, "divide")         # once for each graph
          out = weighted_sum(x, w, A)

Sums are rounded in another way: every term is scaled instead of their sum.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from graphshard.catalogue.call import shape_of
from graphshard.infer.constants import constant_values, last_of
from graphshard.infer.emitter import Emitter
from graphshard.infer.match import call, matches
from graphshard.ir.placement import Owned
from graphshard.ir.program import Program
from graphshard.ops import aggregation
from graphshard.passes.faster.patterns import rows_of, spread

aten = torch.ops.aten


@dataclass(frozen=True)
class FoldScales:
    """Fold each product with, or division by, a constant of each row; counts them."""

    name: ClassVar[str] = "fold_scales"

    def run(self, program: Program) -> int:
        edits, constants = 0, set(constant_values(program))
        for node in list(program.graph.nodes):
            found = _scaled(node, constants)
            if found is None:
                continue
            total, scale, how = found
            table, weight, structure = total.args
            emit = Emitter(program, node)
            sources = [n for n in (weight, structure, scale) if isinstance(n, fx.Node)]
            with emit.after(last_of(program, *sources)):
                example = scale.meta["val"] if weight is None else weight.meta["val"]  # type: ignore[union-attr]
                weights = emit.call(aggregation.row_weights, weight, scale, structure, how, example=example)
            constants.add(weights)
            with emit.before(node):
                made = emit.call(
                    aggregation.weighted_sum, table, weights, structure, example=node.meta["val"]
                )
            node.replace_all_uses_with(made)
            program.graph.erase_node(node)
            edits += 1
        program.graph.eliminate_dead_code()
        return edits


_SUM = call(aggregation.weighted_sum, "table", "weight", "structure", name="sum")
_SCALED = {
    "divide": call(aten.div.Tensor, _SUM, "factor"),
    "multiply": call(aten.mul.Tensor, _SUM, "factor", commutes=True),
}


def _scaled(node: fx.Node, constants: Collection[fx.Node]) -> tuple[fx.Node, fx.Node, str] | None:
    """The sum that a call scales, the scale of each row, and whether it multiplies or divides."""
    for how, pattern in _SCALED.items():
        for found in matches(pattern, node):
            total, weight, factor = found["sum"], found["weight"], found["factor"]
            scale = spread(factor)
            known = scale is not None and scale in constants and (weight is None or weight in constants)
            wide = isinstance(factor, fx.Node) and len(shape_of(factor)) == len(shape_of(total))
            if not known or not wide or len(total.users) != 1 or not isinstance(rows_of(total), Owned):
                continue
            if rows_of(scale) == rows_of(total):
                assert scale is not None
                return total, scale, how
    return None
