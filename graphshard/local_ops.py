"""What a rewritten program computes on a rank without communication, and the count that needs a little."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from graphshard.groups import count_all_reduce, resolve

_MIX_1 = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9 as a signed int64
_MIX_2 = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
_STEP = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15, the golden ratio in 64 bits


def pad_halo(x: Tensor, recv_splits: Sequence[int], value: float) -> Tensor:
    """``[n, ...]`` owned rows followed by one row of ``value`` for each halo node: ``[n + h, ...]``."""
    return torch.cat([x, x.new_full((sum(recv_splits), *x.shape[1:]), value)])


def global_count(count: int, group: str) -> int:
    """The sum over the ranks of a row count. One integer all-reduce."""
    pg = resolve(group)
    if pg is None:
        return count
    # NCCL moves only device tensors; gloo and simulated ranks take both.
    device = "cuda" if "nccl" in pg.name() else "cpu"
    total = torch.tensor([count], dtype=torch.int64, device=device)
    count_all_reduce(total, pg)
    dist.all_reduce(total, group=pg)
    return int(total.item())


def _mix(z: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).

    In place on an int64 tensor; products wrap around as they do for unsigned numbers.
    """
    z ^= (z >> 30) & ((1 << 34) - 1)
    z *= _MIX_1
    z ^= (z >> 27) & ((1 << 37) - 1)
    z *= _MIX_2
    z ^= (z >> 31) & ((1 << 33) - 1)
    return z


def random_bits(ids: Tensor, width: int, key: Sequence[int], site: int) -> Tensor:
    """53 random bits for each element: a function of seed, step, call site and global row id alone.

    Args:
        ids: int64 ``[rows]``; a number for each row that is the same on any number of ranks.
        width: how many elements a row has.
        key: ``(seed, step)``.
        site: which random op of the program it is.

    Returns:
        int64 ``[rows, width]`` in 0..2**53-1, as NumPy and PyTorch take them for a float64 in [0, 1).
    """
    seed, step = key
    # Seeds are unsigned in PyTorch; one bit less fits an int64 tensor, whose products wrap around.
    part = torch.tensor([seed & ((1 << 63) - 1), site], dtype=torch.int64) * _STEP
    start = _mix(_mix(part[:1] + step) + part[1:]).to(ids.device)
    rows = _mix(ids * _STEP + start)
    columns = torch.arange(1, width + 1, dtype=torch.int64, device=ids.device) * _STEP
    return (_mix(rows.unsqueeze(1) + columns) >> 11) & ((1 << 53) - 1)


def dropout_rows(x: Tensor, ids: Tensor | None, dim: int, p: float, key: Sequence[int], site: int) -> Tensor:
    """``torch.nn.functional.dropout`` with a mask that does not depend on the number of ranks.

    Args:
        x: any shape; rows are along ``dim``.
        ids: int64 ``[x.size(dim)]``, the rows' global ids; None where every rank holds all of x.
        dim: the dim of the rows.
        p: the probability of dropping an element; the others are scaled by ``1 / (1 - p)``.
        key, site: see :func:`random_bits`.
    """
    if p >= 1:
        return x * 0
    rows = x.movedim(dim, 0) if x.dim() else x.reshape(1)
    if ids is None:
        ids = torch.arange(rows.size(0), device=x.device)
    width = rows[:1].numel() if rows.size(0) else 0
    keep = (random_bits(ids, width, key, site) >= int(p * (1 << 53))).view(rows.shape)
    keep = keep.movedim(0, dim) if x.dim() else keep.reshape(())
    return x * (keep.to(x.dtype) / (1 - p))


def random_like(x: Tensor, ids: Tensor | None, dim: int, kind: str, key: Sequence[int], site: int) -> Tensor:
    """Random numbers in the shape and dtype of x that do not depend on the number of ranks.

    Args:
        x: any shape, floating-point; its values are not read. Rows are along ``dim``.
        ids: int64 ``[x.size(dim)]``, the rows' global ids; None where every rank holds all of x.
        dim: the dim of the rows.
        kind: "uniform" in [0, 1), or "normal": mean 0, variance 1 (by Box and Muller, 1958).
        key, site: see :func:`random_bits`.

    Returns:
        A new tensor like x, without a gradient.
    """
    shape = torch.empty(x.shape, device="meta").movedim(dim, 0).shape if x.dim() else torch.Size([1])
    if ids is None:
        ids = torch.arange(shape[0], device=x.device)
    width = shape[1:].numel()
    normal = kind == "normal"
    numbers = random_bits(ids, width * (1 + normal), key, site).double() / (1 << 53)
    if normal:
        radius = torch.sqrt(-2 * torch.log1p(-numbers[:, :width]))
        numbers = radius * torch.cos(2 * math.pi * numbers[:, width:])
    out = numbers.view(shape).movedim(0, dim) if x.dim() else numbers.reshape(())
    out = out.to(x.dtype)
    # In a shorter dtype a number just below 1 rounds up to it.
    return out if normal else out.clamp(max=1 - torch.finfo(x.dtype).eps / 2)


def join_ids(parts: Sequence[Tensor]) -> Tensor:
    """Row ids of a concatenation: the segment's number in the upper bits, the id in the lower ones."""
    return torch.cat([ids + (segment << 48) for segment, ids in enumerate(parts)])
