"""Sums and means over the rows of all ranks, for losses and metrics outside the model."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from graphshard.ops.exchange import all_reduce, replicated_output
from graphshard.ops.local import global_count
from graphshard.ranks.groups import default_group
from graphshard.shard.placed import PlacedTensor


def sum(values: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The sum of all elements on all ranks; differentiable.

    Of what ``model(shard)`` returned, or was computed from that, it is ``values.sum()``; of a value that every rank
    holds whole its own sum.

    Args:
        values: any shape; a plain tensor is one of this rank's rows.
        group: as for :func:`graphshard.distribute`, of a plain tensor.

    Returns:
        0-dim, the same on every rank; a loss that every rank calls ``backward`` on.
    """
    if isinstance(values, PlacedTensor):
        return values.sum()
    name = default_group() if group is None else str(group.group_name)
    return replicated_output(all_reduce(values.sum(), "sum", name), name)


def mean(values: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The mean of all elements on all ranks, weighted by how many each has; differentiable.

    Of what ``model(shard)`` returned, or was computed from that, it is ``values.mean()``; of a value that every rank
    holds whole its own mean. A loss needs no such call: ``F.cross_entropy(out[mask], y[mask])`` of a shard's tensors is
    the one of one machine, with class weights (``weight=``), ignored labels (``ignore_index=``) and every reduction.
    The mean of ``reduction="none"`` is another number where there are weights or ignored labels, here as there.

    Args:
        values: any floating dtype and shape; a plain tensor is one of this rank's rows, of which some ranks may have
            none.
        group: as for :func:`graphshard.distribute`, of a plain tensor.

    Returns:
        0-dim, the same on every rank; NaN where no rank has a row, as ``torch.mean`` of nothing.
    """
    if isinstance(values, PlacedTensor):
        return values.mean()
    name = default_group() if group is None else str(group.group_name)
    count: int = global_count(values.numel(), name)
    return sum(values, group) / count
