"""infer_placement: what the rows of every value mean on a rank.

Walks the program once, from the placements of its inputs, with one rule for each family of ops. An op
without a rule, or a placement that no rule accepts, is an error that names the op, the module and the line:
nothing is ever run locally in the hope that it is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import fx

from graphshard.errors import PlacementError
from graphshard.ir.placement import Placed, Placement
from graphshard.ir.program import Program
from graphshard.passes.infer.rules import find_rule, whole
from graphshard.passes.infer.rules.call import AllReduce, Call, Edit, GlobalIds, HaloReduce, Rewrite, mirrored


@dataclass
class Inference:
    """The placement of every node, and the edits that are still needed to make them true."""

    placements: dict[fx.Node, Placement] = field(default_factory=dict)
    edits: list[Edit] = field(default_factory=list)


def infer(program: Program) -> Inference:
    """Placements and outstanding edits of a program whose placeholders are placed.

    Raises:
        UnsupportedOperation: an op cannot be distributed exactly.
    """
    found = Inference()
    for node in program.graph.nodes:
        if node.op == "placeholder":
            found.placements[node] = node.meta["placement"]
        elif node.op == "output":
            _read_outputs(node, found)
        else:
            found.placements[node] = _infer_call(node, found)
    found.edits = list(dict.fromkeys(found.edits))
    return found


def rewrites(program: Program, family: str) -> Iterator[Call]:
    """The rewrites of a family that are asked for, one after the other, each to be done before the next.

    Placements are inferred anew for each: what one is made of may be what the one before left.
    """
    done: set[fx.Node] = set()
    while True:
        found = infer(program)
        asked = (e.node for e in found.edits if isinstance(e, Rewrite) and e.family == family)
        node = next(asked, None)
        if node is None:
            return
        assert node not in done, f"{node.name} was not rewritten"
        done.add(node)
        yield Call(node, found.placements, [])


def _infer_call(node: fx.Node, found: Inference) -> Placement:
    call = Call(node, found.placements, found.edits)
    rule = (
        find_rule(node.target) or whole.find(node, found.placements) if node.op == "call_function" else None
    )
    if rule is None:
        call.refuse(
            "has no placement rule, so it cannot be proved to be exact on several ranks",
            "write this step with ops that have one, or add a rule for it",
        )
    placement = rule(call)
    if isinstance(placement, Placed) and len(placement.sharded) > 1:
        call.refuse(
            "spreads two different row sets over two dims (an all-pairs tensor)",
            "score only the pairs that the graph has edges for",
        )
    for missed in call.unseen():
        call.refuse(f"has a rule that does not look at its argument {missed.name}")
    return placement


def _read_outputs(node: fx.Node, found: Inference) -> None:
    for value in node.all_input_nodes:
        placement = found.placements[value]
        if isinstance(placement, Placed) and placement.partial:
            found.edits.append(AllReduce(value, placement.partial))
        if isinstance(placement, Placed) and placement.mirror:
            found.edits.append(HaloReduce(value, placement.mirror, mirrored(placement)))
        if isinstance(placement, Placed) and placement.points is not None:
            # The user reads node numbers as the single machine gives them.
            found.edits.append(GlobalIds(value, node))


def check_placed(program: Program) -> None:
    """Make sure that no edit is outstanding: the last thing the pipeline of a distributed program does.

    Raises:
        PlacementError: a pass left a value that some rank would compute wrongly.
    """
    left = infer(program).edits
    if left:
        raise PlacementError(f"the passes left {len(left)} edits undone, the first is {left[0]}")


@dataclass(frozen=True)
class InferPlacement:
    """Store each node's placement in ``node.meta["placement"]``; counts the nodes whose placement changed."""

    name: str = "infer_placement"

    def run(self, program: Program) -> int:
        changed = 0
        for node, placement in infer(program).placements.items():
            changed += node.meta.get("placement") != placement
            node.meta["placement"] = placement
        return changed
