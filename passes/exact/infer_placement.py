"""infer_placement: what the rows of every value mean on a rank, by one rule for each op.

Before::  h = linear(x, W)
After::   h = linear(x, W)                 # x: Owned, so h: Owned

An op without a rule, or a placement that no rule accepts, is refused with its module and line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphshard.infer.placement import place_all
from graphshard.ir.program import Program


@dataclass(frozen=True)
class InferPlacement:
    """Store each node's placement in ``node.meta["placement"]``; counts the nodes whose placement changed."""

    name: ClassVar[str] = "infer_placement"

    def run(self, program: Program) -> int:
        return place_all(program)
