"""expand_losses: losses inside forward, as a sum over all ranks divided by a global count.

Before::  loss = cross_entropy(scores, target)
After::   total = cross_entropy(scores, target, reduction="sum")
          count = sum(target != ignore_index)              # or the sum of the class weights
          loss = total / count

Sources: ``torch.nn.functional.cross_entropy``, ``nll_loss`` and ``mse_loss`` for the divisors.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from graphshard.catalogue.call import Call, shape_of
from graphshard.catalogue.edits import LossOverRows
from graphshard.catalogue.training import SUM
from graphshard.infer.emitter import Emitter
from graphshard.infer.placement import STORED
from graphshard.infer.rewrite import rewrite, rewrite_each
from graphshard.ir.placement import Placed
from graphshard.ir.program import Program
from graphshard.ops.losses import OPAQUE
from graphshard.passes.exact.expand_reductions import count

aten = torch.ops.aten


@dataclass(frozen=True)
class ExpandLosses:
    """Rewrite each mean loss over sharded rows, and unwrap the captured class losses; counts both."""

    name: ClassVar[str] = "expand_losses"

    def run(self, program: Program) -> int:
        edits = rewrite_each(program, LossOverRows, _expand)
        opaque = [n for n in program.graph.nodes if _unwrapped(n)]
        for node in opaque:
            rewrite(program, Call(node, STORED, []), _plain)
        return edits + len(opaque)


def _unwrapped(node: fx.Node) -> Any:
    """The ATen op behind an opaque class loss of the capture; None for any other node."""
    return _BEHIND.get(node.target)


_BEHIND: dict[Any, Any] = {opaque: op for op, opaque in OPAQUE.items()}


def _plain(emit: Emitter, call: Call) -> fx.Node:
    return emit.call(_unwrapped(call.node), *call.args.values(), example=call.node.meta["val"])


def _expand(emit: Emitter, call: Call) -> fx.Node:
    arguments = dict(call.args)
    arguments["reduction"] = SUM
    target = _unwrapped(call.node) or call.node.target
    total = emit.call(target, *arguments.values(), example=call.node.meta["val"])
    is_class_loss = "target" in arguments and ("ignore_index" in arguments)
    divisor = _class_divisor(emit, call) if is_class_loss else _element_count(emit, call)
    return emit.call(aten.div.Tensor, total, divisor)


def _class_divisor(emit: Emitter, call: Call) -> Any:
    """How many targets count, each by the weight of its class; all of them for class probabilities."""
    target, weight = call["target"], call["weight"]
    if target.meta["val"].is_floating_point():
        dims = tuple(d for d in range(len(shape_of(target))) if d != 1)
        return count(emit, target, dims)
    valid = emit.call(aten.ne.Scalar, target, call["ignore_index"])
    if weight is None:
        return emit.call(aten.sum.dim_IntList, valid, [])
    known = emit.call(aten.mul.Tensor, target, valid)
    weights = emit.call(aten.index.Tensor, weight, [known])
    return emit.call(aten.sum.dim_IntList, emit.call(aten.mul.Tensor, weights, valid), [])


def _element_count(emit: Emitter, call: Call) -> Any:
    """The number of elements of the broadcast operands: static dims times the count of the sharded rows."""
    operands = [n for n in call.node.all_input_nodes if isinstance(call.raw(n), Placed)]
    ndim = max(len(shape_of(n)) for n in operands)
    fixed, total = 1, None
    for back in range(1, ndim + 1):
        having = [(n, len(shape_of(n)) - back) for n in operands if len(shape_of(n)) >= back]
        sizes = [shape_of(n)[d] for n, d in having]
        dynamic = next(
            ((n, d) for (n, d), s in zip(having, sizes, strict=True) if not isinstance(s, int)), None
        )
        if dynamic is None:
            fixed *= max(int(s) for s in sizes)
        else:
            size = emit.call(aten.sym_size.int, *dynamic)
            total = size if total is None else emit.call(operator.mul, total, size)
    if total is None:
        return fixed
    return total if fixed == 1 else emit.call(operator.mul, total, fixed)
