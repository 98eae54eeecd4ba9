"""expand_reductions: means, variances and softmaxes over all nodes or edges, by their definitions.

Before::  m = mean(x, [0])
After::   s = sum(x, [0]); n = sym_size(x, 0); m = div(s, n)

The sum is then a term on each rank and the size a count of rows, which ``insert_all_reduce`` makes global: the
mean of means would weight every rank alike. A softmax along the rows subtracts the maximum over all ranks and
divides by the sum over all ranks.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from graphshard.catalogue.call import Call, shape_of
from graphshard.catalogue.edits import StatisticOverRows
from graphshard.catalogue.reduce import reduced_dims
from graphshard.infer.emitter import Emitter
from graphshard.infer.rewrite import rewrite_each
from graphshard.ir.calls import calls
from graphshard.ir.program import Program
from graphshard.passes.exact.expand_extremes import top

aten = torch.ops.aten


@dataclass(frozen=True)
class ExpandReductions:
    """Rewrite each mean, var, std and softmax over sharded rows; counts them."""

    name: ClassVar[str] = "expand_reductions"

    def run(self, program: Program) -> int:
        return rewrite_each(program, StatisticOverRows, _expand)


def _expand(emit: Emitter, call: Call) -> fx.Node | tuple[fx.Node, ...]:
    x, node = call["self"], call.node
    if calls(node, *_SOFTMAXES, *_LOG_SOFTMAXES):
        return softmax(emit, call, logarithm=calls(node, *_LOG_SOFTMAXES))
    dims = reduced_dims(call, len(shape_of(x)))
    keepdim = bool(call.get("keepdim", False))
    averages = calls(node, aten.mean, aten.var_mean, aten.std_mean)
    average = mean(emit, x, dims, keepdim, call.get("dtype")) if averages else None
    if calls(node, aten.mean):
        assert average is not None
        return average
    correction = 1 if call.get("unbiased", True) else 0
    if call.get("correction") is not None:
        correction = call["correction"]
    spread = var(emit, x, dims, keepdim, correction)
    if calls(node, aten.std, aten.std_mean):
        spread = _root(emit, spread)
    return spread if average is None else (spread, average)


_SOFTMAXES = (aten.softmax, aten._softmax)
_LOG_SOFTMAXES = (aten.log_softmax, aten._log_softmax)


def softmax(emit: Emitter, call: Call, *, logarithm: bool) -> fx.Node:
    """``exp(x - m) / sum(exp(x - m))``, or its logarithm; the result does not depend on the maximum m."""
    x = call["self"]
    if (dtype := call.get("dtype")) is not None:
        x = emit.call(aten._to_copy.default, x, dtype=dtype)
    dims = [call["dim"] % len(shape_of(x))]
    m = top(emit, emit.call(aten.detach.default, x), dims, "max")
    shifted = emit.call(aten.sub.Tensor, x, m)
    exponential = emit.call(aten.exp.default, shifted)
    total = emit.call(aten.sum.dim_IntList, exponential, dims, True)
    if logarithm:
        return emit.call(aten.sub.Tensor, shifted, emit.call(aten.log.default, total))
    return emit.call(aten.div.Tensor, exponential, total)


def _root(emit: Emitter, variance: fx.Node) -> fx.Node:
    """A square root whose gradient at 0 is 0, as that of ``torch.std``; autograd's own would be NaN."""
    constant = emit.call(aten.eq.Scalar, variance, 0)
    root = emit.call(aten.sqrt.default, emit.call(aten.masked_fill.Scalar, variance, constant, 1))
    return emit.call(aten.masked_fill.Scalar, root, constant, 0)


def mean(emit: Emitter, x: fx.Node, dims: tuple[int, ...], keepdim: bool, dtype: Any = None) -> fx.Node:
    """The sum over ``dims`` divided by how many elements it has."""
    kwargs = {} if dtype is None else {"dtype": dtype}
    total = emit.call(aten.sum.dim_IntList, x, list(dims), keepdim, **kwargs)
    return emit.call(aten.div.Tensor, total, count(emit, x, dims))


def var(emit: Emitter, x: fx.Node, dims: tuple[int, ...], keepdim: bool, correction: float) -> fx.Node:
    """The sum of squared distances to the mean, divided by the count less ``correction``."""
    centred = emit.call(aten.sub.Tensor, x, mean(emit, x, dims, keepdim=True))
    squares = emit.call(aten.mul.Tensor, centred, centred)
    total = emit.call(aten.sum.dim_IntList, squares, list(dims), keepdim)
    number: Any = count(emit, x, dims)
    if correction:
        # PyTorch divides by no less than 0.
        number = emit.call(torch.sym_max, emit.call(operator.sub, number, correction), 0)
    return emit.call(aten.div.Tensor, total, number)


def count(emit: Emitter, x: fx.Node, dims: tuple[int, ...]) -> Any:
    """How many elements a reduction over ``dims`` reads: a node, or an int where no dim is dynamic."""
    shape = shape_of(x)
    fixed = 1
    total: Any = None
    for dim in dims:
        if isinstance(shape[dim], int):
            fixed *= shape[dim]
        else:
            size = emit.call(aten.sym_size.int, x, dim)
            total = size if total is None else emit.call(operator.mul, total, size)
    if total is None:
        return fixed
    return total if fixed == 1 else emit.call(operator.mul, total, fixed)
