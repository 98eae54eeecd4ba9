"""The CPU kernels' loops, compiled by numba: each works on the rows ``lo..hi-1`` and releases the GIL.

A row's edges are visited in the order of the graph and no two calls write to one row, so every run gives the same
bits on any number of threads. Arrays are flat and C-contiguous: ``table [m * heads * width]``, ``weight
[edges * heads]``; ``rowptr [rows + 1]`` says where a row's edges begin, ``col [edges + AHEAD]`` which row of the
table each of them reads.
"""

from __future__ import annotations

from typing import Any

from graphshard.kernels import dropout_loops
from graphshard.kernels.edge_loops import dot_rows, softmax_gradient_row, softmax_row, sum_rows
from graphshard.kernels.extreme_loops import hit_rows, largest_rows, smallest_rows
from graphshard.kernels.machine_code import Loop


@Loop
def sums(
    rowptr: Any,
    col: Any,
    weight: Any,
    position: Any,
    weights: int,
    first: int,
    table: Any,
    heads: int,
    width: int,
    out: Any,
    columns: int,
    to: int,
    lo: int,
    hi: int,
) -> None:
    """``out[i, to + h] = sum of weight[p, first + h] * table[col[p], h]`` over the edges p of row i.

    A row of the table is ``heads`` times ``width`` numbers, one of ``out`` is ``columns``, and an edge has ``weights``
    weights. With ``position``, edge p has those of number ``position[p]``; without ``weight`` (None), 1.
    """
    stride = heads * width
    for i in range(lo, hi):
        start, stop, at = rowptr[i], rowptr[i + 1], i * columns + to
        for h in range(heads):
            c = h * width
            sum_rows(
                out, at + c, table, c, stride, width, col, weight, position, weights, first + h, start, stop
            )


@Loop
def dots(
    rowptr: Any, col: Any, rows: Any, heads: int, table: Any, width: int, out: Any, lo: int, hi: int
) -> None:
    """``out[p, h] = dot(rows[i, h], table[col[p], h])`` for the edges p of row i."""
    stride = heads * width
    for i in range(lo, hi):
        start, stop = rowptr[i], rowptr[i + 1]
        for q in range(start * heads, stop * heads):
            out[q] = 0
        for h in range(heads):
            at = i * stride + h * width
            dot_rows(out, rows, at, table, h * width, stride, width, col, heads, h, start, stop)


@Loop
def softmax(rowptr: Any, scores: Any, heads: int, small: float, out: Any, lo: int, hi: int) -> None:
    """``out[p, h] = exp(s[p, h] - max) / (sum + small)`` over the edges p of row i, which lie side by side."""
    for i in range(lo, hi):
        softmax_row(out, scores, heads, small, rowptr[i], rowptr[i + 1])


@Loop
def softmax_gradient(rowptr: Any, shares: Any, grad: Any, heads: int, out: Any, lo: int, hi: int) -> None:
    """``out[p, h] = share * (grad - sum of share * grad)`` over the edges p of row i."""
    for i in range(lo, hi):
        softmax_gradient_row(out, shares, grad, heads, rowptr[i], rowptr[i + 1])


@Loop
def largest(rowptr: Any, col: Any, table: Any, width: int, out: Any, ties: Any, lo: int, hi: int) -> None:
    """The largest of ``table[col[p]]`` in each column, and how many equal it; 0 and 0 for a row without edges."""
    for i in range(lo, hi):
        largest_rows(out, ties, i * width, table, width, col, rowptr[i], rowptr[i + 1])


@Loop
def smallest(rowptr: Any, col: Any, table: Any, width: int, out: Any, ties: Any, lo: int, hi: int) -> None:
    """The smallest of ``table[col[p]]`` in each column, and how many equal it; 0 and 0 for a row without edges."""
    for i in range(lo, hi):
        smallest_rows(out, ties, i * width, table, width, col, rowptr[i], rowptr[i + 1])


@Loop
def extremes_gradient(
    rowptr: Any, col: Any, table: Any, best: Any, share: Any, width: int, out: Any, lo: int, hi: int
) -> None:
    """``out[j] = sum of share[i] * (table[j] == best[i])`` over the rows i = ``col[p]`` that read j."""
    for j in range(lo, hi):
        hit_rows(out, table, j * width, best, share, width, col, rowptr[j], rowptr[j + 1])


dropout = Loop(dropout_loops.dropout)
relu_dropout = Loop(dropout_loops.relu_dropout)
relu_dropout_gradient = Loop(dropout_loops.relu_dropout_gradient)
