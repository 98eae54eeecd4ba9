"""distribute_random: random values that are the same on 1, 2 or 64 ranks.

Before::  noise = randn_like(h)
After::   noise = random_like(h, owned_ids, dim=0, "normal", key=(seed, step), site=0)

and every other random op by its definition, from uniform or normal numbers. A number is a function of (seed,
step, call site, global id of the row, place in the row), as for ``distribute_dropout``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, ClassVar

import torch
from torch import fx

from graphshard.catalogue.call import Call, shape_of
from graphshard.catalogue.edits import RandomOverRows
from graphshard.infer.emitter import Emitter
from graphshard.infer.rewrite import rewrite_each
from graphshard.infer.row_ids import row_ids
from graphshard.ir.calls import Packet, calls, packet_of
from graphshard.ir.placement import Placed
from graphshard.ir.program import Program
from graphshard.ops import dropout
from graphshard.ops import local as local_ops

aten = torch.ops.aten
_ALPHA = 1.7580993408473766  # of torch.nn.functional.alpha_dropout; Klambauer et al., SELU, 2017


@dataclass(frozen=True)
class DistributeRandom:
    """Rewrite each random op; counts them."""

    name: ClassVar[str] = "distribute_random"

    def run(self, program: Program) -> int:
        drawn = (dropout.dropout_rows, local_ops.random_like)
        first = sum(n.target in drawn for n in program.graph.nodes)
        sites = count(first)

        def drawn_by_row(emit: Emitter, call: Call) -> fx.Node:
            placed = call.raw(call.node)
            assert isinstance(placed, Placed)
            return _definition(call.node)(_Draw(emit, placed, next(sites)), call)

        return rewrite_each(program, RandomOverRows, drawn_by_row)


@dataclass
class _Draw:
    """Draws the numbers of one random op."""

    emit: Emitter
    placed: Placed
    site: int

    def numbers(self, like: fx.Node, kind: str) -> fx.Node:
        dim = self.placed.sharded[0] if self.placed.sharded else 0
        rows = self.placed.dims[dim] if self.placed.sharded else None
        ids = row_ids(self.emit, rows) if rows is not None else None
        return self.emit.call(
            local_ops.random_like,
            *(like, ids, dim, kind, self.emit.program.placeholder("dropout_key"), self.site),
            name=f"{kind}_{self.site}",
            example=like.meta["val"].detach(),
        )

    def scaled(self, like: fx.Node, kind: str, scale: Any, shift: Any) -> fx.Node:
        product = self.emit.call(aten.mul.Tensor, self.numbers(like, kind), scale)
        return self.emit.call(aten.add.Tensor, product, shift)

    def coins(self, like: fx.Node, p: Any) -> fx.Node:
        """1 with probability p, else 0, in the dtype of ``like``."""
        drawn = self.numbers(like, "uniform")
        op = aten.lt.Tensor if isinstance(p, fx.Node) else aten.lt.Scalar
        return self.emit.call(
            aten._to_copy.default, self.emit.call(op, drawn, p), dtype=like.meta["val"].dtype
        )


Definition = Callable[[_Draw, Call], fx.Node]


def _definition(node: fx.Node) -> Definition:
    packet = packet_of(node)
    assert packet is not None
    return _DEFINITIONS[packet]


def _sized(draw: _Draw, call: Call) -> fx.Node:
    kwargs = {n: call[n] for n in ("dtype", "device") if call.get(n) is not None}
    value = call.node.meta["val"]
    zeros = draw.emit.call(aten.zeros.default, call["size"], example=torch.zeros_like(value), **kwargs)
    return draw.numbers(zeros, "normal" if calls(call.node, aten.randn) else "uniform")


def _typed_like(draw: _Draw, call: Call) -> fx.Node:
    x: fx.Node = call["self"]
    wanted = call.node.meta["val"].dtype
    return x if x.meta["val"].dtype == wanted else draw.emit.call(aten._to_copy.default, x, dtype=wanted)


def _integers(draw: _Draw, call: Call) -> fx.Node:
    low, high = call.get("low", 0), call["high"]
    real = draw.emit.call(aten._to_copy.default, call["self"], dtype=torch.float64)
    floored = draw.emit.call(aten.floor.default, draw.scaled(real, "uniform", high - low, low))
    return draw.emit.call(aten._to_copy.default, floored, dtype=call.node.meta["val"].dtype)


def _exponential(draw: _Draw, call: Call) -> fx.Node:
    drawn = draw.emit.call(aten.neg.default, draw.numbers(call["self"], "uniform"))
    return draw.emit.call(aten.div.Tensor, draw.emit.call(aten.log1p.default, drawn), -call["lambd"])


def _rrelu(draw: _Draw, call: Call) -> fx.Node:
    """A random slope for what is not positive."""
    x, lower, upper = call["self"], call["lower"], call["upper"]
    sloped = draw.emit.call(aten.mul.Tensor, x, draw.scaled(x, "uniform", upper - lower, lower))
    return draw.emit.call(aten.where.self, draw.emit.call(aten.le.Scalar, x, 0), sloped, x)


def _alpha_dropout(draw: _Draw, call: Call) -> fx.Node:
    """Dropped elements take the value -1.758, then all are scaled to mean 0 and variance 1."""
    x, p = call["input"], call["p"]
    if p in (0, 1):
        call.refuse(f"drops with the probability {p}", "leave it out")
    scale = 1 / math.sqrt((_ALPHA**2 * p + 1) * (1 - p))
    kept = draw.coins(x, 1 - p)
    shift = draw.emit.call(aten.mul.Tensor, draw.emit.call(aten.sub.Tensor, kept, 1 - p), _ALPHA * scale)
    scaled = draw.emit.call(aten.mul.Tensor, draw.emit.call(aten.mul.Tensor, kept, scale), x)
    return draw.emit.call(aten.add.Tensor, scaled, shift)


def _feature_dropout(draw: _Draw, call: Call) -> fx.Node:
    """Whole channels: one coin for each index of the first two dims."""
    x, p = call["input"], call["p"]
    like = x
    for dim in range(2, len(shape_of(x))):
        like = draw.emit.call(aten.slice.Tensor, like, dim, 0, 1)
    kept = draw.coins(like, 1 - p)
    return draw.emit.call(aten.mul.Tensor, x, draw.emit.call(aten.div.Tensor, kept, 1 - p) if p < 1 else kept)


_DEFINITIONS: dict[Packet, Definition] = {
    aten.rand: _sized,
    aten.randn: _sized,
    aten.rand_like: lambda draw, call: draw.numbers(_typed_like(draw, call), "uniform"),
    aten.randn_like: lambda draw, call: draw.numbers(_typed_like(draw, call), "normal"),
    aten.randint_like: _integers,
    aten.bernoulli: lambda draw, call: draw.coins(call["self"], call.get("p", call["self"])),
    aten.exponential: _exponential,
    aten.uniform: lambda draw, call: draw.scaled(
        call["self"], "uniform", call["to"] - call["from"], call["from"]
    ),
    aten.normal_functional: lambda draw, call: draw.scaled(call["self"], "normal", call["std"], call["mean"]),
    aten.rrelu: _rrelu,
    aten.alpha_dropout: _alpha_dropout,
    aten.feature_dropout: _feature_dropout,
}
