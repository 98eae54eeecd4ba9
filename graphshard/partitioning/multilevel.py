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
_LEVELS, _MOST_PAIRS = 4, 1 << 21  # of the graph that METIS is given
_FEW = 1 << 13  # clusters, so that each pair of them has a place
_EACH_SLOT = 64  # bytes: of a slot before the table doubles, and of the rows that are made of it then


@dataclass(frozen=True)
class Block:
    """Rows of the nodes ``first..last-1``: ``neighbours``, of which entry 0 has number ``base`` among all.

    Attributes:
        weights: int32, of the edges to them; None where each is 1.
    """

    first: int
    last: int
    base: int
    neighbours: Any
    weights: Any = None


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
    weights: Any = None

    def blocks(self) -> Iterator[Block]:
        """The one block."""
        yield Block(0, self.starts.size - 1, 0, self.neighbours, self.weights)


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
                block.weights,
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

    Where that has more edges than METIS takes little memory for, its clusters are joined in turn.

    Args:
        rows, weights: as of :func:`join`. labels: what it gave.
        num_parts: k. seed: METIS' seed.
        most: bytes that the edges between clusters may take.

    Raises:
        PartitionError: they take more.
    """
    between, sizes = contracted(rows, weights, labels, most)
    for _ in range(_LEVELS):
        if between.neighbours.size <= 2 * _MOST_PAIRS:
            break
        joined = join(between, sizes, num_parts)
        if int(joined.max()) + 1 == sizes.size:
            break
        between, sizes = contracted(between, sizes, joined, most)
        labels = joined[labels]
    found = metis.run(
        between.starts,
        between.neighbours.astype(np.int64),
        sizes,
        num_parts,
        seed,
        between.weights.astype(np.int64),
    )
    parts: Any = found.astype(np.int32)[labels]
    return parts


def contracted(rows: Rows, weights: Any, labels: Any, most: int | None = None) -> tuple[RowsInMemory, Any]:
    """The graph of clusters, whose edges weigh as many as they stand for, and the weight of each cluster, int64.

    Raises:
        PartitionError: it takes more than ``most`` bytes.
    """
    compiled, clusters = loops_for("multilevel"), int(labels.max()) + 1
    sizes = np.zeros(clusters, np.int64)
    np.add.at(sizes, labels, weights)
    few, ends = clusters <= _FEW, np.zeros(clusters, np.int64)
    if few:
        counts = _triangle(rows, labels, clusters, most)
        compiled.count_pairs_of_few(counts, ends, 0, clusters)
    else:
        keys, counts = _counted_pairs(rows, labels, clusters, most)
        compiled.count_pairs(keys, clusters, ends, 0, keys.size)
    starts = np.zeros(clusters + 1, np.int64)
    np.cumsum(ends, out=starts[1:])
    _check_room(8 * int(starts[-1]) + counts.nbytes, clusters, most)
    neighbours, shared = (np.empty(int(starts[-1]), np.int32) for _ in range(2))
    if few:
        compiled.put_pairs_of_few(counts, starts[:-1].copy(), neighbours, shared, 0, clusters)
    else:
        compiled.put_pairs(keys, counts, clusters, starts[:-1].copy(), neighbours, shared, 0, keys.size)
    return RowsInMemory(starts, neighbours, shared), sizes


def _check_room(bytes_needed: int, clusters: int, most: int | None) -> None:
    if most is not None and bytes_needed > most:
        raise PartitionError(
            f"the graph has too many edges between its {clusters} clusters for this memory: give more, or cut the "
            "graph in memory with method='metis'"
        )


def _triangle(rows: Rows, labels: Any, clusters: int, most: int | None) -> Any:
    """How many edges there are between each two clusters, the row of the larger one: int32."""
    compiled, size = loops_for("multilevel"), clusters * (clusters - 1) // 2
    _check_room(4 * size, clusters, most)
    counts = np.zeros(size, np.int32)
    for block in rows.blocks():
        compiled.count_between_few(
            rows.starts,
            block.neighbours,
            block.base,
            block.weights,
            labels,
            counts,
            block.first,
            block.last,
        )
    return counts


def _counted_pairs(rows: Rows, labels: Any, clusters: int, most: int | None) -> tuple[Any, Any]:
    """A table of the pairs of clusters with edges between them, ``larger * clusters + smaller`` int64, -1 where a
    place is free, and how many edges that are, int32."""
    compiled = loops_for("multilevel")
    keys, counts = np.full(1 << 12, -1, np.int64), np.zeros(1 << 12, np.int32)
    state = np.zeros(2, np.int64)
    for block in rows.blocks():
        while state[0] < block.last:
            compiled.count_between(
                rows.starts,
                block.neighbours,
                block.base,
                block.weights,
                labels,
                clusters,
                keys,
                counts,
                state,
                block.first,
                block.last,
            )
            if state[0] < block.last:
                _check_room(keys.size * _EACH_SLOT, clusters, most)
                larger, larger_counts = (
                    np.full(keys.size * 2, -1, np.int64),
                    np.zeros(keys.size * 2, np.int32),
                )
                compiled.insert_counts(keys, counts, larger, larger_counts, 0, keys.size)
                keys, counts = larger, larger_counts
    return keys, counts


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
