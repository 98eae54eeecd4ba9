"""What the rows of every value mean on a rank.

Walks the program once, from the placements of its inputs, with one rule for each family of ops. An op
without a rule, or a placement that no rule accepts, is an error that names the op, the module and the line:
nothing is ever run locally in the hope that it is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import fx

from graphshard.catalogue import whole
from graphshard.catalogue.call import Call, Placements, mirrored
from graphshard.catalogue.edits import AllReduce, Edit, GlobalIds, HaloReduce, Rewrite
from graphshard.catalogue.table import find_rule
from graphshard.errors import PlacementError
from graphshard.ir.placement import Placed, Placement
from graphshard.ir.program import Program


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
            _read_outputs(node, found, program.local_numbers)
        else:
            found.placements[node] = _infer_call(node, found.placements, found.edits)
    found.edits = list(dict.fromkeys(found.edits))
    return found


def place_all(program: Program) -> int:
    """Place every node by what comes before it; how many placements changed.

    Raises:
        UnsupportedOperation: an op cannot be distributed exactly.
    """
    changed = 0
    for node, placement in infer(program).placements.items():
        changed += node.meta.get("placement") != placement
        node.meta["placement"] = placement
    return changed


def rewrites(program: Program, kind: type[Rewrite]) -> Iterator[Call]:
    """The calls that ask for a rewrite of this kind, each to be rewritten before the next is looked for.

    One walk in the order of the program, in which every call is placed by what comes before it: what a rewrite
    leaves in place of a call is walked next, so nothing is inferred twice. Where there was something to rewrite a
    second walk follows, for what a rewrite put further up.
    """
    done: set[fx.Node] = set()
    asked = True
    while asked:
        asked = False
        node = next(iter(program.graph.nodes))
        while node.op != "output":
            before = node.prev
            if node.op == "call_function" and _asks(node, kind):
                assert node not in done, f"{node.name} was not rewritten"
                done.add(node)
                asked = True
                yield Call(node, STORED, [])
                node = before
            node = node.next


def _asks(node: fx.Node, kind: type[Rewrite]) -> bool:
    """Place a call; whether it asks for such a rewrite."""
    edits: list[Edit] = []
    node.meta["placement"] = _infer_call(node, STORED, edits)
    return any(isinstance(edit, kind) and edit.node is node for edit in edits)


class _Stored:
    def __getitem__(self, node: fx.Node) -> Placement:
        return node.meta["placement"]  # type: ignore[no-any-return]


STORED = _Stored()
"""Every node's own placement, where a program is placed."""


def place(node: fx.Node) -> Placement:
    """The placement of a call, by the rule of its op and those that its arguments carry.

    Raises:
        UnsupportedOperation: the rule refuses them.
    """
    return _infer_call(node, STORED, [])


def _infer_call(node: fx.Node, placements: Placements, edits: list[Edit]) -> Placement:
    call = Call(node, placements, edits)
    rule = find_rule(node.target) or whole.find(node, placements) if node.op == "call_function" else None
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


def _read_outputs(node: fx.Node, found: Inference, local_numbers: bool) -> None:
    for value in node.all_input_nodes:
        placement = found.placements[value]
        if isinstance(placement, Placed) and placement.partial:
            found.edits.append(AllReduce(value, placement.partial))
        if isinstance(placement, Placed) and placement.mirror:
            found.edits.append(HaloReduce(value, placement.mirror, mirrored(placement)))
        if isinstance(placement, Placed) and placement.points is not None and not local_numbers:
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
