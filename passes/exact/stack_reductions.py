"""stack_reductions: products, logsumexps and norms over all nodes or edges.

Before::  p = prod(x, 0)
After::   p = prod(x, 0)              # this rank's own; of no row, 1
          each = stack_ranks(p)       # [world size, ...]
          total = prod(each, 0)

Both steps are PyTorch's own op, so its gradient is exact where it is delicate: a product with zeros, a norm of
zeros. The infinite norms are extremes of absolute values, whose gradient ties share (``expand_extremes``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from graphshard.catalogue.call import Call, shape_of
from graphshard.catalogue.edits import StackOverRanks
from graphshard.catalogue.reduce import reduced_dims
from graphshard.infer.emitter import Emitter
from graphshard.infer.rewrite import rewrite_each
from graphshard.ir.calls import calls
from graphshard.ir.program import Program
from graphshard.ops.stack import stack_ranks

aten = torch.ops.aten


@dataclass(frozen=True)
class StackReductions:
    """Rewrite each prod, logsumexp and norm over sharded rows; counts them."""

    name: ClassVar[str] = "stack_reductions"

    def run(self, program: Program) -> int:
        return rewrite_each(program, StackOverRanks, _expand)


def stack(emit: Emitter, value: fx.Node) -> fx.Node:
    """Every rank's ``value`` in a new dim 0."""
    group = emit.program.placeholder("group")
    return emit.call(stack_ranks, value, group, name=f"{value.name}_ranks")


def _expand(emit: Emitter, call: Call) -> fx.Node:
    x = call["self"]
    if (dtype := call.get("dtype")) is not None:
        x = emit.call(aten._to_copy.default, x, dtype=dtype)
    if calls(call.node, aten.prod):
        return _product(emit, call, x)
    dims = list(reduced_dims(call, len(shape_of(x))))
    keepdim = bool(call.get("keepdim", False))
    if calls(call.node, aten.logsumexp):
        own = emit.call(aten.logsumexp.default, x, dims, keepdim)
        return emit.call(aten.logsumexp.default, stack(emit, own), [0])
    order = call.get("ord", call.get("p"))
    return _norm(emit, x, 2 if order is None else order, dims, keepdim)


def _product(emit: Emitter, call: Call, x: fx.Node) -> fx.Node:
    if call.get("dim") is None:
        own = emit.call(aten.prod.default, x)
    else:
        own = emit.call(aten.prod.dim_int, x, call["dim"], bool(call["keepdim"]))
    return emit.call(aten.prod.dim_int, stack(emit, own), 0)


def _norm(emit: Emitter, x: fx.Node, order: float, dims: list[int], keepdim: bool) -> fx.Node:
    if math.isinf(order):
        extreme = aten.amax.default if order > 0 else aten.amin.default
        return emit.call(extreme, emit.call(aten.abs.default, x), dims, keepdim)
    own = emit.call(aten.linalg_vector_norm.default, x, order, dims, keepdim)
    each = stack(emit, own)
    if order == 0:  # how many entries are not 0
        return emit.call(aten.sum.dim_IntList, each, [0])
    return emit.call(aten.linalg_vector_norm.default, each, order, [0])
