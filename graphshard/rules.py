"""What a placement rule of your own needs; ``docs/rules.md`` explains how to write one.

::

    from graphshard.rules import Call, Placed, register_rule

    @register_rule(torch.ops.mylib.scale)
    def scale(call: Call) -> Placed:
        return call.values("x").plain()
"""

from graphshard.ir.placement import (
    Edges,
    Halo,
    Joined,
    Kept,
    Owned,
    Placed,
    Placement,
    Points,
    Rows,
    Size,
    replicated,
)
from graphshard.passes.infer.register_rule import register_rule
from graphshard.passes.infer.rules.call import Call, Rule, same_rows
from graphshard.passes.infer.rules.pointwise import broadcast_rows, pointwise

__all__ = [
    "Call",
    "Edges",
    "Halo",
    "Joined",
    "Kept",
    "Owned",
    "Placed",
    "Placement",
    "Points",
    "Rows",
    "Rule",
    "Size",
    "broadcast_rows",
    "pointwise",
    "register_rule",
    "replicated",
    "same_rows",
]
