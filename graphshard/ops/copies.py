"""Combining the copies of a node: in place, and where they are multiplied, by terms that each owner fetches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphshard.ops.registration import below_autograd, fake, gradient, operator
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


_PLAN = "Tensor send_index, SymInt[] send_splits, SymInt[] recv_splits, str group"


@operator(f"halo_terms(Tensor x, {_PLAN}) -> Tensor")
def halo_terms(
    x: Tensor, send_index: Tensor, send_splits: Sequence[int], recv_splits: Sequence[int], group: str
) -> Tensor:
    """The rows that other ranks' copies of a node hold, at its owner, one after the other.

    Args:
        x: ``[n + h, ...]``, owned and halo rows.
        send_index, send_splits, recv_splits, group: as for `graphshard.ops.exchange.halo_reduce`.

    Returns:
        ``[sum(send_splits), ...]``: a row for each entry of ``send_index``. Backward: :func:`halo_copies`.
    """
    rows = x.new_empty((send_index.numel(), *x.shape[1:]))
    halo = x[x.size(0) - sum(recv_splits) :]
    exchange(rows, halo.contiguous(), recv_splits, send_splits, group)
    return rows


@operator(f"halo_copies(Tensor rows, SymInt owned, {_PLAN}) -> Tensor")
def halo_copies(
    rows: Tensor,
    owned: int,
    send_index: Tensor,  # noqa: ARG001 (an argument of the plan)
    send_splits: Sequence[int],
    recv_splits: Sequence[int],
    group: str,
) -> Tensor:
    """The adjoint of :func:`halo_terms`: a row for each copy, at its rank, behind ``owned`` rows of zeros."""
    halo = sum(recv_splits)
    out = rows.new_zeros((owned + halo, *rows.shape[1:]))
    exchange(out[owned:], rows.contiguous(), send_splits, recv_splits, group)
    return out


@fake(halo_terms)
def _halo_terms_fake(x: Tensor, send_index: Tensor, *_: Any) -> Tensor:
    return x.new_empty((send_index.size(0), *x.shape[1:]))


@fake(halo_copies)
def _halo_copies_fake(
    rows: Tensor, owned: int, _index: Tensor, _send: Any, recv_splits: Sequence[int], _group: str
) -> Tensor:
    return rows.new_empty((owned + sum(recv_splits), *rows.shape[1:]))


@gradient(halo_terms)
class _HaloTerms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *plan: Any) -> Tensor:
        ctx.owned, ctx.plan = x.size(0) - sum(plan[2]), plan
        return below_autograd(halo_terms, x, *plan)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return halo_copies(grad, ctx.owned, *ctx.plan), *(None,) * 4


@gradient(halo_copies)
class _HaloCopies(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, owned: int, *plan: Any) -> Tensor:
        ctx.plan = plan
        return below_autograd(halo_copies, rows, owned, *plan)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return halo_terms(grad, *ctx.plan), *(None,) * 5


def product_of_copies(
    x: Tensor, send_index: Tensor, send_splits: Sequence[int], recv_splits: Sequence[int], group: str
) -> Tensor:
    """`graphshard.ops.exchange.halo_reduce` with "prod", as PyTorch differentiates it: exact where factors are 0.

    A second derivative is refused by ``torch.scatter_reduce`` where they are.
    """
    terms = halo_terms(x, send_index, send_splits, recv_splits, group)
    splits, out = list(send_splits), x[: x.size(0) - sum(recv_splits)]
    for index, part in zip(send_index.split_with_sizes(splits), terms.split_with_sizes(splits), strict=True):
        full_index = index.view(-1, *[1] * (part.dim() - 1)).expand_as(part)
        out = out.scatter_reduce(0, full_index, part, "prod")
    return out
