"""Which part owns which node: METIS over all node sets at once, or what the user says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pymetis
import torch
from torch import Tensor

from graphshard.errors import PartitionError
from graphshard.graph.data import GraphData
from graphshard.graph.schema import NUMBERS
from graphshard.partitioning.adjacency import Ends, adjacency, counted

Method = str | Tensor | Mapping[str, Tensor] | Callable[..., Any]
"""``"metis"``; the part of each node; a function of edges, numbers of nodes and parts that gives it."""


def assign(graph: GraphData, num_parts: int, method: Method, seed: int) -> dict[str, Tensor]:
    """The part of every node: int64 ``[N]`` on the CPU for each node set, checked.

    Raises:
        PartitionError: there is no such method, or the assignment is not valid.
    """
    if isinstance(method, str):
        if method != "metis":
            raise PartitionError(
                f"there is no partition method {method!r}: use 'metis', a function or a tensor"
            )
        return metis_of(graph, num_parts, seed)
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
    return {name: _checked(found[name], name, count, num_parts) for name, count in counts.items()}


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


def metis_of(graph: GraphData, num_parts: int, seed: int) -> dict[str, Tensor]:
    """All node sets cut as one graph: the edges between them decide, and edges balance over all sets.

    Pairs to be scored add to the weight of their destination; they are not held together, for half of them are
    negative ones, drawn at random. METIS balances one weight (pymetis has no more), so that the parts of a
    single type may differ: the report says by how much.
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
    parts = _metis(union, total, num_parts, seed, weights)
    pieces = parts.split_with_sizes(list(graph.node_counts.values()))
    return {name: piece.clone() for name, piece in zip(graph.node_counts, pieces, strict=True)}


def metis(
    edge_index: Tensor, num_nodes: int, num_parts: int, seed: int = 0, weights: Tensor | None = None
) -> Tensor:
    """Part of each node by METIS: few cut edges, parts alike in their number of edges.

    Works on the graph made undirected, without self loops and parallel edges. A node weighs its in-degree
    + 1, because an edge is computed by its destination's part.

    Args:
        edge_index: int64 ``[2, E]``, ids below ``num_nodes``.
        num_nodes: N.
        num_parts: number of parts.
        seed: METIS' seed.
        weights: int64 ``[N]``, of the nodes; in-degree + 1 by default.

    Returns:
        int64 ``[N]``. With at least as many parts as nodes, every node is a part.
    """
    if weights is None:
        weights = torch.bincount(edge_index[1], minlength=num_nodes) + 1
    return _metis([Ends(edge_index)], num_nodes, num_parts, seed, weights)


def _metis(edges: Sequence[Ends], num_nodes: int, num_parts: int, seed: int, weights: Tensor) -> Tensor:
    if num_parts == 1:
        return torch.zeros(num_nodes, dtype=torch.int64)
    if num_parts >= num_nodes:  # METIS complains on stdout about graphs this small
        return torch.arange(num_nodes)
    starts, neighbours = adjacency(edges, num_nodes)
    if neighbours.numel() == 0:
        return torch.arange(num_nodes) * num_parts // num_nodes
    graph = pymetis.CSRAdjacency(starts.numpy(), neighbours.numpy())  # int64: taken without a copy
    options = pymetis.Options(seed=seed)
    _, parts = pymetis.part_graph(num_parts, graph, vweights=weights.numpy(), options=options)
    return torch.from_numpy(np.array(parts, dtype=np.int64))
