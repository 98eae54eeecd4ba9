"""What a placement rule of your own needs; ``docs/rules.md`` explains how to write one.

::

    from graphshard.rules import Call, Placed, register_rule

    @register_rule(torch.ops.mylib.scale)
    def scale(call: Call) -> Placed:
        return call.values("x").plain()
"""

from graphshard.catalogue.call import Call, same_rows
from graphshard.catalogue.pointwise import broadcast_rows, pointwise
from graphshard.catalogue.record import Rule
from graphshard.catalogue.register import register_rule
from graphshard.ir.placement import (
    Edges,
    Given,
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

__all__ = [
    "Call",
    "Edges",
    "Given",
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
