"""``"rcb"``: recursive coordinate bisection, for points in space that read points nearby."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphshard.errors import PartitionError
from graphshard.partitioning.problem import Problem


def assign(problem: Problem) -> Tensor:
    """The part of each node, int64 ``[N]``: space is cut across its longest side, again and again; edges are not read.

    Raises:
        PartitionError: the data has no positions, or one is not finite.
    """
    if problem.positions is None:
        raise PartitionError(
            "the partition method 'rcb' cuts space, and the data has no positions: pass positions= with the name of a "
            "node tensor that holds them, or use method='metis'"
        )
    points, weights = problem.positions.numpy(), problem.weights.numpy()
    if not np.isfinite(points).all():
        node = int(np.argwhere(~np.isfinite(points).all(axis=1))[0, 0])
        raise PartitionError(
            f"the position of node {node} is not finite: correct it, or use method='metis', which reads no positions"
        )
    parts = np.zeros(problem.num_nodes, np.int64)
    _bisect(points, weights, parts, np.arange(problem.num_nodes), problem.num_parts, 0)
    return torch.from_numpy(parts)


def _bisect(points: Any, weights: Any, parts: Any, nodes: Any, count: int, first: int) -> None:
    """Give the nodes to the parts ``first..first+count-1``, in equal shares of their weight."""
    if count == 1 or nodes.size == 0:
        parts[nodes] = first
        return
    mine = points[nodes]
    longest = int(np.argmax(mine.max(axis=0) - mine.min(axis=0)))
    order = nodes[np.argsort(mine[:, longest], kind="stable")]
    upto, half = np.cumsum(weights[order]), count // 2
    # The node at the border goes to where it exceeds the share less.
    at = int(np.searchsorted(upto - weights[order] / 2, upto[-1] * half / count))
    _bisect(points, weights, parts, order[:at], half, first)
    _bisect(points, weights, parts, order[at:], count - half, first + half)
