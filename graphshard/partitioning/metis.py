"""``"metis"``: few cut edges, parts alike in their number of edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pymetis
import torch
from torch import Tensor

from graphshard.partitioning.adjacency import Ends, adjacency
from graphshard.partitioning.problem import Problem


def assign(problem: Problem) -> Tensor:
    """The part of each node, int64 ``[N]``: METIS on the graph made undirected, as it is by default."""
    starts, neighbours = adjacency(problem.edges, problem.num_nodes)
    weights = problem.weights.numpy()
    return torch.from_numpy(run(starts.numpy(), neighbours.numpy(), weights, problem.num_parts, problem.seed))


def run(
    starts: Any,
    neighbours: Any,
    weights: Any,
    num_parts: int,
    seed: int,
    edge_weights: Any = None,
    k_way: bool | None = None,
) -> Any:
    """METIS on rows of neighbours; arrays are NumPy's int64, which it takes without a copy.

    Args:
        starts: ``[N + 1]``. neighbours: ``[starts[N]]``, symmetric.
        weights: ``[N]``, of the nodes. edge_weights: of the neighbours; 1 each by default.
        num_parts: k, below N.
        seed: METIS' seed.
        k_way: into all parts at once, or by halves; by halves up to 8 parts by default.

    Returns:
        int64 ``[N]``, the part of each node.
    """
    if neighbours.size == 0:
        return np.arange(weights.size) * num_parts // weights.size
    _, parts = pymetis.part_graph(
        num_parts,
        pymetis.CSRAdjacency(starts, neighbours),
        vweights=weights,
        eweights=edge_weights,
        recursive=None if k_way is None else not k_way,
        options=pymetis.Options(seed=seed),
    )
    return np.array(parts, dtype=np.int64)


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
    problem = Problem((Ends(edge_index),), num_nodes, num_parts, weights, seed)
    trivial = without_choice(problem)
    return assign(problem) if trivial is None else trivial


def without_choice(problem: Problem) -> Tensor | None:
    """The parts where there is nothing to choose: one part, or at least as many as nodes; None otherwise."""
    if problem.num_parts == 1:
        return torch.zeros(problem.num_nodes, dtype=torch.int64)
    if problem.num_parts >= problem.num_nodes:  # METIS complains on stdout about graphs this small
        return torch.arange(problem.num_nodes)
    return None
