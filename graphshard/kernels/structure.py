"""The sparse matrix of a set of edges: which edges each row has, and each column.

::

    edges       row = [1 0 1]      col = [2 0 0]         2 rows, 3 columns
    by row      start = [0 1 3]    other = [0 2 0]       edge = [1 0 2]
    by column   start = [0 2 2 3]  other = [0 1 1]       edge = [1 2 0]

Within a row the edges keep their order, so a sum adds its terms as the unsorted one does.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

PADDING = 8
"""Entries behind the last one of ``other`` and ``edge``: the CPU kernels read that far ahead."""


class Grouped(NamedTuple):
    """Edges grouped by one of their ends; int32 where the sizes fit, else int64.

    Attributes:
        start: ``[groups + 1]``, where each group's edges begin.
        other: ``[edges + PADDING]``, the other end of each.
        edge: ``[edges + PADDING]``, the number of each edge: its place in what the user sees.
        ordered: the edges are numbered in this very order, so ``edge`` is 0, 1, 2, ...
    """

    start: Tensor
    other: Tensor
    edge: Tensor
    ordered: bool

    @property
    def groups(self) -> int:
        return self.start.numel() - 1

    @property
    def edges(self) -> int:
        return self.other.numel() - PADDING

    def of_edges(self) -> Grouped:
        """The same groups of a table that has a row for each edge."""
        return Grouped(self.start, self.edge, self.edge, self.ordered)


class Structure(NamedTuple):
    """A sparse matrix: its edges by row and by column, and both ends of each edge by number.

    Attributes:
        by_row, by_column: the edges of each row, of each column.
        row, column: ``[edges]``, as they were given; int32 where the sizes fit, else int64.
    """

    by_row: Grouped
    by_column: Grouped
    row: Tensor
    column: Tensor

    @property
    def transposed(self) -> Structure:
        return Structure(self.by_column, self.by_row, self.column, self.row)


def build(row: Tensor, column: Tensor, rows: int, columns: int) -> Structure:
    """The structure of the edges ``column[e] -> row[e]``.

    Args:
        row, column: int64 ``[edges]``, in ``0..rows-1`` and ``0..columns-1``.
        rows, columns: the size of the matrix.
    """
    by_row, by_column = _grouped(row, column, rows), _grouped(column, row, columns)
    edges = slice(0, row.numel())
    # The ends of edges that are numbered by row are there already.
    ends = by_row.other[edges] if by_row.ordered else column.to(by_row.other.dtype)
    starts = by_column.other[edges] if by_column.ordered else row.to(by_column.other.dtype)
    return Structure(by_row, by_column, starts, ends)


def _grouped(index: Tensor, other: Tensor, groups: int) -> Grouped:
    counts = torch.bincount(index, minlength=groups)
    start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    order = index.argsort(stable=True)
    ordered = torch.equal(order, torch.arange(order.numel(), device=order.device))
    size = max(index.numel() + PADDING, groups, int(other.max()) + 1 if other.numel() else 0)
    dtype = torch.int32 if size < 2**31 else torch.int64
    return Grouped(start.to(dtype), _padded(other[order], dtype), _padded(order, dtype), ordered)


def _padded(index: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.cat([index.to(dtype), index.new_zeros(PADDING, dtype=dtype)])


def by_group(values: Tensor, grouped: Grouped) -> Tensor:
    """``[edges, ...]`` values by the edges' numbers, in the order of the groups; contiguous."""
    if grouped.ordered:
        return values.contiguous()
    return values.index_select(0, grouped.edge[: grouped.edges])


def by_number(values: Tensor, grouped: Grouped) -> Tensor:
    """The inverse of :func:`by_group`."""
    if grouped.ordered:
        return values
    return torch.empty_like(values).index_copy_(0, grouped.edge[: grouped.edges].long(), values)
