"""Several exchanges in one message, and several gradients in one all-reduce.

::

    merged_sync(x, y)          [x's row | y's row] for each halo node, one all-to-all     backward: merged_reduce
    bucketed_inputs(a, b, c)   identities                                                backward: one all-reduce

What gradients are sent is decided by what needs one, which is the same on every rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphshard.ops.copies import combine_by_rank
from graphshard.ops.exchange import all_reduce, replicated_output
from graphshard.ops.registration import below_autograd, fake, gradient, none_of_none, operator
from graphshard.ranks.groups import exchange

__all__ = ["bucketed_inputs", "merged_reduce", "merged_sync"]

_PLAN = "Tensor send_index, SymInt[] send_splits, SymInt[] recv_splits, str group, ScalarType? wire=None"


@operator(f"merged_sync(Tensor[] values, {_PLAN}) -> Tensor[]")
def merged_sync(
    values: Sequence[Tensor],
    send_index: Tensor,
    send_splits: Sequence[int],
    recv_splits: Sequence[int],
    group: str,
    wire: torch.dtype | None = None,
) -> list[Tensor]:
    """``graphshard.ops.exchange.halo_sync`` of several values of one dtype, in one exchange.

    Args:
        values: each ``[n, ...]``, of one floating dtype.
        wire: what rows are rounded to while they travel, forward and back (inexact); None sends them as they are.
        send_index, send_splits, recv_splits, group: as for ``halo_sync``.

    Returns:
        Each ``[n + h, ...]``. Backward: :func:`merged_reduce`.
    """
    sent = _packed([v.index_select(0, send_index) for v in values], send_index.numel())
    received = _exchanged(sent, send_splits, recv_splits, group, wire)
    found = []
    for value, part in zip(values, received.split(_widths(values), 1), strict=True):  # type: ignore[no-untyped-call]
        out = value.new_empty((value.size(0) + part.size(0), *value.shape[1:]))
        out[: value.size(0)] = value
        out[value.size(0) :] = part.view(-1, *value.shape[1:])
        found.append(out)
    return found


@operator(f"merged_reduce(Tensor[] values, {_PLAN}) -> Tensor[]")
def merged_reduce(
    values: Sequence[Tensor],
    send_index: Tensor,
    send_splits: Sequence[int],
    recv_splits: Sequence[int],
    group: str,
    wire: torch.dtype | None = None,
) -> list[Tensor]:
    """The adjoint of :func:`merged_sync`: each ``[n + h, ...]`` to ``[n, ...]``, terms added in rank order."""
    owned = [v.size(0) - sum(recv_splits) for v in values]
    sent = _packed([v[n:] for v, n in zip(values, owned, strict=True)], sum(recv_splits))
    received = _exchanged(sent, recv_splits, send_splits, group, wire)
    found = []
    parts = received.split(_widths(values), 1)  # type: ignore[no-untyped-call]
    for value, n, part in zip(values, owned, parts, strict=True):
        out = value[:n].clone(memory_format=torch.contiguous_format)
        combine_by_rank(out, send_index, send_splits, part.reshape(-1, *value.shape[1:]), "sum")
        found.append(out)
    return found


def _widths(values: Sequence[Tensor]) -> list[int]:
    return [int(v.shape[1:].numel()) for v in values]


def _packed(values: Sequence[Tensor], rows: int) -> Tensor:
    """The values' columns side by side."""
    flat = [v.reshape(rows, width) for v, width in zip(values, _widths(values), strict=True)]
    return torch.cat(flat, 1)


def _exchanged(
    rows: Tensor, send_splits: Sequence[int], recv_splits: Sequence[int], group: str, wire: torch.dtype | None
) -> Tensor:
    """What the other ranks send for ``rows``, of their dtype."""
    sent = rows if wire is None else rows.to(wire)
    received = sent.new_empty((sum(recv_splits), sent.size(1)))
    exchange(received, sent, send_splits, recv_splits, group)
    return received.to(rows.dtype)


@fake(merged_sync)
def _merged_sync_fake(
    values: Sequence[Tensor], _index: Tensor, _send: Any, recv_splits: Sequence[int], *_: Any
) -> list[Tensor]:
    halo = sum(recv_splits)
    return [v.new_empty((v.size(0) + halo, *v.shape[1:])) for v in values]


@fake(merged_reduce)
def _merged_reduce_fake(
    values: Sequence[Tensor], _index: Tensor, _send: Any, recv_splits: Sequence[int], *_: Any
) -> list[Tensor]:
    halo = sum(recv_splits)
    return [v.new_empty((v.size(0) - halo, *v.shape[1:])) for v in values]


@none_of_none
class _MergedSync(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: tuple[Any, ...], *values: Tensor) -> tuple[Tensor, ...]:
        ctx.plan = plan
        found = tuple(below_autograd(merged_sync, values, *plan))
        ctx.mark_non_differentiable(*_without_gradient(found, ctx.needs_input_grad[1:]))
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *_adjoint(merged_reduce, ctx, grads)


@none_of_none
class _MergedReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: tuple[Any, ...], *values: Tensor) -> tuple[Tensor, ...]:
        ctx.plan = plan
        found = tuple(below_autograd(merged_reduce, values, *plan))
        ctx.mark_non_differentiable(*_without_gradient(found, ctx.needs_input_grad[1:]))
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *_adjoint(merged_sync, ctx, grads)


@gradient(merged_sync)
def _merged_sync_applied(values: Sequence[Tensor], *plan: Any) -> tuple[Tensor, ...]:
    return _MergedSync.apply(plan, *values)  # type: ignore[no-untyped-call, no-any-return]


@gradient(merged_reduce)
def _merged_reduce_applied(values: Sequence[Tensor], *plan: Any) -> tuple[Tensor, ...]:
    return _MergedReduce.apply(plan, *values)  # type: ignore[no-untyped-call, no-any-return]


def _adjoint(op: Any, ctx: Any, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The op of the gradients that there are and that are asked for, in one message; None of any other."""
    wanted = [i for i, g in enumerate(grads) if g is not None and ctx.needs_input_grad[1 + i]]
    found: list[Tensor | None] = [None] * len(grads)
    if wanted:
        for i, value in zip(wanted, op([grads[i] for i in wanted], *ctx.plan), strict=True):
            found[i] = value
    return found


def _without_gradient(results: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor]:
    """The results of values that need no gradient: they have none, whatever else is in the same message."""
    return [result for result, need in zip(results, needed, strict=True) if not need]


def bucketed_inputs(values: Sequence[Tensor], group: str) -> tuple[Tensor, ...]:
    """``graphshard.ops.exchange.replicated_input`` of several values: their gradients are summed in one all-reduce.

    Args:
        values: floating, equal on every rank. group: the name of the process group.

    Returns:
        Views of the values (themselves for ``""``); those of values without a gradient have none.
    """
    if not group:
        return tuple(values)
    return _Bucket.apply(group, *values)  # type: ignore[no-untyped-call, no-any-return]


# Traced by torch.compile, which does not look through `none_of_none`.
class _Bucket(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, group: str, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.group = group
        ctx.set_materialize_grads(False)
        found = tuple(v.view_as(v) for v in values)
        ctx.mark_non_differentiable(*_without_gradient(found, ctx.needs_input_grad[1:]))
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        found: list[Tensor | None] = list(grads)
        for dtype in dict.fromkeys(g.dtype for g in grads if g is not None):
            chosen = [i for i, g in enumerate(grads) if g is not None and g.dtype is dtype]
            flat = torch.cat([grads[i].reshape(-1) for i in chosen])  # type: ignore[union-attr]
            total: Tensor = replicated_output(all_reduce(flat, "sum", ctx.group), ctx.group)
            sizes = [grads[i].numel() for i in chosen]  # type: ignore[union-attr]
            for i, part in zip(chosen, torch.split(total, sizes), strict=True):
                found[i] = part.view_as(grads[i])  # type: ignore[arg-type]
        return None, *found
