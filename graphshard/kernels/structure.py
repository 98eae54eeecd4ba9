"""The sparse matrix of a set of edges: which edges each row has, and each column.

::

    edges       row = [1 0 1]      col = [2 0 0]         2 rows, 3 columns
    by row      start = [0 1 3]    other = [0 2 0]       edge = [1 0 2]
    by column   start = [0 2 2 3]  other = [0 1 1]       edge = [1 2 0]

Within a row the edges keep their order, so a sum adds its terms as the unsorted one does.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        edge: ``[edges + PADDING]``, the number of each edge: its place in what the user sees. Empty where the edges
            are numbered in this very order, so that it would be 0, 1, 2, ...
    """

    start: Tensor
    other: Tensor
    edge: Tensor

    @property
    def groups(self) -> int:
        return self.start.size(0) - 1

    @property
    def edges(self) -> int:
        return self.other.size(0) - PADDING

    @property
    def ordered(self) -> bool:
        """Whether the edges are numbered in this very order."""
        return self.edge.size(0) == 0

    def of_edges(self) -> Grouped:
        """The same groups of a table that has a row for each edge."""
        if not self.ordered:
            return Grouped(self.start, self.edge, self.edge)
        numbers = torch.arange(self.edges, device=self.other.device)
        return Grouped(self.start, _padded(numbers, self.other.dtype), self.edge)


class Structure(NamedTuple):
    """A sparse matrix: its edges by row and by column, and both ends of each edge by number.

    It is a flat list of tensors for the ops that take one (:meth:`of`): what can be read off another is empty.

    Attributes:
        by_row, by_column: the edges of each row, of each column.
        rows_by_number, columns_by_number: ``[edges]``; empty where they are those ``by_column``, ``by_row``.
    """

    by_row: Grouped
    by_column: Grouped
    rows_by_number: Tensor
    columns_by_number: Tensor

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Structure:
        """The structure that :attr:`tensors` made the list of."""
        return cls(Grouped(*tensors[:3]), Grouped(*tensors[3:6]), *tensors[6:])

    @property
    def tensors(self) -> list[Tensor]:
        """Eight tensors of one integer dtype, none of which shares memory with another."""
        return [*self.by_row, *self.by_column, self.rows_by_number, self.columns_by_number]

    @property
    def row(self) -> Tensor:
        """``[edges]``, the row of each edge, as it was given; int32 where the sizes fit, else int64."""
        return self.by_column.other[: self.by_column.edges] if self.by_column.ordered else self.rows_by_number

    @property
    def column(self) -> Tensor:
        """``[edges]``, the column of each edge, as :attr:`row`."""
        return self.by_row.other[: self.by_row.edges] if self.by_row.ordered else self.columns_by_number


def transposed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The structure of the transposed matrix, for one as a list."""
    return [*tensors[3:6], *tensors[:3], tensors[7], tensors[6]]


def build(row: Tensor, column: Tensor, rows: int, columns: int) -> Structure:
    """The structure of the edges ``column[e] -> row[e]``.

    Args:
        row, column: int64 ``[edges]``, in ``0..rows-1`` and ``0..columns-1``.
        rows, columns: the size of the matrix.
    """
    by_row, by_column = _grouped(row, column, rows), _grouped(column, row, columns)
    none = row.new_empty(0, dtype=by_row.other.dtype)
    return Structure(
        by_row,
        by_column,
        none if by_column.ordered else row.to(by_column.other.dtype, copy=True),
        none.clone() if by_row.ordered else column.to(by_row.other.dtype, copy=True),
    )


def _grouped(index: Tensor, other: Tensor, groups: int) -> Grouped:
    counts = torch.bincount(index, minlength=groups)
    start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    order = index.argsort(stable=True)
    ordered = torch.equal(order, torch.arange(order.numel(), device=order.device))
    size = max(index.numel() + PADDING, groups, int(other.max()) + 1 if other.numel() else 0)
    dtype = torch.int32 if size < 2**31 else torch.int64
    edge = order.new_empty(0, dtype=dtype) if ordered else _padded(order, dtype)
    return Grouped(start.to(dtype), _padded(other[order], dtype), edge)


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
