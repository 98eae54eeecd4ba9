"""What a rewritten program computes on a rank without communication, and the count that needs a little."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from graphshard.kernels.random_bits import random_bits
from graphshard.ops.registration import below_autograd, composite, fake, gradient, operator
from graphshard.ranks.groups import count_all_reduce, device_of_numbers, resolve


@composite("pad_halo(Tensor x, SymInt[] recv_splits, Scalar value) -> Tensor")
def pad_halo(x: Tensor, recv_splits: Sequence[int], value: float) -> Tensor:
    """``[n, ...]`` owned rows followed by one row of ``value`` for each halo node: ``[n + h, ...]``."""
    return torch.cat([x, x.new_full((sum(recv_splits), *x.shape[1:]), value)])


@composite("own_rows(Tensor(a) x, SymInt count) -> Tensor(a)")
def own_rows(x: Tensor, count: int) -> Tensor:
    """The owned rows of ``[n + h, ...]`` owned and halo rows: ``[n, ...]``, a view."""
    return x.narrow(0, 0, count)


@composite("project_weight(Tensor weight, Tensor a) -> Tensor")
def project_weight(weight: Tensor, a: Tensor) -> Tensor:
    """``V`` with ``x V' = sum over c of a[h, c] * (x W')[h, c]``.

    Args:
        weight: ``[heads * width, features]``, of a linear layer. a: ``[1, heads, width]``.

    Returns:
        ``[heads, features]``.
    """
    heads, width = a.shape[1:]
    return (weight.view(heads, width, -1) * a.view(heads, width, 1)).sum(1)


def identity_of(dtype: torch.dtype, reduce: str) -> float | int | bool:
    """What a maximum ("max") or minimum ("min") of no value is: the least, or the greatest, of its dtype."""
    if dtype == torch.bool:
        return reduce == "min"
    if dtype.is_floating_point:
        return float("-inf") if reduce == "max" else float("inf")
    info = torch.iinfo(dtype)
    return int(info.min if reduce == "max" else info.max)


@composite("extreme(Tensor x, int[] dims, str reduce) -> Tensor")
def extreme(x: Tensor, dims: Sequence[int], reduce: str) -> Tensor:
    """``amax`` ("max") or ``amin`` ("min") over ``dims``, which stay with size 1; of no row, the identity."""
    if any(x.size(dim) == 0 for dim in dims):
        shape = [1 if dim in dims else size for dim, size in enumerate(x.shape)]
        return x.new_full(shape, identity_of(x.dtype, reduce))
    return x.amax(list(dims), keepdim=True) if reduce == "max" else x.amin(list(dims), keepdim=True)


@composite("scatter_extreme(Tensor base, int dim, Tensor index, Tensor src, str reduce) -> Tensor")
def scatter_extreme(base: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str) -> Tensor:
    """The maximum ("max") or minimum ("min") of what ``index`` sends to each entry, the identity where nothing.

    Args:
        base: gives the shape, dtype and device of the result; its values do not count.
        dim, index, src: as for ``torch.scatter_reduce``. reduce: "max" or "min".
    """
    empty = base.new_full(base.shape, identity_of(base.dtype, reduce))
    return empty.scatter_reduce(dim, index, src, "amax" if reduce == "max" else "amin")


@operator("zero_of(Tensor x) -> Tensor")
def zero_of(x: Tensor) -> Tensor:
    """Zeros like x whose gradient is x's own: adds a gradient to a value that was computed without one.

    Unlike ``x - x.detach()`` it is 0 where x is infinite or NaN.
    """
    return torch.zeros_like(x)


@fake(zero_of)
def _zero_of_fake(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@gradient(zero_of)
class _ZeroOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004 (nothing to keep for backward)
        return below_autograd(zero_of, x)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # noqa: ARG004
        return grad


@composite("element_ids(Tensor ids, SymInt[] trailing) -> Tensor")
def element_ids(ids: Tensor, trailing: Sequence[int]) -> Tensor:
    """The number of each element of a row-major tensor whose rows are numbered ``ids``: ``[rows, *trailing]``."""
    width = math.prod(trailing)
    columns = torch.arange(width, dtype=ids.dtype, device=ids.device)
    return (ids.unsqueeze(1) * width + columns).view(-1, *trailing)


@operator("global_count(SymInt count, str group) -> SymInt")
def global_count(count: int, group: str) -> int:
    """The sum over the ranks of a row count. One integer all-reduce."""
    pg = resolve(group)
    if pg is None:
        return count
    total = torch.tensor([count], dtype=torch.int64, device=device_of_numbers(pg))
    count_all_reduce(total, pg)
    dist.all_reduce(total, group=pg)
    return int(total.item())


@fake(global_count)
def _global_count_fake(_count: int, _group: str) -> Any:
    return torch.library.get_ctx().new_dynamic_size()


@operator("random_like(Tensor x, Tensor? ids, int dim, str kind, Tensor key, int site) -> Tensor")
def random_like(x: Tensor, ids: Tensor | None, dim: int, kind: str, key: Tensor, site: int) -> Tensor:
    """Random numbers in the shape and dtype of x that do not depend on the number of ranks.

    Args:
        x: any shape, floating-point; its values are not read. Rows are along ``dim``.
        ids: int64 ``[x.size(dim)]``, the rows' global ids; None where every rank holds all of x.
        dim: the dim of the rows.
        kind: "uniform" in [0, 1), or "normal": mean 0, variance 1 (by Box and Muller, 1958).
        key: int64 ``[2]`` on the CPU, the seed and the step; site: see ``graphshard.kernels.random_bits.random_bits``.

    Returns:
        A new tensor like x, without a gradient.
    """
    shape = torch.empty(x.shape, device="meta").movedim(dim, 0).shape if x.dim() else torch.Size([1])
    if ids is None:
        ids = torch.arange(shape[0], device=x.device)
    width = shape[1:].numel()
    normal = kind == "normal"
    numbers = random_bits(ids, width * (1 + normal), key.tolist(), site).double() / (1 << 53)
    if normal:
        radius = torch.sqrt(-2 * torch.log1p(-numbers[:, :width]))
        numbers = radius * torch.cos(2 * math.pi * numbers[:, width:])
    out = numbers.view(shape).movedim(0, dim) if x.dim() else numbers.reshape(())
    out = out.to(x.dtype)
    # In a shorter dtype a number just below 1 rounds up to it.
    return out if normal else out.clamp(max=1 - torch.finfo(x.dtype).eps / 2)


@fake(random_like)
def _random_like_fake(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


@gradient(random_like)
def _random_like_applied(x: Tensor, *rest: Any) -> Tensor:
    return below_autograd(random_like, x.detach(), *rest)  # type: ignore[no-any-return]


@composite("join_ids(Tensor[] parts) -> Tensor")
def join_ids(parts: Sequence[Tensor]) -> Tensor:
    """Row ids of a concatenation: the segment's number in the upper bits, the id in the lower ones."""
    return torch.cat([ids + (segment << 48) for segment, ids in enumerate(parts)])
