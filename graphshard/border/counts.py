"""How many rows a placed tensor has, of all ranks: its sizes read as they do on one machine."""

from __future__ import annotations

import math

import torch

from graphshard.errors import ShardError
from graphshard.execute.agreement import agree_on_function
from graphshard.ir.placement import Edges, Owned, Rows
from graphshard.private.torch_functions import WithoutTorchFunction
from graphshard.ranks.groups import all_gather_numbers, default_group, group_size
from graphshard.shard.placed import PlacedTensor


class RowCount(int):
    """A number of rows that knows which rows: ``out.view(out.size(0), -1)`` is then right on each rank's part."""

    rows: Rows

    @classmethod
    def of(cls, count: int, rows: Rows) -> RowCount:
        number = cls(count)
        number.rows = rows
        return number


def shape_of(value: PlacedTensor) -> torch.Size:
    """The sizes on one machine; collective where it has rows that a mask kept, the first time."""
    with WithoutTorchFunction():
        own = value.local().shape
    return torch.Size(
        [rows_along(value, dim) if value.placement.dims[dim] else n for dim, n in enumerate(own)]
    )


def size_of(value: PlacedTensor, dim: int | None = None) -> torch.Size | int:
    """``value.size(dim)``."""
    shape = shape_of(value)
    return shape if dim is None else shape[dim]


def numel_of(value: PlacedTensor) -> int:
    """``value.numel()``."""
    return math.prod(shape_of(value))


def rows_along(value: PlacedTensor, dim: int) -> int:
    """How many rows all ranks have along a dim."""
    rows, shard = value.placement.dims[dim], value.shard
    own = value.local().size(dim)
    if rows is None:
        return own
    if isinstance(rows, Owned):
        return RowCount.of(shard.sizes.nodes[rows.nodes], rows)
    if isinstance(rows, Edges):
        return RowCount.of(shard.sizes.edges[rows.name], rows)
    if value.num_rows is None:
        value.num_rows = _sum_of(own, value)
    return RowCount.of(value.num_rows, rows)


def _sum_of(own: int, value: PlacedTensor) -> int:
    origin = value.origin
    group = default_group() if origin.group is None else origin.group
    if group_size(group) != origin.shard.world_size:
        raise ShardError(
            f"the tensor is one of {origin.shard.world_size} parts, and this job has {group_size(group)} rank(s): its "
            "number of rows is not known; .local() is the plain tensor of this part's"
        )
    agree_on_function("a number of rows", origin.shard.rank, value.device, group)
    return sum(count for (count,) in all_gather_numbers([own], value.device, group))
