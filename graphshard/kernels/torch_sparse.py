"""The kernels as torch's own ops, for devices and dtypes without kernels of their own: always there, and slower."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from graphshard.kernels.masks import Mask
from graphshard.kernels.random_bits import random_bits
from graphshard.kernels.structure import Grouped, by_group, by_number

_PIECE = 1 << 16
"""Edges whose features are gathered at once, where a tensor of all edges by features would be too large."""

_HALF = (torch.bfloat16, torch.float16)

_DRAWN = 1 << 20
"""Elements whose random bits are drawn at once."""


class TorchKernels:
    """`graphshard.kernels.interface.Kernels` on any device."""

    def sums(self, grouped: Grouped, weight: Tensor | None, table: Tensor) -> Tensor:
        if weight is None:
            flat = table.reshape(table.size(0), table.shape[1:].numel())
            return _matmul(grouped, flat.new_ones(grouped.edges), flat).view(-1, *table.shape[1:])
        weight = by_group(weight, grouped)
        heads = (
            _matmul(grouped, weight[:, h].contiguous(), table[:, h].contiguous())
            for h in range(table.size(1))
        )
        return torch.stack(list(heads), 1)

    def sums_into(
        self, out: Tensor, to: int, grouped: Grouped, weight: Tensor | None, first: int, table: Tensor
    ) -> None:
        heads, width = table.size(1), table.shape[1:].numel()
        of_these = None if weight is None else weight[:, first : first + heads]
        out[:, to : to + width] = self.sums(grouped, of_these, table).view(-1, width)

    def dots(self, grouped: Grouped, rows: Tensor, table: Tensor) -> Tensor:
        group, other = _group(grouped), grouped.other[: grouped.edges]
        pieces = zip(torch.split(group, _PIECE), torch.split(other, _PIECE), strict=True)
        return by_number(torch.cat([(rows[i] * table[j]).sum(-1) for i, j in pieces]), grouped)

    def softmax(self, grouped: Grouped, scores: Tensor, small: float) -> Tensor:
        group = by_number(_group(grouped), grouped).unsqueeze(-1).expand_as(scores)
        empty = scores.new_full((grouped.groups, scores.size(1)), float("-inf"))
        top = empty.scatter_reduce(0, group, scores, "amax")
        power = (scores - top.gather(0, group)).exp()
        total = torch.zeros_like(empty).scatter_add(0, group, power) + small
        return power / total.gather(0, group)

    def softmax_gradient(self, grouped: Grouped, shares: Tensor, grad: Tensor) -> Tensor:
        group = by_number(_group(grouped), grouped).unsqueeze(-1).expand_as(shares)
        total = shares.new_zeros((grouped.groups, shares.size(1))).scatter_add(0, group, shares * grad)
        return shares * (grad - total.gather(0, group))

    def extremes(self, grouped: Grouped, table: Tensor, sign: int) -> tuple[Tensor, Tensor]:
        values = table[grouped.other[: grouped.edges]]
        group = _group(grouped).view(-1, *[1] * (table.dim() - 1)).expand_as(values)
        out = table.new_zeros((grouped.groups, *table.shape[1:]))
        out = out.scatter_reduce(0, group, values, "amax" if sign > 0 else "amin", include_self=False)
        return out, torch.zeros_like(out).scatter_add(
            0, group, (values == out.gather(0, group)).to(out.dtype)
        )

    def extremes_gradient(self, grouped: Grouped, table: Tensor, best: Tensor, share: Tensor) -> Tensor:
        group, other = _group(grouped), grouped.other[: grouped.edges]
        taken = share[other] * (table[group] == best[other])
        return torch.zeros_like(table).index_add(0, group, taken)

    def dropout(self, x: Tensor, mask: Mask) -> Tensor:
        out = torch.empty_like(x)
        for part, keep in _kept(x, mask):
            part(out).copy_(part(x) * (keep.to(x.dtype) / (1 - mask.p)))
        return out

    def relu_dropout(self, x: Tensor, mask: Mask) -> Tensor:
        done = torch.empty_like(x, dtype=torch.uint8, memory_format=torch.contiguous_format)
        for part, keep in _kept(x, mask):
            rectified = torch.relu(part(x))
            part(done).copy_(torch.where(rectified <= 0, _NOT_POSITIVE, _DROPPED + keep))
            part(x).copy_(rectified * (keep.to(x.dtype) / (1 - mask.p)))
        return done

    def relu_dropout_bytes(self, shape: tuple[int, int, int]) -> int:
        return math.prod(shape)

    def relu_dropout_gradient(self, grad: Tensor, done: Tensor, mask: Mask) -> Tensor:
        done = done.view(grad.shape)
        out = grad * ((done == _KEPT).to(grad.dtype) / (1 - mask.p))
        return out.masked_fill_(done == _NOT_POSITIVE, 0)


_NOT_POSITIVE, _DROPPED, _KEPT = 0, 1, 2  # what a rectifier and a dropout did to an element


def _kept(x: Tensor, mask: Mask) -> Iterator[tuple[Callable[[Tensor], Tensor], Tensor]]:
    """Pieces of a tensor's rows, as views to take of it, and which of their elements are kept.

    Random bits are int64, and several are at work for each: of all elements at once they would take many times the
    tensor's own memory.
    """
    _, rows, _ = mask.shape_of(x)
    width = x.numel() // max(rows, 1)
    ids = torch.arange(rows, device=x.device) if mask.ids is None else mask.ids
    step = max(1, _DRAWN // max(width, 1))
    for first in range(0, rows, step):
        count = min(step, rows - first)
        bits = random_bits(ids[first : first + count], width, mask.key, mask.site)
        keep = bits >= mask.threshold
        if not x.dim():
            yield lambda t: t, keep.view(())
            continue
        trailing = x.movedim(mask.dim, 0).shape[1:]

        def part(t: Tensor, first: int = first, count: int = count) -> Tensor:
            return t.narrow(mask.dim, first, count)

        yield part, keep.view(count, *trailing).movedim(0, mask.dim)


def _matmul(grouped: Grouped, values: Tensor, table: Tensor) -> Tensor:
    other, size = grouped.other[: grouped.edges], (grouped.groups, table.size(0))
    if not table.numel():
        return table.new_zeros((grouped.groups, table.size(1)))
    if table.dtype in _HALF and table.device.type == "cpu":  # torch has no sparse product of these there
        return _matmul(grouped, values.float(), table.float()).to(table.dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        matrix = torch.sparse_csr_tensor(grouped.start, other, values, size, check_invariants=False)
    return matrix @ table


def _group(grouped: Grouped) -> Tensor:
    """int64, the group of each edge, in the order of the groups."""
    numbers = torch.arange(grouped.groups, device=grouped.start.device)
    return torch.repeat_interleave(numbers, grouped.start.diff(), output_size=grouped.edges)
