"""The kernels as torch's own ops, for devices and dtypes without kernels of their own: always there, and slower."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from graphshard.kernels.structure import Grouped, by_group, by_number

_PIECE = 1 << 16
"""Edges whose features are gathered at once, where a tensor of all edges by features would be too large."""


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


def _matmul(grouped: Grouped, values: Tensor, table: Tensor) -> Tensor:
    other, size = grouped.other[: grouped.edges], (grouped.groups, table.size(0))
    if not table.numel():
        return table.new_zeros((grouped.groups, table.size(1)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        matrix = torch.sparse_csr_tensor(grouped.start, other, values, size, check_invariants=False)
    return matrix @ table


def _group(grouped: Grouped) -> Tensor:
    """int64, the group of each edge, in the order of the groups."""
    numbers = torch.arange(grouped.groups, device=grouped.start.device)
    return torch.repeat_interleave(numbers, grouped.start.diff(), output_size=grouped.edges)
