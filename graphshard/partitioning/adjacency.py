"""The graph as METIS takes it: undirected, without self loops and parallel edges, in compressed rows (CSR).

Made a range of nodes at a time, so that beside the result a few million edges are held: a sort of all edges
at once takes six times the input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphshard.graph.checks import sorted_unique

_AT_ONCE = 1 << 22  # entries of the rows that are made together


@dataclass(frozen=True)
class Ends:
    """The edges of one set, whose nodes are numbered together with those of other sets.

    Attributes:
        index: int64 ``[2, E]``. source, destination: what is added to its two rows.
    """

    index: Tensor
    source: int = 0
    destination: int = 0


def adjacency(edges: Sequence[Ends], num_nodes: int) -> tuple[Tensor, Tensor]:
    """Rows of neighbours, ascending.

    Args:
        edges: of every edge set. num_nodes: N, of all node sets together.

    Returns:
        int64 ``starts`` ``[N + 1]`` and ``neighbours`` ``[starts[N]]``.
    """
    degrees = torch.zeros(num_nodes, dtype=torch.int64)
    for ends in edges:
        degrees += counted(ends.index[0], ends.source, num_nodes)
        degrees += counted(ends.index[1], ends.destination, num_nodes)
    counts = torch.zeros(num_nodes, dtype=torch.int64)
    parts = []
    for first, last in _ranges(degrees):
        rows, columns = _rows(edges, first, last, num_nodes)
        counts[first:last] = torch.bincount(rows, minlength=last - first)
        parts.append(columns)
    starts = torch.zeros(num_nodes + 1, dtype=torch.int64)
    starts[1:] = counts.cumsum(0)
    neighbours = torch.empty(int(starts[-1]), dtype=torch.int64)
    at = 0
    while parts:
        part = parts.pop(0)
        neighbours[at : at + part.numel()] = part
        at += part.numel()
    return starts, neighbours


def counted(numbers: Tensor, offset: int, num_nodes: int) -> Tensor:
    """int64 ``[num_nodes]``, how often each node is among numbers that begin at ``offset``."""
    counts = torch.bincount(numbers)
    found = torch.zeros(num_nodes, dtype=torch.int64)
    found[offset : offset + counts.numel()] = counts
    return found


def _ranges(degrees: Tensor) -> Iterator[tuple[int, int]]:
    """Ranges of nodes with few entries together; one node at least."""
    ends = degrees.cumsum(0)
    first, total = 0, int(ends.numel())
    while first < total:
        before = int(ends[first - 1]) if first else 0
        last = int(torch.searchsorted(ends, before + _AT_ONCE, right=True))
        last = min(total, max(last, first + 1))
        yield first, last
        first = last


def _rows(edges: Sequence[Ends], first: int, last: int, num_nodes: int) -> tuple[Tensor, Tensor]:
    """Row, counted from the first, and column of every entry in the rows from ``first`` on to before ``last``."""
    keys = [torch.empty(0, dtype=torch.int64)]
    for ends in edges:
        sides = (ends.index[0], ends.source), (ends.index[1], ends.destination)
        for (own, own_offset), (other, other_offset) in (sides, sides[::-1]):
            inside = (own >= first - own_offset) & (own < last - own_offset)
            rows, columns = own[inside] + own_offset, other[inside] + other_offset
            kept = rows != columns
            keys.append((rows[kept] - first) * num_nodes + columns[kept])
    found = sorted_unique(torch.cat(keys))
    # 32 bits where they do: the parts wait for each other.
    narrow = torch.int32 if num_nodes < 1 << 31 else torch.int64
    return found // num_nodes, (found % num_nodes).to(narrow)
