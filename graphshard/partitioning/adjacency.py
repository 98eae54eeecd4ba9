"""Rows of neighbours (CSR) without self loops and parallel edges: of the graph made undirected, or of one direction.

numba's loops count the entries of each row, write them there and sort each row where it lies: 4 bytes for each end of
an edge. Without numba entries are sorted as 64-bit numbers, those of a range of nodes at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphshard.graph.checks import sorted_unique
from graphshard.partitioning.compiled import loops

_AT_ONCE = 1 << 22  # edges, or entries of the rows, that are looked at together

BOTH, READERS, READS = (0, 1), (0,), (1,)
"""Whose rows: those of all neighbours; of each source, its destinations; of each destination, its sources."""


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
    if (compiled := loops()) is None:
        return _sorted_keys(edges, num_nodes)
    # The narrow rows are the first half of the wide ones. Pages that nothing was written to take no memory.
    starts, rows, memory = _narrow_rows(compiled, edges, num_nodes, BOTH, np.dtype(np.int64))
    wide = memory.view(np.int64)[: rows.size]
    if rows.dtype != wide.dtype:
        compiled.widen(rows, wide, 0, rows.size)
    return torch.from_numpy(starts), torch.from_numpy(wide)


def narrow_rows(edges: Sequence[Ends], num_nodes: int, of: tuple[int, ...] = BOTH) -> tuple[Any, Any]:
    """As :func:`adjacency`, in 4 bytes for each neighbour, of the direction ``of``; it needs numba.

    Returns:
        ``starts`` int64 ``[N + 1]`` and ``neighbours`` ``[starts[N]]``, int32 where N is below 2**31, NumPy's.
    """
    return _narrow_rows(loops(), edges, num_nodes, of, row_dtype(num_nodes))[:2]


def row_dtype(num_nodes: int) -> Any:
    """The dtype that node numbers of a row fit into."""
    return np.dtype(np.int32 if num_nodes < 1 << 31 else np.int64)


def _narrow_rows(
    compiled: Any, edges: Sequence[Ends], num_nodes: int, of: tuple[int, ...], room: Any
) -> tuple[Any, Any, Any]:
    """Starts, rows, and the bytes that these begin, in which each entry has the ``room`` of a dtype."""
    counts = np.zeros(num_nodes, np.int64)
    for keys, values in _directed(edges, of):
        compiled.count_entries(*keys, *values, counts, 0, 0, keys[0].size)
    starts = np.zeros(num_nodes + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    free, dtype = starts[:-1].copy(), row_dtype(num_nodes)
    memory = np.empty(int(starts[-1]) * room.itemsize, np.uint8)
    rows = memory.view(dtype)
    for keys, values in _directed(edges, of):
        compiled.put_entries(*keys, *values, free, 0, rows, 0, keys[0].size)
    kept = np.zeros(1, np.int64)
    compiled.sort_rows(starts, rows, kept, 0, num_nodes)
    starts[-1] = kept[0]
    return starts, rows[: int(kept[0])], memory


def _directed(
    edges: Sequence[Ends], of: tuple[int, ...]
) -> Iterator[tuple[tuple[Any, int], tuple[Any, int]]]:
    """Keys and values with what is added to them, some edges at a time."""
    for ends in edges:
        for some in ends.index.split(_AT_ONCE, dim=1):  # type: ignore[no-untyped-call]
            sides = [
                (np.ascontiguousarray(some[0].numpy()), ends.source),
                (np.ascontiguousarray(some[1].numpy()), ends.destination),
            ]
            for key in of:
                yield sides[key], sides[1 - key]


def counted(numbers: Tensor, offset: int, num_nodes: int) -> Tensor:
    """int64 ``[num_nodes]``, how often each node is among numbers that begin at ``offset``."""
    counts = torch.bincount(numbers)
    found = torch.zeros(num_nodes, dtype=torch.int64)
    found[offset : offset + counts.numel()] = counts
    return found


# ---- without numba -----------------------------------------------------------------------------------------


def _sorted_keys(edges: Sequence[Ends], num_nodes: int) -> tuple[Tensor, Tensor]:
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
