"""What a value is computed from, whatever its nodes are called: to merge duplicates and to compare programs."""

from __future__ import annotations

import heapq
from itertools import pairwise
from typing import Any

import torch
from torch import fx

from graphshard.ir.program import Program
from graphshard.private import pytree

Table = dict[Any, int]
"""A number for each way to compute something; shared between the programs that are compared."""


def structure_of(program: Program, table: Table | None = None) -> dict[fx.Node, int]:
    """A number for each value: equal where both are the same calls of the same inputs."""
    numbers: Table = {} if table is None else table
    found: dict[fx.Node, int] = {}
    specs = {spec.name: spec for spec in program.inputs}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            spec = specs[node.name]
            key: Any = ("input", spec.kind, spec.target, spec.of)
        else:
            leaves, structure = pytree.tree_flatten((node.args, node.kwargs), is_leaf=_is_node)
            own = node.name if is_random(node) else ""
            key = (str(node.target), str(structure), own, tuple(_leaf(v, found) for v in leaves))
        found[node] = numbers.setdefault(key, len(numbers))
    return found


def _is_node(value: Any) -> bool:
    return isinstance(value, fx.Node)


def _leaf(value: Any, found: dict[fx.Node, int]) -> Any:
    return ("node", found[value]) if isinstance(value, fx.Node) else (type(value).__name__, repr(value))


def same_programs(a: Program, b: Program) -> bool:
    """Whether two programs return the same calls of the same inputs."""
    table: Table = {}
    one, other = (structure_of(p, table)[p.output_node()] for p in (a, b))
    return one == other


def merge_duplicates(program: Program) -> None:
    """One node for calls that compute the same; random calls stay apart."""
    first: dict[int, fx.Node] = {}
    for node, number in structure_of(program).items():
        if node.op != "call_function" or is_random(node):
            continue
        known = first.setdefault(number, node)
        if known is not node:
            node.replace_all_uses_with(known)
            program.graph.erase_node(node)


def restore_order(program: Program) -> None:
    """Put every call behind its arguments, and otherwise as early as it stood."""
    order = {node: i for i, node in enumerate(program.graph.nodes)}
    waiting = {node: len(node.all_input_nodes) for node in order}
    ready = [i for node, i in order.items() if not waiting[node]]
    nodes, placed = list(order), list[fx.Node]()
    heapq.heapify(ready)
    while ready:
        node = nodes[heapq.heappop(ready)]
        placed.append(node)
        for user in node.users:
            waiting[user] -= 1
            if not waiting[user]:
                heapq.heappush(ready, order[user])
    for before, after in pairwise(placed):
        before.append(after)


def is_random(node: fx.Node) -> bool:
    """Whether two calls with the same arguments give different values."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
