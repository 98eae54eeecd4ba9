"""distribute_batch_norm: training-mode statistics over the nodes of all ranks.

Before::  y, _, _, mean', var' = batch_norm(x, weight, bias, mean, var, training=True)
After::   m = sum(x) / n; v = sum((x - m)^2) / n          # both sums over all ranks, n the global count
          y = (x - m) * rsqrt(v + eps) * weight + bias
          mean' = lerp(mean, m, momentum); var' = lerp(var, v * n / (n - 1), momentum)

In eval mode the running statistics take the place of m and v: PyTorch's own op crashes in the backward of a
part without rows (torch 2.13, measured).

Statistics are weighted by count, not a mean of means, and the running buffers come out equal on every rank.
Source: Ioffe and Szegedy, Batch Normalization, 2015; ``torch.nn.BatchNorm1d`` for the running variance.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from graphshard.catalogue.call import Call, shape_of
from graphshard.catalogue.edits import BatchNormOverRows
from graphshard.infer.emitter import Emitter
from graphshard.infer.placement import rewrites
from graphshard.ir.calls import calls
from graphshard.ir.program import Program
from graphshard.passes.exact.expand_reductions import count, mean

aten = torch.ops.aten


@dataclass(frozen=True)
class DistributeBatchNorm:
    """Rewrite each batch norm over sharded rows; counts them."""

    name: ClassVar[str] = "distribute_batch_norm"

    def run(self, program: Program) -> int:
        edits = 0
        for call in rewrites(program, BatchNormOverRows):
            _rewrite(program, call)
            edits += 1
        return edits


def _rewrite(program: Program, call: Call) -> None:
    node, x = call.node, call["input"]
    emit = Emitter(program, node)
    ndim = len(shape_of(x))
    dims = (0, *range(2, ndim))
    in_training = not calls(node, aten._native_batch_norm_legit_no_training)
    with emit.before(node):
        if in_training:
            m = mean(emit, x, dims, keepdim=True)
            centred = emit.call(aten.sub.Tensor, x, m)
            squares = emit.call(aten.mul.Tensor, centred, centred)
            v = mean(emit, squares, dims, keepdim=True)
        else:
            m, v = (_per_channel(emit, call[name], ndim) for name in ("running_mean", "running_var"))
            centred = emit.call(aten.sub.Tensor, x, m)
        scale = emit.call(aten.rsqrt.default, emit.call(aten.add.Tensor, v, call["eps"]))
        y = emit.call(aten.mul.Tensor, centred, scale)
        if call["weight"] is not None:
            y = emit.call(aten.mul.Tensor, y, _per_channel(emit, call["weight"], ndim))
        if call["bias"] is not None:
            y = emit.call(aten.add.Tensor, y, _per_channel(emit, call["bias"], ndim))
        results: dict[int, fx.Node] = {0: y}
        if in_training and call.get("running_mean") is not None:
            results[3], results[4] = _running(emit, call, x, dims, m, v)
    _replace_items(call, results)
    program.graph.erase_node(node)


def _per_channel(emit: Emitter, weight: fx.Node, ndim: int) -> fx.Node:
    return weight if ndim == 2 else emit.call(aten.view.default, weight, [-1, *[1] * (ndim - 2)])


def _running(
    emit: Emitter, call: Call, x: fx.Node, dims: tuple[int, ...], m: fx.Node, v: fx.Node
) -> tuple[fx.Node, fx.Node]:
    """The new running mean and (unbiased) running variance, without gradient."""
    n: Any = count(emit, x, dims)
    unbiased = emit.call(operator.truediv, n, emit.call(operator.sub, n, 1))
    flat_m, flat_v = (emit.call(aten.view.default, emit.call(aten.detach.default, t), [-1]) for t in (m, v))
    corrected = emit.call(aten.mul.Tensor, flat_v, unbiased)
    momentum = call["momentum"]
    return tuple(  # type: ignore[return-value]
        emit.call(aten.lerp.Scalar, call[name], new, momentum)
        for name, new in (("running_mean", flat_m), ("running_var", corrected))
    )


def _replace_items(call: Call, results: dict[int, fx.Node]) -> None:
    for item in list(call.node.users):
        index = item.args[1]
        if index not in results:
            if item.users:
                call.refuse("has its batch statistics read by the model", "compute them with mean and var")
        else:
            item.replace_all_uses_with(results[index])  # type: ignore[index]
        item.graph.erase_node(item)
