"""``"multilevel"``: clusters by label propagation, METIS on the graph of clusters, refinement of the cut.

It takes a few bytes for each end of an edge where METIS takes 82, and it reads the neighbours a block of nodes at a
time, from start to end: they may lie in a file. Nothing is drawn but by METIS, and every sweep is one thread's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from graphshard.errors import PartitionError
from graphshard.partitioning import metis
from graphshard.partitioning.adjacency import narrow_rows
from graphshard.partitioning.compiled import loops_for
from graphshard.partitioning.problem import Problem, weight_bound

_CLUSTERS = 24  # of each part, at least: METIS has something left to choose
_JOINING, _REFINING, _ENOUGH = 4, 5, 1e-4
_EACH_SLOT = 160  # bytes: of a slot before the table doubles, and of what METIS makes of it then


@dataclass(frozen=True)
class Block:
    """Rows of the nodes ``first..last-1``: ``neighbours``, of which entry 0 has number ``base`` among all."""

    first: int
    last: int
    base: int
    neighbours: Any


class Rows(Protocol):
    """The neighbours of all nodes: each once, no node its own."""

    @property
    def starts(self) -> Any:
        """int64 ``[N + 1]``, NumPy's: where each node's row begins."""

    def blocks(self) -> Iterator[Block]:
        """All rows in the order of the nodes."""


@dataclass(frozen=True)
class RowsInMemory:
    """One block of all rows."""

    starts: Any
    neighbours: Any

    def blocks(self) -> Iterator[Block]:
        """The one block."""
        yield Block(0, self.starts.size - 1, 0, self.neighbours)


def assign(problem: Problem) -> Tensor:
    """The part of each node, int64 ``[N]``.

    Raises:
        PartitionError: numba is not there.
    """
    loops_for("multilevel")
    rows = RowsInMemory(*narrow_rows(problem.edges, problem.num_nodes))
    weights = problem.weights.numpy()
    labels = join(rows, weights, problem.num_parts)
    parts = cut(rows, weights, labels, problem.num_parts, problem.seed)
    refine(rows, weights, parts, problem.num_parts)
    return torch.from_numpy(parts.astype(np.int64))


def join(rows: Rows, weights: Any, num_parts: int) -> Any:
    """The cluster of each node: int32 ``[N]``, numbered 0, 1, ... in the order of their first nodes.

    Args:
        rows: of neighbours.
        weights: int64 ``[N]``, of the nodes.
        num_parts: k; no cluster weighs more than a small share of a part.
    """
    compiled, nodes = loops_for("multilevel"), weights.size
    labels, sizes = np.arange(nodes, dtype=np.int32), weights.copy()
    tally, seen = np.zeros(nodes, np.int32), np.empty(nodes, np.int32)
    largest = max(int(weights.sum()) // (num_parts * _CLUSTERS), int(weights.max()))
    moved, count = np.zeros(1, np.int64), np.zeros(1, np.int64)
    for _ in range(_JOINING):
        moved[0] = 0
        for block in rows.blocks():
            compiled.join_clusters(
                rows.starts,
                block.neighbours,
                block.base,
                weights,
                labels,
                sizes,
                largest,
                tally,
                seen,
                moved,
                block.first,
                block.last,
            )
        if moved[0] < _ENOUGH * nodes:
            break
    seen[:] = -1
    compiled.number_clusters(labels, seen, count, 0, nodes)
    if count[0] <= num_parts:  # a graph this small needs no clusters
        labels[:] = np.arange(nodes)
    return labels


def cut(rows: Rows, weights: Any, labels: Any, num_parts: int, seed: int, most: int | None = None) -> Any:
    """The part of each node by METIS on the graph of clusters: int32 ``[N]``.

    Args:
        rows, weights: as of :func:`join`. labels: what it gave.
        num_parts: k. seed: METIS' seed.
        most: bytes that the edges between clusters may take.

    Raises:
        PartitionError: they take more.
    """
    clusters = int(labels.max()) + 1
    starts, neighbours, counts = _between(rows, labels, clusters, most)
    sizes = np.zeros(clusters, np.int64)
    np.add.at(sizes, labels, weights)
    found = metis.run(starts, neighbours, sizes, num_parts, seed, counts)
    parts: Any = found.astype(np.int32)[labels]
    return parts


def _between(rows: Rows, labels: Any, clusters: int, most: int | None) -> tuple[Any, Any, Any]:
    """Starts, neighbours and numbers of edges of the graph of clusters, int64."""
    keys, counts = _counted_pairs(rows, labels, clusters, most)
    # Each pair once more, from its smaller cluster.
    both = np.empty(2 * keys.size, np.int64)
    both[: keys.size] = keys
    both[keys.size :] = keys % clusters * clusters + keys // clusters
    del keys
    order = np.argsort(both)
    both = both[order]
    order %= counts.size or 1
    sorted_counts = counts[order].astype(np.int64)
    del order
    starts = np.searchsorted(both, np.arange(clusters + 1, dtype=np.int64) * clusters).astype(np.int64)
    both %= clusters
    return starts, both, sorted_counts


def _counted_pairs(rows: Rows, labels: Any, clusters: int, most: int | None) -> tuple[Any, Any]:
    """Pairs of clusters with edges between them, ``larger * clusters + smaller`` int64, and how many, int32."""
    compiled = loops_for("multilevel")
    keys, counts = np.full(1 << 12, -1, np.int64), np.zeros(1 << 12, np.int32)
    state = np.zeros(2, np.int64)
    for block in rows.blocks():
        while state[0] < block.last:
            compiled.count_between(
                rows.starts,
                block.neighbours,
                block.base,
                labels,
                clusters,
                keys,
                counts,
                state,
                block.first,
                block.last,
            )
            if state[0] < block.last:
                if most is not None and keys.size * _EACH_SLOT > most:
                    raise PartitionError(
                        f"the graph has too many edges between its {clusters} clusters for this memory: give more, "
                        "or cut the graph in memory with method='metis'"
                    )
                larger, larger_counts = (
                    np.full(keys.size * 2, -1, np.int64),
                    np.zeros(keys.size * 2, np.int32),
                )
                compiled.insert_counts(keys, counts, larger, larger_counts, 0, keys.size)
                keys, counts = larger, larger_counts
    used = np.flatnonzero(keys >= 0)
    return keys[used], counts[used]


def refine(rows: Rows, weights: Any, parts: Any, num_parts: int) -> None:
    """Move nodes to the part of most of their neighbours, in place; parts that are too heavy give some away."""
    compiled, nodes = loops_for("multilevel"), weights.size
    loads = np.zeros(num_parts, np.int64)
    np.add.at(loads, parts, weights)
    bound = weight_bound(torch.from_numpy(weights), num_parts)
    tally, moved = np.zeros(num_parts, np.int64), np.zeros(1, np.int64)
    for _ in range(_REFINING):
        moved[0] = 0
        for block in rows.blocks():
            compiled.refine_cut(
                rows.starts,
                block.neighbours,
                block.base,
                weights,
                parts,
                loads,
                bound,
                tally,
                moved,
                block.first,
                block.last,
            )
        if moved[0] < _ENOUGH * nodes:
            break
