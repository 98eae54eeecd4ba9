"""The communication that a distributed program is made of.

::

              halo_sync                              halo_reduce
    [n, ...] -----------> [n + h, ...]    [n + h, ...] -----------> [n, ...]
     owned                 owned, halo     owned, halo                owned

Each of the two is the other's backward. ``all_reduce`` with "sum" is its own. ``replicated_input`` and
``replicated_output`` are identities that hold the gradient convention: the cotangent of a replicated value is
a term on each rank, its truth the sum over the ranks.

Every op takes the *name* of a process group; the empty name ``""`` stands for a single rank, where nothing is
sent and a plan's exchange is with itself. Every rank takes part in every exchange, also with no rows to send.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from graphshard.errors import GraphshardError, RuntimeMismatch, ShardError
from graphshard.ops.copies import combine_by_rank, halo_terms, product_of_copies
from graphshard.ops.float_order import from_order_keys, order_keys
from graphshard.ops.registration import below_autograd, fake, gradient, none_of_none, operator
from graphshard.ranks.groups import (
    ByteCounter,
    all_gather_object,
    count_all_reduce,
    count_bytes,
    default_group,
    exchange,
    group_rank,
    group_size,
    resolve,
)

__all__ = [
    "ByteCounter",
    "all_gather_object",
    "all_reduce",
    "count_bytes",
    "default_group",
    "group_rank",
    "group_size",
    "halo_reduce",
    "halo_sync",
    "replicated_input",
    "replicated_output",
    "share_of_each",
]

_REDUCE_OPS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}


def _check_plan(
    send_index: Tensor, send_splits: Sequence[int], recv_splits: Sequence[int], group: str
) -> None:
    size = group_size(group)
    if len(send_splits) != size or len(recv_splits) != size:
        raise RuntimeMismatch(
            f"the halo plan is for {len(send_splits)} ranks, but the process group has {size}; "
            "partition the graph into as many parts as there are ranks"
        )
    if send_index.numel() != sum(send_splits):
        raise ShardError(
            f"the halo plan sends {sum(send_splits)} rows but lists {send_index.numel()} to send"
        )
    if not group and sum(send_splits) != sum(recv_splits):
        raise ShardError("the halo plan of a single rank must receive as many rows as it sends")


def _check_reduce(reduce: str, known: Collection[str] = _REDUCE_OPS) -> None:
    if reduce not in known:
        raise GraphshardError(f"no reduction {reduce!r}; choose one of {', '.join(known)}")


# ---- halo_sync ---------------------------------------------------------------------------------------------


@operator(
    "halo_sync(Tensor x, Tensor send_index, SymInt[] send_splits, SymInt[] recv_splits, str group) -> Tensor"
)
def halo_sync(
    x: Tensor, send_index: Tensor, send_splits: Sequence[int], recv_splits: Sequence[int], group: str
) -> Tensor:
    """Owned rows followed by the halo rows, fetched from the ranks that own them.

    Args:
        x: ``[n, ...]``, any dtype; a row per owned node.
        send_index, send_splits, recv_splits: this rank's `graphshard.shard.halo.HaloPlan`.
        group: name of the process group, or ``""``.

    Returns:
        ``[n + h, ...]``, of x's dtype; never aliases x. Backward: `halo_reduce` with "sum".

    Raises:
        RuntimeMismatch: the plan is for another number of ranks.
        ShardError: the plan contradicts itself.
    """
    _check_plan(send_index, send_splits, recv_splits, group)
    n, h = x.size(0), sum(recv_splits)
    out = x.new_empty((n + h, *x.shape[1:]))
    out[:n] = x
    exchange(out[n:], x.index_select(0, send_index), send_splits, recv_splits, group)
    return out


@fake(halo_sync)
def _halo_sync_fake(x: Tensor, _index: Tensor, _send: Any, recv_splits: Sequence[int], _group: str) -> Tensor:
    return x.new_empty((x.size(0) + sum(recv_splits), *x.shape[1:]))


@gradient(halo_sync)
class _HaloSync(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *plan: Any) -> Tensor:
        ctx.plan = plan
        return below_autograd(halo_sync, x, *plan)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *plan, group = ctx.plan
        return halo_reduce(grad, *plan, "sum", group), None, None, None, None


# ---- halo_reduce -------------------------------------------------------------------------------------------


@operator(
    "halo_reduce(Tensor x, Tensor send_index, SymInt[] send_splits, SymInt[] recv_splits, str reduce, str group)"
    " -> Tensor"
)
def halo_reduce(
    x: Tensor,
    send_index: Tensor,
    send_splits: Sequence[int],
    recv_splits: Sequence[int],
    reduce: str,
    group: str,
) -> Tensor:
    """Send the halo rows to their owners and combine them into the owned rows; the adjoint of `halo_sync`.

    Args:
        x: ``[n + h, ...]``; owned rows, then halo rows. Any dtype that the reduction knows.
        send_index, send_splits, recv_splits: this rank's plan, as for `halo_sync`: data flows against it.
        reduce: "sum", "max", "min" or "prod"; the owner's own row counts as a term.
        group: name of the process group, or ``""``.

    Returns:
        ``[n, ...]``, of x's dtype; never aliases x. Terms are combined in rank order, so the result is the
        same in every run. Backward: of "sum", `halo_sync`; of "prod",
        `graphshard.ops.copies.product_of_copies`; "max" and "min" have none (a gradient shared between ties on
        several ranks needs their count).

    Raises:
        RuntimeMismatch, ShardError: as `halo_sync`.
        GraphshardError: an unknown reduction, or a backward through "max" or "min".
    """
    _check_reduce(reduce, (*_REDUCE_OPS, "prod"))
    _check_plan(send_index, send_splits, recv_splits, group)
    n = x.size(0) - sum(recv_splits)
    if n < 0:
        raise ShardError(f"halo_reduce got {x.size(0)} rows, fewer than the halo's {sum(recv_splits)}")
    rows = halo_terms(x, send_index, send_splits, recv_splits, group)
    out = x[:n].clone(memory_format=torch.contiguous_format)
    combine_by_rank(out, send_index, send_splits, rows, reduce)
    return out


@fake(halo_reduce)
def _halo_reduce_fake(x: Tensor, _index: Tensor, _send: Any, recv_splits: Sequence[int], *_: str) -> Tensor:
    return x.new_empty((x.size(0) - sum(recv_splits), *x.shape[1:]))


@none_of_none
class _HaloReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *plan: Any) -> Tensor:
        *ctx.plan, ctx.reduce, ctx.group = plan
        return below_autograd(halo_reduce, x, *plan)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_backward("halo_reduce", ctx.reduce)
        return halo_sync(grad, *ctx.plan, ctx.group), *(None,) * 5


@gradient(halo_reduce)
def _halo_reduce_applied(x: Tensor, *plan: Any) -> Tensor:
    *rest, reduce, group = plan
    if reduce == "prod" and x.requires_grad:
        send_index, send_splits, recv_splits = rest
        return product_of_copies(x, send_index, send_splits, recv_splits, group)
    return _HaloReduce.apply(x, *plan)  # type: ignore[no-untyped-call, no-any-return]


def _refuse_backward(op: str, reduce: str) -> None:
    if reduce != "sum":
        raise GraphshardError(
            f"{op} with {reduce!r} has no gradient (ties may span ranks); detach its input and share the "
            "gradient among the ties explicitly"
        )


# ---- all_reduce --------------------------------------------------------------------------------------------


@operator("all_reduce(Tensor x, str reduce, str group) -> Tensor")
def all_reduce(x: Tensor, reduce: str, group: str) -> Tensor:
    """The reduction of every rank's ``x`` (same shape on each), the same bits on every rank.

    Args:
        x: any shape and dtype. reduce: "sum", "max" or "min". group: name of the process group, or ``""``.

    Returns:
        A new tensor like x. Backward: of "sum", an all-reduced sum; "max" and "min" have none. A NaN on any
        rank is a NaN on all, as for ``torch.amax`` (gloo and NCCL drop it or not, by the order of ranks).

    Raises:
        GraphshardError: an unknown reduction, or a backward through "max" or "min".
    """
    _check_reduce(reduce)
    pg = resolve(group)
    out = x.clone(memory_format=torch.contiguous_format)
    if pg is None:
        return out
    count_all_reduce(out, pg)
    if reduce != "sum" and out.is_floating_point():
        keys = order_keys(out, reduce)
        dist.all_reduce(keys, op=_REDUCE_OPS[reduce], group=pg)
        return from_order_keys(keys).to(out.dtype)
    # gloo knows no int16; int32 gives the same value, wrap-around included.
    wire = out.to(torch.int32) if out.dtype == torch.int16 else out
    dist.all_reduce(wire, op=_REDUCE_OPS[reduce], group=pg)
    return wire.to(out.dtype)


@fake(all_reduce)
def _all_reduce_fake(x: Tensor, *_: str) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@gradient(all_reduce)
class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, reduce: str, group: str) -> Tensor:
        ctx.reduce, ctx.group = reduce, group
        return below_autograd(all_reduce, x, reduce, group)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_backward("all_reduce", ctx.reduce)
        return all_reduce(grad, "sum", ctx.group), None, None


# ---- replicated values -------------------------------------------------------------------------------------


# These two are traced by torch.compile, which does not look through `none_of_none`.
class _ReplicatedInput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: str) -> Tensor:
        ctx.group = group
        ctx.set_materialize_grads(False)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None]:
        if grad is None:
            return None, None
        # The sum leaves the program: what is computed from it outside is computed on every rank.
        return replicated_output(all_reduce(grad, "sum", ctx.group), ctx.group), None


class _ReplicatedOutput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: str) -> Tensor:
        ctx.group = group
        ctx.set_materialize_grads(False)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None]:
        if grad is None:
            return None, None
        # The cotangent enters the program: what differs between the ranks in there comes back as a sum.
        return share_of_each(replicated_input(grad, ctx.group), ctx.group), None


@operator("share_of_each(Tensor x, str group) -> Tensor")
def share_of_each(x: Tensor, group: str) -> Tensor:
    """What each rank takes of a cotangent that all ranks hold whole: ``x / world_size``; all ranks decide alike.

    Args:
        x: any shape, floating. group: name of the process group, or ``""``.

    Raises:
        RuntimeMismatch: it differs between the ranks.
    """
    pg = resolve(group)
    if pg is None:
        return x.clone()
    both = torch.stack([x, -x]).contiguous()
    dist.all_reduce(both, op=dist.ReduceOp.MAX, group=pg)  # the largest, and minus the smallest
    spread, size = (both[0] + both[1]).abs(), both.abs().amax(0)
    if bool((spread > 1e3 * torch.finfo(x.dtype).eps * size).any()):
        raise RuntimeMismatch(
            "the gradient of a value that is equal on all ranks differs between them: it was combined with "
            "this rank's own rows outside the model; combine them inside forward, where it is captured"
        )
    return x / pg.size()


@fake(share_of_each)
def _share_of_each_fake(x: Tensor, _group: str) -> Tensor:
    return torch.empty_like(x)


@gradient(share_of_each)
class _ShareOfEach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: str) -> Tensor:
        ctx.group = group
        return below_autograd(share_of_each, x, group)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad / group_size(ctx.group), None


def replicated_input(x: Tensor, group: str) -> Tensor:
    """x itself, where it enters the program; its gradient is summed over the ranks.

    For Parameters and other inputs that are equal on every rank. Returns a view of x (x itself for "").
    """
    return _ReplicatedInput.apply(x, group) if group else x  # type: ignore[no-untyped-call]


def replicated_output(x: Tensor, group: str) -> Tensor:
    """x itself, where it leaves the program; its cotangent, 1.0 on each rank, is divided by the world size.

    For outputs that are equal on every rank, such as a loss. Returns a view of x (x itself for "").

    Raises:
        RuntimeMismatch: in backward, where the cotangents of the ranks differ.
    """
    return _ReplicatedOutput.apply(x, group) if group else x  # type: ignore[no-untyped-call]
