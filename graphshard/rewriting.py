"""What a pass of your own needs; ``docs/passes.md`` explains how to write one.

::

    @dataclass(frozen=True)
    class FuseSilu:
        name: str = "fuse_silu"

        def run(self, program: Program) -> int: ...

    graphshard.distribute(model, passes=[FuseSilu()])
"""

from graphshard.infer.emitter import Emitter
from graphshard.ir.placement import Edges, Halo, Owned, Placed, Placement, replicated
from graphshard.ir.program import Pass, Program, replace_results

__all__ = [
    "Edges",
    "Emitter",
    "Halo",
    "Owned",
    "Pass",
    "Placed",
    "Placement",
    "Program",
    "replace_results",
    "replicated",
]
