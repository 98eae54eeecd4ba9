"""Combining the copies of a node: in place, and the gradient where they are multiplied."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphshard.ranks.groups import exchange

_SCATTER_NAMES = {"max": "amax", "min": "amin", "prod": "prod"}


def combine_by_rank(
    out: Tensor, send_index: Tensor, send_splits: Sequence[int], rows: Tensor, reduce: str
) -> None:
    """Combine the rows that each rank sends back into ``out[send_index]``, in place and in rank order.

    One step per rank: within one rank's rows no node comes twice, so no order is left to the kernel.
    """
    splits = list(send_splits)
    for index, part in zip(send_index.split_with_sizes(splits), rows.split_with_sizes(splits), strict=True):
        if part.numel():
            combine(out, index, part, reduce)


def combine(out: Tensor, index: Tensor, rows: Tensor, reduce: str) -> None:
    """Combine ``rows`` into ``out[index]``, in place. True + True is True, as for torch's own ``+``."""
    if out.dtype == torch.bool:
        out, rows, reduce = (
            out.view(torch.uint8),
            rows.view(torch.uint8),
            "max" if reduce in ("sum", "max") else "min",
        )
    if reduce == "sum":
        out.index_add_(0, index, rows)
    else:
        full_index = index.view(-1, *[1] * (rows.dim() - 1)).expand_as(rows)
        out.scatter_reduce_(0, full_index, rows, _SCATTER_NAMES[reduce])


def product_gradient(
    grad: Tensor,
    x: Tensor,
    send_index: Tensor,
    send_splits: Sequence[int],
    recv_splits: Sequence[int],
    group: str,
) -> Tensor:
    """The gradient of `graphshard.ops.exchange.halo_reduce` with "prod": exact where factors are 0.

    The owner fetches the factors once more and differentiates PyTorch's own product of rows
    (``torch.scatter_reduce``); each factor's gradient goes back to the rank that it came from.

    Args:
        grad: ``[n, ...]``, of the owned rows. x: ``[n + h, ...]``, what was reduced.
        send_index, send_splits, recv_splits, group: as for the op.

    Returns:
        ``[n + h, ...]``; it cannot be differentiated again.
    """
    halo = sum(recv_splits)
    n = x.size(0) - halo
    factors = x.new_empty((send_index.numel(), *x.shape[1:]))
    exchange(factors, x[n:].contiguous(), recv_splits, send_splits, group)
    index = send_index.view(-1, *[1] * (x.dim() - 1)).expand_as(factors)
    with torch.enable_grad():
        own, others = x[:n].detach().requires_grad_(), factors.requires_grad_()
        product = own.scatter_reduce(0, index, others, "prod")
        to_own, to_others = torch.autograd.grad(product, (own, others), grad.detach())
    out = x.new_empty(x.shape)
    out[:n] = to_own
    exchange(out[n:], to_others.contiguous(), send_splits, recv_splits, group)
    return out
