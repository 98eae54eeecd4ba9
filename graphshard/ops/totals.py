"""Sums and means over the rows of all ranks, for losses and metrics outside the model."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from graphshard.ops.exchange import all_reduce, replicated_output
from graphshard.ops.local import global_count
from graphshard.ranks.groups import default_group


def sum(values: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The sum of all elements on all ranks; differentiable.

    Args:
        values: any shape, this rank's rows.
        group: as for :func:`graphshard.distribute`.

    Returns:
        0-dim, the same on every rank; a loss that every rank calls ``backward`` on.
    """
    name = default_group() if group is None else str(group.group_name)
    return replicated_output(all_reduce(values.sum(), "sum", name), name)


def mean(values: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The mean of all elements on all ranks, weighted by how many each has; differentiable.

    Use it where a single machine's loss has ``reduction="mean"``::

        loss = graphshard.mean(F.cross_entropy(out[mask], y[mask], reduction="none"))

    Args:
        values: any floating dtype and shape, this rank's rows; may have none on some ranks.
        group: as for :func:`graphshard.distribute`.

    Returns:
        0-dim, the same on every rank; NaN where no rank has a row, as ``torch.mean`` of nothing.
    """
    name = default_group() if group is None else str(group.group_name)
    count: int = global_count(values.numel(), name)
    return sum(values, group) / count
