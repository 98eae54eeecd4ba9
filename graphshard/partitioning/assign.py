"""Which part owns which node: a method over all node sets at once, or what the user says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphshard.errors import PartitionError
from graphshard.graph.data import GraphData
from graphshard.graph.roles import Role
from graphshard.graph.schema import NUMBERS
from graphshard.partitioning.adjacency import Ends, counted
from graphshard.partitioning.methods import AUTO, METHODS, choose
from graphshard.partitioning.metis import without_choice
from graphshard.partitioning.problem import Problem

Method = str | Tensor | Mapping[str, Tensor] | Callable[..., Any]
"""The name of a method; the part of each node; a function of edges, numbers of nodes and parts that gives it."""


@dataclass(frozen=True, eq=False)
class Assigned:
    """Who owns which node.

    Attributes:
        parts: of each node set int64 ``[N]`` on the CPU, the part of every node.
        method: what decided; "given" for what the user gave.
        why: of "auto", why it chose that method.
    """

    parts: dict[str, Tensor]
    method: str = "given"
    why: str = ""


def assign(graph: GraphData, num_parts: int, method: Method, seed: int) -> dict[str, Tensor]:
    """The part of every node: int64 ``[N]`` on the CPU for each node set, checked.

    Raises:
        PartitionError: there is no such method, or the assignment is not valid.
    """
    return decide(graph, num_parts, method, seed).parts


def decide(
    graph: GraphData, num_parts: int, method: Method, seed: int, positions: str | None = None
) -> Assigned:
    """As :func:`assign`, and what decided.

    Args:
        graph, num_parts, method, seed: as of :func:`graphshard.partition`.
        positions: the name of the node tensor that holds positions; ``pos`` by default, where there is one.
    """
    if isinstance(method, str):
        return _by_name(graph, num_parts, method, seed, positions)
    indices = {e.name: graph.edges(e.name).cpu() for e in graph.schema.edges if e.plan != NUMBERS}
    counts = graph.node_counts
    found: Any = method
    if graph.schema.homogeneous:
        if callable(method):
            found = method(indices[""], counts[""], num_parts)
        found = {"": found}
    elif callable(method):
        found = method(indices, counts, num_parts)
    if not isinstance(found, Mapping) or found.keys() != counts.keys():
        names = ", ".join(map(repr, counts))
        raise PartitionError(f"the assignment must be a dict with the part ids of each node type: {names}")
    return Assigned({name: _checked(found[name], name, count, num_parts) for name, count in counts.items()})


def _checked(found: Any, name: str, count: int, num_parts: int) -> Tensor:
    of = f" of {name!r}" if name else ""
    if not isinstance(found, Tensor) or found.dtype != torch.int64 or tuple(found.shape) != (count,):
        what = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise PartitionError(f"the assignment{of} must be an int64 tensor of {count} part ids, not {what}")
    found = found.detach().cpu()
    outside = ((found < 0) | (found >= num_parts)).nonzero()
    if outside.numel() > 0:
        node = int(outside[0])
        raise PartitionError(
            f"node {node}{of} is assigned to part {int(found[node])}, but parts are 0..{num_parts - 1}"
        )
    checked: Tensor = found.clone()
    return checked


def _by_name(graph: GraphData, num_parts: int, method: str, seed: int, positions: str | None) -> Assigned:
    """All node sets cut as one graph: the edges between them decide, and edges balance over all sets.

    METIS balances one weight (pymetis has no more), so that the parts of a single type may differ: the report says by
    how much.
    """
    if method != AUTO and method not in METHODS:
        known = ", ".join(map(repr, (*METHODS, AUTO)))
        raise PartitionError(f"there is no partition method {method!r}: use {known}, a function or a tensor")
    problem, why = _problem(graph, num_parts, seed, positions), ""
    if method == AUTO:
        method, why = choose(problem)
    found = without_choice(problem)
    parts = METHODS[method](problem) if found is None else found
    pieces = parts.split_with_sizes(list(graph.node_counts.values()))
    named = {name: piece.clone() for name, piece in zip(graph.node_counts, pieces, strict=True)}
    return Assigned(named, method, why)


def _problem(graph: GraphData, num_parts: int, seed: int, positions: str | None) -> Problem:
    """The graph with its node sets numbered together.

    Pairs to be scored add to the weight of their destination; they are not held together, for half of them are
    negative ones, drawn at random.
    """
    starts, total = {}, 0
    for name, count in graph.node_counts.items():
        starts[name] = total
        total += count
    union, weights = [], torch.ones(total, dtype=torch.int64)
    for edge_set in graph.schema.edges:
        if edge_set.plan == NUMBERS:
            continue
        index = graph.edges(edge_set.name).cpu()
        ends = Ends(index, starts[edge_set.source], starts[edge_set.destination])
        weights += counted(index[1], ends.destination, total)
        if edge_set in graph.schema.messages:
            union.append(ends)
    return Problem(tuple(union), total, num_parts, weights, seed, _positions(graph, positions))


_USUAL = "pos"
"""PyG's name of the positions of nodes."""


def _positions(graph: GraphData, given: str | None) -> Tensor | None:
    """Where all nodes are, float64 ``[N, D]``; None where nobody said so and the data has no ``pos`` of all of them."""
    name, found = given or _USUAL, []
    for nodes, count in graph.node_counts.items():
        tensor = name if graph.schema.homogeneous else _of_type(graph, name, nodes)
        member = graph.members.get(tensor)
        if member is None or member.role is not Role.NODE:
            if given is None:
                return None
            of = f" of {nodes!r}" if nodes else ""
            raise PartitionError(
                f"positions={given!r} names no tensor with a row for each node{of}: the data has "
                f"{', '.join(graph.tensors)}"
            )
        value = graph.tensors[tensor].detach().cpu()
        if value.is_complex():
            raise PartitionError(
                f"positions={name!r} are complex: pass real and imaginary part as two columns"
            )
        found.append(value.to(torch.float64).reshape(count, -1))
    if len({one.size(1) for one in found}) > 1:
        raise PartitionError(
            f"positions={name!r} have {' and '.join(str(one.size(1)) for one in found)} coordinates in different node "
            "types: give all nodes as many"
        )
    return torch.cat(found)


def _of_type(graph: GraphData, name: str, nodes: str) -> str:
    """The name of the tensor that ``name`` is of one node type."""
    wanted = (f"{name}_dict", nodes)
    return next((tensor for tensor, path in graph.paths.items() if path == wanted), "")
