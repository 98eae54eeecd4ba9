"""``"metis-volume"``: METIS, told what it costs to cut an edge of a directed graph; then fewer halo rows, exactly.

A node that many read has a halo row in each part that reads it, however many edges lead there. So an edge weighs
``outdegree(source) ** -0.5``: METIS, which counts cut edges, then comes closer to what is sent (the communication
volume). The refinement counts rows: it knows how many nodes of each part read each node.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphshard.partitioning import metis
from graphshard.partitioning.adjacency import READERS, READS, adjacency, narrow_rows
from graphshard.partitioning.compiled import loops_for
from graphshard.partitioning.problem import Problem

_SCALE = 1000.0  # METIS takes whole numbers
_SWEEPS, _ENOUGH = 8, 1e-4


def assign(problem: Problem) -> Tensor:
    """The part of each node, int64 ``[N]``.

    Raises:
        PartitionError: numba is not there.
    """
    compiled = loops_for("metis-volume")
    nodes, weights = problem.num_nodes, problem.weights.numpy()
    reader_starts, readers = narrow_rows(problem.edges, nodes, READERS)
    reads_starts, reads = narrow_rows(problem.edges, nodes, READS)
    starts, neighbours = (part.numpy() for part in adjacency(problem.edges, nodes))
    scale = _SCALE * np.maximum(np.diff(reader_starts), 1) ** -0.5
    edge_weights = np.empty(neighbours.size, np.int64)
    compiled.weigh_edges(
        starts, neighbours, reader_starts, readers, reads_starts, reads, scale, edge_weights, 0, nodes
    )
    found = metis.run(starts, neighbours, weights, problem.num_parts, problem.seed, edge_weights, k_way=True)
    del starts, neighbours, edge_weights
    parts = found.astype(np.int32)
    needs = np.zeros(nodes * problem.num_parts, np.int32)
    compiled.count_needs(reader_starts, readers, parts, problem.num_parts, needs, 0, nodes)
    loads = np.zeros(problem.num_parts, np.int64)
    np.add.at(loads, parts, weights)
    gains, moved = np.empty(problem.num_parts, np.int32), np.zeros(1, np.int64)
    for _ in range(_SWEEPS):
        moved[0] = 0
        compiled.refine_volume(
            reads_starts, reads, weights, parts, loads, problem.bound, needs, gains, moved, 0, nodes
        )
        if moved[0] < _ENOUGH * nodes:
            break
    return torch.from_numpy(parts.astype(np.int64))
