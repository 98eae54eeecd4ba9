"""All ranks' rows in one tensor on every rank, and each rank's rows of one: each is the other's backward.

::

              gather_rows
    [n, ...] -------------> [N, ...]    every rank holds all rows
     a rank's  <-----------
              take_rows

A value that every rank holds whole outside of a program is used alike on all of them, so its cotangent is whole too,
the true one on each rank: a rank's rows of it are the cotangent of its rows, and nothing is summed. In backward the
ranks compare their cotangents; a loss of one rank alone is an error, not a wrong gradient.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from graphshard.errors import RuntimeMismatch
from graphshard.ops.registration import below_autograd, fake, gradient, operator
from graphshard.ranks.groups import all_gather_rows, resolve


@operator("gather_rows(Tensor rows, Tensor ids, SymInt num_rows, str group) -> Tensor")
def gather_rows(rows: Tensor, ids: Tensor, num_rows: int, group: str) -> Tensor:
    """Every rank's rows, each at its place in the whole. Collective.

    Args:
        rows: ``[n, ...]``, this rank's, of any dtype; the same trailing shape on every rank.
        ids: int64 ``[n]``, the place of each; every place is named once, by one rank.
        num_rows: N, of the whole.
        group: name of the process group, or ``""``.

    Returns:
        ``[N, ...]``, the same on every rank; never aliases rows. Backward: `take_rows` of a cotangent that is the same
        on every rank.

    Raises:
        RuntimeMismatch: in backward, where the ranks' cotangents differ.
    """
    whole = rows.new_empty((num_rows, *rows.shape[1:]))
    parts, places = all_gather_rows([rows, ids], group)
    for place, part in zip(places, parts, strict=True):
        whole[place] = part
    return whole


@fake(gather_rows)
def _gather_rows_fake(rows: Tensor, _ids: Tensor, num_rows: int, _group: str) -> Tensor:
    return rows.new_empty((num_rows, *rows.shape[1:]))


@operator("take_rows(Tensor whole, Tensor ids, str group) -> Tensor")
def take_rows(whole: Tensor, ids: Tensor, group: str) -> Tensor:  # noqa: ARG001 (backward exchanges)
    """This rank's rows of a tensor that every rank holds whole. No communication forward.

    Args:
        whole: ``[N, ...]``, the same on every rank. ids: int64 ``[n]``, as for `gather_rows`.
        group: name of the process group, or ``""``.

    Returns:
        ``[n, ...]``; never aliases whole. Backward: `gather_rows`.
    """
    return whole.index_select(0, ids)


@fake(take_rows)
def _take_rows_fake(whole: Tensor, ids: Tensor, _group: str) -> Tensor:
    return whole.new_empty((ids.size(0), *whole.shape[1:]))


@gradient(gather_rows)
class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, ids: Tensor, num_rows: int, group: str) -> Tensor:
        ctx.ids, ctx.group = ids, group
        return below_autograd(gather_rows, rows, ids, num_rows, group)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        check_equal_on_ranks(grad, ctx.group, "the gradient of gathered rows")
        return take_rows(grad, ctx.ids, ctx.group), None, None, None


@gradient(take_rows)
class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor, ids: Tensor, group: str) -> Tensor:
        ctx.ids, ctx.num_rows, ctx.group = ids, whole.size(0), group
        return below_autograd(take_rows, whole, ids, group)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return gather_rows(grad, ctx.ids, ctx.num_rows, ctx.group), None, None


def check_equal_on_ranks(value: Tensor, group: str, called: str) -> None:
    """Make sure that every rank brings the same value, by two sums of its elements. One message of 6 numbers.

    Args:
        value: floating, of the same shape on every rank. group: name of the process group, or ``""``.
        called: what the message calls it.

    Raises:
        RuntimeMismatch: on every rank alike, where they differ by more than rounding.
    """
    pg = resolve(group)
    if pg is None:
        return
    flat = (torch.view_as_real(value) if value.is_complex() else value).detach().double().reshape(-1)
    # The second sum weights the elements: the rows of one loss may stand in another order on some rank.
    numbers = torch.arange(1, flat.numel() + 1, dtype=torch.float64, device=flat.device)
    weights = torch.frac(numbers * 0.6180339887498949)
    sums = torch.stack([flat.sum(), flat @ weights, flat.abs().sum()])
    both = torch.stack([sums, -sums])
    dist.all_reduce(both, op=dist.ReduceOp.MAX, group=pg)
    spread, size = (both[0] + both[1])[:2], both[0, 2]
    if bool((spread > 1e3 * torch.finfo(value.dtype).eps * size).any()):
        raise RuntimeMismatch(
            f"{called} differs between the ranks: what every rank holds whole, every rank must compute alike, with the "
            "same random numbers; a loss of a rank's own rows alone must be computed before they are gathered"
        )
