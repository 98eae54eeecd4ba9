"""The rewriting that most passes do: one call after the other, each by what it is made of."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from graphshard.catalogue.call import Call
from graphshard.catalogue.edits import Rewrite
from graphshard.infer.emitter import Emitter
from graphshard.infer.placement import rewrites
from graphshard.ir.program import Program, replace_results

Make = Callable[[Emitter, Call], fx.Node | tuple[fx.Node, ...]]
"""Makes what takes a call's place, in front of it: a value for each that the call returns."""


def rewrite_each(program: Program, kind: type[Rewrite], make: Make) -> int:
    """Rewrite every call that asks for a rewrite of this kind; how many there were."""
    edits = 0
    for call in rewrites(program, kind):
        rewrite(program, call, make)
        edits += 1
    return edits


def rewrite(program: Program, call: Call, make: Make) -> None:
    """Put what ``make`` makes in the place of one call."""
    emit = Emitter(program, call.node)
    with emit.before(call.node):
        results = make(emit, call)
    replace_results(call.node, results)
