"""Which values of a program are constants of the graph: the same in every step, until the data changes."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from graphshard.infer.emitter import Emitter
from graphshard.ir.placement import Edges, Halo, Owned, Placed, Rows
from graphshard.ir.program import Program
from graphshard.ir.value_numbers import is_random

aten = torch.ops.aten

ONCE = "once"
"""The key in a node's meta under which it is marked to be computed once for each graph."""

STEPWISE_INPUTS = frozenset({"dropout_key"})
"""The parts of a shard that change from step to step."""


def constant_values(program: Program) -> frozenset[fx.Node]:
    """The values that depend on nothing but the shard, constants and arguments without a gradient.

    An exchange of such values is one of them; random numbers, parameters and buffers are not.
    """
    found: set[fx.Node] = set()
    specs = {spec.name: spec for spec in program.inputs}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            spec = specs[node.name]
            if (
                spec.kind == "constant"
                or spec.constant
                or (spec.kind == "graph" and spec.target not in STEPWISE_INPUTS)
            ):
                found.add(node)
        elif node.op == "call_function" and not is_random(node) and found.issuperset(node.all_input_nodes):
            found.add(node)
    return frozenset(found)


def constants_first(program: Program) -> fx.Node:
    """Move the constants of the graph before everything else; the node that they now end before."""
    constants = constant_values(program)
    anchor: fx.Node = next(n for n in program.graph.nodes if n.op != "placeholder" and n not in constants)
    passed = False
    for node in list(program.graph.nodes):
        passed = passed or node is anchor
        if passed and node in constants and node.op != "placeholder":
            anchor.prepend(node)
    return anchor


def last_of(program: Program, *nodes: fx.Node) -> fx.Node:
    """The one that comes last in the program."""
    last: fx.Node = next(n for n in reversed(program.graph.nodes) if n in nodes)
    return last


def constant_size(emit: Emitter, rows: Rows, example: Any) -> fx.Node | None:
    """A constant of the graph that counts rows; None where nothing that comes earlier has these rows.

    Args:
        emit: inserts behind ``constants_first``'s constants. example: an example count.
    """
    program = emit.program
    ids = {Owned: "owned_ids", Halo: "node_ids", Edges: "edge_ids"}.get(type(rows))
    if ids is not None:
        of = (rows.name,) if isinstance(rows, Edges) else _names(rows)
        return _size(emit, program.placeholder(ids, *of), 0, example)
    constants = constant_values(program)
    for node in program.graph.nodes:
        placed = node.meta.get("placement")
        if node in constants and isinstance(placed, Placed) and rows in placed.dims:
            return _size(emit, node, placed.dims.index(rows), example)
    return None


def _names(rows: Rows) -> tuple[str, ...]:
    return (rows.nodes, rows.plan) if isinstance(rows, Halo) else (rows.nodes,)  # type: ignore[union-attr]


def _size(emit: Emitter, node: fx.Node, dim: int, example: Any) -> fx.Node:
    """``node.size(dim)``, once for each, directly behind ``node``."""
    size = next((u for u in node.users if u.target is aten.sym_size.int and u.args == (node, dim)), None)
    if size is None:
        with emit.after(node):
            return emit.call(aten.sym_size.int, node, dim, example=example)
    behind = node.next
    while behind.op == "placeholder":
        behind = behind.next
    if behind is not size:
        behind.prepend(size)
    return size
