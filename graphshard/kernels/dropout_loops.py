"""Loops over the elements of rows that a dropout keeps or drops; ``numba_kernels`` compiles them.

An element is kept where 64 bits that are mixed from its row's id and its place in the row reach a threshold: the
numbers of ``graphshard.kernels.random_bits.random_bits``, drawn again wherever they are needed. Arrays are flat and
C-contiguous, ``[outer, rows, inner]``: element ``(o, i, j)`` has the place ``o * inner + j`` in row ``i``. Products
are written out, so NaN, infinities and the sign of a zero come out as those of ``x * mask`` do.

Each loop below does one simple thing to neighbours, by way of a row of scratch numbers where need be: LLVM then
makes vector code of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)

_NOT_POSITIVE, _DROPPED, _KEPT = np.uint8(0), np.uint8(1), np.uint8(2)
_SHIFTS = (np.uint8(0), np.uint8(2), np.uint8(4), np.uint8(6))


@njit(inline="always")
def _mix(z: Any) -> Any:
    """The finaliser of SplitMix64 on uint64, as ``random_bits.py`` has it on int64."""
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return z ^ (z >> _S31)


def dropout(
    x: Any,
    ids: Any,
    outer: int,
    inner: int,
    start: Any,
    threshold: Any,
    scale: Any,
    out: Any,
    lo: int,
    hi: int,
) -> None:
    """``out = x * scale`` where an element is kept, else ``x * 0``, for the rows ``lo..hi-1``."""
    rows, zero = len(ids), scale * 0
    for i in range(lo, hi):
        row = _mix(np.uint64(ids[i]) * _STEP + start)
        for o in range(outer):
            at, place = (o * rows + i) * inner, o * inner
            for j in range(inner):
                bits = _mix(row + np.uint64(place + j + 1) * _STEP)
                out[at + j] = x[at + j] * (scale if bits >= threshold else zero)


def relu_dropout(
    x: Any,
    ids: Any,
    outer: int,
    inner: int,
    start: Any,
    threshold: Any,
    scale: Any,
    done: Any,
    lo: int,
    hi: int,
) -> None:
    """``x = relu(x) * scale`` where an element is kept, else ``relu(x) * 0``, over x.

    ``done [outer, rows, ceil(inner / 4)]`` takes what was done to each element, two bits of the byte of four
    elements that lie a quarter of ``inner`` apart.
    """
    rows, zero, quarter = len(ids), scale * 0, (inner + 3) // 4
    what, value = np.zeros(4 * quarter, np.uint8), np.zeros(inner, x.dtype)
    for i in range(lo, hi):
        row = _mix(np.uint64(ids[i]) * _STEP + start)
        for o in range(outer):
            at, to, place = (o * rows + i) * inner, (o * rows + i) * quarter, o * inner
            for j in range(inner):
                bits = _mix(row + np.uint64(place + j + 1) * _STEP)
                what[j] = _KEPT if bits >= threshold else _DROPPED
            for j in range(inner):
                value[j] = x[at + j]
            for j in range(inner):
                # -0.0 and NaN pass, as torch.relu lets them.
                rectified = zero if value[j] < 0 else value[j]
                x[at + j] = rectified * (scale if what[j] == _KEPT else zero)
            for j in range(inner):
                before = what[j]
                what[j] = _NOT_POSITIVE if value[j] <= 0 else before
            for k in range(quarter):
                low = what[k] | (what[k + quarter] << _SHIFTS[1])
                high = (what[k + 2 * quarter] << _SHIFTS[2]) | (what[k + 3 * quarter] << _SHIFTS[3])
                done[to + k] = low | high


def relu_dropout_gradient(
    grad: Any, done: Any, rows: int, outer: int, inner: int, scale: Any, out: Any, lo: int, hi: int
) -> None:
    """``out = grad * scale`` where an element was kept, ``grad * 0`` where dropped, 0 where x was not positive."""
    zero, quarter, two_bits = scale * 0, (inner + 3) // 4, np.uint8(3)
    what = np.zeros(4 * quarter, np.uint8)
    for i in range(lo, hi):
        for o in range(outer):
            at, to = (o * rows + i) * inner, (o * rows + i) * quarter
            for k in range(quarter):
                byte = done[to + k]
                what[k] = byte & two_bits
                what[k + quarter] = (byte >> _SHIFTS[1]) & two_bits
                what[k + 2 * quarter] = (byte >> _SHIFTS[2]) & two_bits
                what[k + 3 * quarter] = (byte >> _SHIFTS[3]) & two_bits
            for j in range(inner):
                product = grad[at + j] * (scale if what[j] == _KEPT else zero)
                out[at + j] = zero if what[j] == _NOT_POSITIVE else product
