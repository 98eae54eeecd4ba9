"""Losses, batch norm and dropout: over sharded rows each is rewritten by a pass of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from graphshard.catalogue.call import Call, same_rows
from graphshard.catalogue.edits import BatchNormOverRows, DropoutOverRows, LossOverRows
from graphshard.catalogue.pointwise import broadcast_rows
from graphshard.catalogue.record import Ops, over
from graphshard.ir.calls import calls
from graphshard.ir.placement import Placed, Placement, Rows, replicated
from graphshard.ops import losses

aten = torch.ops.aten

NONE, MEAN, SUM = 0, 1, 2
"""PyTorch's own numbers of a loss's ``reduction`` (ATen/core/Reduction.h)."""


def pointwise_loss(call: Call) -> Placement:
    """``mse_loss``, ``l1_loss``, ``binary_cross_entropy`` and their kind: one term for each element."""
    names = [
        n for n in ("self", "input", "target", "weight", "pos_weight", "log_var", "var") if n in call.args
    ]
    operands = [(call.values(n), call.shape(n)) for n in names if isinstance(call.args[n], fx.Node)]
    ndim = max(len(shape) for _, shape in operands)
    return _reduced(call, broadcast_rows(call, operands, ndim))


def class_loss(call: Call) -> Placement:
    """``cross_entropy`` / ``nll_loss``: classes in dim 1, class numbers or probabilities as targets."""
    scores, target = call.values("input"), call.values("target")
    if isinstance(call["weight"], fx.Node) and call.tensor("weight").sharded:
        call.refuse("takes class weights that are spread over the ranks")
    if (len(scores.dims) > 1 and scores.dims[1] is not None) or (
        scores.dims[:1] == (None,) and scores.sharded
    ):
        call.refuse("has its classes spread over the ranks", "put nodes in dim 0 and classes in dim 1")
    if len(scores.dims) == 1 and scores.sharded:
        call.refuse("takes one score for each node as the scores of classes", "give it [nodes, classes]")
    dims: tuple[Rows | None, ...] = ()
    if scores.dims and len(scores.dims) > 1:
        rows = same_rows(call, [scores, target], [0, 0])
        if rows is not None and (scores.dims[0] is None or target.dims[0] is None):
            call.refuse(f"compares rows {rows} with targets that every rank holds whole")
        dims = (rows, *(None,) * (len(scores.dims) - 2))
    return _reduced(call, dims)


def _reduced(call: Call, dims: tuple[Rows | None, ...]) -> Placement:
    reduction = call.get("reduction", MEAN)
    if reduction == NONE:
        return Placed(dims)
    if not any(d is not None for d in dims):
        return replicated(0)
    if reduction == SUM:
        return Placed((), partial="sum")
    call.edits.append(LossOverRows(call.node))
    return replicated(0)


def batch_norm(call: Call) -> Placement:
    """Training mode: statistics over dim 0 and the dims after the channels."""
    placed, stats = _batch_norm_input(call)
    if any(placed.dims[d] is not None for d in range(len(placed.dims)) if d != 1):
        call.edits.append(BatchNormOverRows(call.node))
    value: Any = call.node.meta["val"]
    return (Placed(placed.dims), *(stats for _ in value[1:]))


def batch_norm_eval(call: Call) -> Placement:
    """Eval mode: the running statistics, row by row; PyTorch's own backward crashes on no rows (measured)."""
    placed, stats = _batch_norm_input(call)
    if placed.sharded:
        call.edits.append(BatchNormOverRows(call.node))
    return (Placed(placed.dims), stats, stats)


def _batch_norm_input(call: Call) -> tuple[Placed, Placed]:
    placed = call.values("input")
    call.check_whole("weight", "bias", "running_mean", "running_var")
    if len(placed.dims) > 1 and placed.dims[1] is not None:
        call.refuse("has its channels spread over the ranks")
    return placed, replicated(1)


def dropout(call: Call) -> Placement:
    """A random mask: the same on any number of ranks once ``distribute_dropout`` has rewritten it."""
    placed = call.values("input")
    if call["train"] and call["p"] != 0:
        call.edits.append(DropoutOverRows(call.node))
    result = Placed(placed.dims)
    return (result, result) if calls(call.node, aten.native_dropout) else result


OPS: Ops = {
    **over(
        (
            aten.mse_loss.default,
            aten.l1_loss.default,
            aten.smooth_l1_loss.default,
            aten.huber_loss.default,
            aten.soft_margin_loss.default,
            aten.binary_cross_entropy.default,
            aten.binary_cross_entropy_with_logits.default,
        ),
        pointwise_loss,
    ),
    losses.cross_entropy: class_loss,
    losses.nll_loss: class_loss,
    aten.cross_entropy_loss.default: lambda call: class_loss(_renamed(call)),
    aten.nll_loss_nd.default: lambda call: class_loss(_renamed(call)),
    aten._native_batch_norm_legit_functional.default: batch_norm,
    aten._native_batch_norm_legit.no_stats: lambda call: batch_norm(_without_running(call)),
    aten._native_batch_norm_legit_no_training.default: batch_norm_eval,
    aten.native_dropout.default: dropout,
    aten.dropout.default: dropout,
}


def _renamed(call: Call) -> Call:
    """ATen calls the scores of cross_entropy and nll_loss_nd ``self``."""
    if "self" in call.args:
        call.args["input"] = call.args.pop("self")
    return call


def _without_running(call: Call) -> Call:
    call.args.setdefault("running_mean", None)
    call.args.setdefault("running_var", None)
    return call
