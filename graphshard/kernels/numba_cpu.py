"""The kernels on the cores of a CPU: numba loops, as many threads as PyTorch has.

Rows are cut into runs of about as many edges, a few for each thread, so that hubs do not keep the others waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphshard.kernels import numba_kernels as loops
from graphshard.kernels.masks import Mask
from graphshard.kernels.structure import Grouped, by_group, by_number

_RUNS = 8
"""Runs of rows for each thread."""
_SMALL = 1 << 14
"""Below so many numbers to read, threads cost more than they save."""
_ALL_BITS = (1 << 64) - 1


class NumbaKernels:
    """`graphshard.kernels.interface.Kernels` for float32 and float64 on the CPU."""

    def sums(self, grouped: Grouped, weight: Tensor | None, table: Tensor) -> Tensor:
        out = table.new_empty((grouped.groups, *table.shape[1:]))
        self.sums_into(out, 0, grouped, weight, 0, table)
        return out

    def sums_into(
        self, out: Tensor, to: int, grouped: Grouped, weight: Tensor | None, first: int, table: Tensor
    ) -> None:
        # Without weights the heads are one: wider blocks.
        heads, width = (1, _width(table)) if weight is None else table.shape[1:]
        weights = 1 if weight is None else weight.size(1)
        edge = None if weight is None or grouped.ordered else grouped.edge
        arguments = (grouped.other, weight, edge, weights, first, table, heads, width, out, _width(out), to)
        _run(loops.sums, grouped, arguments, _width(table))

    def dots(self, grouped: Grouped, rows: Tensor, table: Tensor) -> Tensor:
        heads, width = table.shape[1:]
        out = table.new_empty((grouped.edges, heads))
        _run(loops.dots, grouped, (grouped.other, rows, heads, table, width, out), heads * width)
        return by_number(out, grouped)

    def softmax(self, grouped: Grouped, scores: Tensor, small: float) -> Tensor:
        scores = by_group(scores, grouped)
        out = torch.empty_like(scores)
        _run(loops.softmax, grouped, (scores, scores.size(1), small, out), 4 * scores.size(1))
        return by_number(out, grouped)

    def softmax_gradient(self, grouped: Grouped, shares: Tensor, grad: Tensor) -> Tensor:
        shares, grad = by_group(shares, grouped), by_group(grad, grouped)
        out = torch.empty_like(shares)
        _run(loops.softmax_gradient, grouped, (shares, grad, shares.size(1), out), 2 * shares.size(1))
        return by_number(out, grouped)

    def extremes(self, grouped: Grouped, table: Tensor, sign: int) -> tuple[Tensor, Tensor]:
        out = table.new_empty((grouped.groups, *table.shape[1:]))
        ties, width = torch.empty_like(out), _width(table)
        loop = loops.largest if sign > 0 else loops.smallest
        _run(loop, grouped, (grouped.other, table, width, out, ties), width)
        return out, ties

    def extremes_gradient(self, grouped: Grouped, table: Tensor, best: Tensor, share: Tensor) -> Tensor:
        out, width = torch.empty_like(table, memory_format=torch.contiguous_format), _width(table)
        _run(loops.extremes_gradient, grouped, (grouped.other, table, best, share, width, out), 2 * width)
        return out

    def dropout(self, x: Tensor, mask: Mask) -> Tensor:
        shape, out = mask.shape_of(x), torch.empty_like(x)  # in memory as torch's element-wise ops leave it
        dense = out if out.is_contiguous() else torch.empty_like(x, memory_format=torch.contiguous_format)
        _run_rows(loops.dropout, shape, (x, _ids(mask, shape), *shape[::2], *_numbers(x, mask), dense))
        return out if dense is out else out.copy_(dense)

    def relu_dropout(self, x: Tensor, mask: Mask) -> Tensor:
        dense, shape = x.contiguous(), mask.shape_of(x)
        outer, rows, inner = shape
        done = x.new_empty((outer, rows, (inner + 3) // 4), dtype=torch.uint8)
        arguments = (dense, _ids(mask, shape), outer, inner, *_numbers(x, mask), done)
        _run_rows(loops.relu_dropout, shape, arguments)
        if not x.is_contiguous():
            x.copy_(dense)
        return done

    def relu_dropout_bytes(self, shape: tuple[int, int, int]) -> int:
        outer, rows, inner = shape
        return outer * rows * ((inner + 3) // 4)

    def relu_dropout_gradient(self, grad: Tensor, done: Tensor, mask: Mask) -> Tensor:
        outer, rows, inner = shape = mask.shape_of(grad)
        out = torch.empty_like(grad, memory_format=torch.contiguous_format)
        scale = _numbers(grad, mask)[-1]
        _run_rows(loops.relu_dropout_gradient, shape, (grad, done, rows, outer, inner, scale, out))
        return out


def _width(table: Tensor) -> int:
    """How many numbers a row has."""
    return int(table.shape[1:].numel())


def _run(loop: Callable[..., None], grouped: Grouped, args: tuple[Any, ...], work: int) -> None:
    """Run a loop over all groups; ``work``: numbers read for an edge."""
    starts: Any = grouped.start.numpy()
    arrays = [_flat(a) if isinstance(a, Tensor) else a for a in args]
    threads = torch.get_num_threads()
    if threads == 1 or grouped.edges * work < _SMALL:
        loop(starts, *arrays, 0, grouped.groups)
        return
    bounds = _bounds(starts, threads * _RUNS)
    runs = [_pool(threads).submit(loop, starts, *arrays, lo, hi) for lo, hi in pairwise(bounds) if hi > lo]
    for run in runs:
        run.result()


def _run_rows(loop: Callable[..., None], shape: tuple[int, int, int], args: tuple[Any, ...]) -> None:
    """Run a loop over the elements of all rows of ``[outer, rows, inner]``."""
    outer, rows, inner = shape
    arrays = [_flat(a) if isinstance(a, Tensor) else a for a in args]
    threads = torch.get_num_threads()
    if threads == 1 or outer * rows * inner < _SMALL:
        loop(*arrays, 0, rows)
        return
    bounds = [rows * i // threads for i in range(threads + 1)]
    runs = [_pool(threads).submit(loop, *arrays, lo, hi) for lo, hi in pairwise(bounds) if hi > lo]
    for run in runs:
        run.result()


def _ids(mask: Mask, shape: tuple[int, int, int]) -> Tensor:
    return torch.arange(shape[1]) if mask.ids is None else mask.ids


def _numbers(x: Tensor, mask: Mask) -> tuple[Any, Any, Any]:
    """Where the random numbers start, from which on an element is kept, and the scale in x's dtype."""
    scale: Any = mask.scale(x.dtype).numpy()
    return np.uint64(mask.start & _ALL_BITS), np.uint64(mask.threshold << 11), scale[0]


def _flat(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().view(-1).numpy()


def _bounds(starts: Any, runs: int) -> list[int]:
    """Where to cut the rows so that each run has about as many edges (and rows: empty ones cost too)."""
    rows = len(starts) - 1
    costs = starts + np.arange(rows + 1, dtype=np.int64)
    wanted = np.linspace(0, int(costs[-1]), runs + 1)[1:-1]
    return [0, *(int(i) for i in np.searchsorted(costs, wanted)), rows]


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="graphshard-kernel")
