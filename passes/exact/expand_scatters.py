"""expand_scatters: rows reduced into groups that several ranks write to, from sums and plain extremes.

The groups are graphs (pooling), which every rank holds whole, or nodes that edges write to as their source.

::

    sum     base + scatter_add(zeros, index, src)
    mean    (base + scatter_add(zeros, index, src)) / (1 + count), count = scatter_add(zeros, index, ones)
    amax    m = maximum(base, scatter_extreme(index, detach(src)))
            hits = eq(src, gather(m, index)); ties = eq(base, m) + scatter_add(zeros, index, hits)
            m + scatter_add(zeros, index, zero_of(src) * hits / gather(ties, index))     # 0, with the gradient
    prod    base * prod(stack_ranks(scatter_prod(ones, index, src)))                     # by source, not stacked

With ``include_self=False`` an entry keeps its base where the count is 0 and drops it elsewhere. What is left is
sums into zeros and extremes without gradient, which the other passes reduce over the ranks (for graphs) or over
the copies of a node (by source); the gathers are synced as any gather is.

Source: the derivative of ``torch.scatter_reduce`` (FunctionsManual.cpp, ``scatter_reduce_backward``): ties share
the gradient evenly, and a base that equals the result counts as a tie even with ``include_self=False``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from graphshard.catalogue.call import Call, shape_of
from graphshard.catalogue.edits import ScatterOverRows
from graphshard.catalogue.scatter import is_constant, reduce_of
from graphshard.infer.emitter import Emitter
from graphshard.infer.gradient_flow import gradient_flow
from graphshard.infer.rewrite import rewrite_each
from graphshard.ir.calls import calls
from graphshard.ir.program import Program
from graphshard.ops import local as local_ops
from graphshard.passes.exact.stack_reductions import stack

aten = torch.ops.aten


@dataclass(frozen=True)
class ExpandScatters:
    """Rewrite each scatter into groups that no rank reduces alone; counts them."""

    name: ClassVar[str] = "expand_scatters"

    def run(self, program: Program) -> int:
        return rewrite_each(program, ScatterOverRows, _expand)


def _expand(emit: Emitter, call: Call) -> fx.Node:
    if call.get("accumulate"):
        return _added(emit, call)
    reduce, source = reduce_of(call), call.get("src", call.get("source"))
    if reduce == "sum" and call.get("include_self") is not False:
        return _added(emit, call)
    flowing = gradient_flow(emit.program, inputs_need_grad=True)
    scatter = _Scatter(emit, call, source, flowing)
    if is_constant(call):
        return scatter.constant(call["value"])
    steps: dict[str, Callable[[], fx.Node]] = {
        "sum": scatter.sum,
        "mean": scatter.mean,
        "amax": lambda: scatter.extreme("max"),
        "amin": lambda: scatter.extreme("min"),
        "prod": scatter.product,
    }
    return steps[reduce]()


def _added(emit: Emitter, call: Call) -> fx.Node:
    """The change from zeros, added to the base: on each rank the base would count once."""
    base, node = call["self"], call.node
    named: dict[str, Any] = dict(node.kwargs)
    change = emit.call(node.target, emit.call(aten.zeros_like.default, base), *node.args[1:], **named)
    return emit.call(aten.add.Tensor, base, change)


class _Scatter:
    """The parts of one scatter with an index of the shape of what is written."""

    def __init__(self, emit: Emitter, call: Call, source: Any, flowing: frozenset[fx.Node]) -> None:
        self.emit, self.flowing = emit, flowing
        self.base: fx.Node = call["self"]
        self.source: fx.Node = source
        self.carries = call.node in flowing
        self._counted: fx.Node | None = None
        self.into_groups = call.values("self").dims[call.dim("dim", len(shape_of(self.base)))] is None
        self.dim = call.dim("dim", len(shape_of(self.base)))
        self.include_self = call.get("include_self") is not False
        self.index: fx.Node = call["index"]
        if calls(call.node, aten.index_reduce):
            self.index = self._spread(self.index)
        elif source is not None and len(shape_of(source)) != len(shape_of(self.index)):
            call.refuse("takes an index and a source of different shapes", "give them the same shape")

    def sum(self) -> fx.Node:
        """Without the base where something is written."""
        return self._where_written(self._add(self.source), self.base)

    def mean(self) -> fx.Node:
        total, count = self._add(self.source), self._count()
        if self.include_self:
            total = self.emit.call(aten.add.Tensor, self.base, total)
            return self._divide(total, self.emit.call(aten.add.Scalar, count, 1))
        quotient = self._divide(total, self.emit.call(aten.clamp_min.default, count, 1))
        return self._where_written(quotient, self.base)

    def constant(self, value: float) -> fx.Node:
        """One number wherever the index leads."""
        ones = self.emit.call(aten.ones_like.default, self.index, dtype=self.base.meta["val"].dtype)
        return self.emit.call(aten.where.ScalarSelf, self._positive(self._add(ones)), value, self.base)

    def product(self) -> fx.Node:
        """Into groups, the ranks' own products, stacked and multiplied; by source, a product into ones."""
        ones = self.emit.call(aten.ones_like.default, self.base)
        own = self.emit.call(aten.scatter_reduce.two, ones, self.dim, self.index, self.source, "prod")
        total = own
        if self.into_groups:
            total = self.emit.call(aten.prod.dim_int, stack(self.emit, own), 0)
        if self.include_self:
            return self.emit.call(aten.mul.Tensor, self.base, total)
        return self._where_written(total, self.base)

    def extreme(self, reduce: str) -> fx.Node:
        """The extreme without gradient, then a zero that carries it."""
        emit = self.emit
        own, source = (emit.call(aten.detach.default, t) for t in (self.base, self.source))
        top = emit.call(local_ops.scatter_extreme, own, self.dim, self.index, source, reduce)
        if self.include_self:
            both = aten.maximum.default if reduce == "max" else aten.minimum.default
            result = emit.call(both, own, top)
        else:
            result = self._where_written(top, own)
        if not self.carries:
            return result
        hits = self._as_float(emit.call(aten.eq.Tensor, source, self._read(result)))
        own_hits = self._as_float(emit.call(aten.eq.Tensor, own, result))
        ties = emit.call(aten.add.Tensor, own_hits, self._add(hits))
        share = emit.call(aten.div.Tensor, hits, self._read(ties))
        zeros = emit.call(local_ops.zero_of, self.source)
        carried = self._add(emit.call(aten.mul.Tensor, zeros, share))
        value = emit.call(aten.add.Tensor, result, carried)
        if self.base not in self.flowing:
            return value
        own_share = emit.call(aten.div.Tensor, own_hits, ties)
        if not self.include_self:
            own_share = emit.call(aten.masked_fill.Scalar, own_share, self._positive(self._count()), 0)
        own_zeros = emit.call(aten.mul.Tensor, emit.call(local_ops.zero_of, self.base), own_share)
        return emit.call(aten.add.Tensor, value, own_zeros)

    def _spread(self, index: fx.Node) -> fx.Node:
        """A 1-D index along ``dim``, in the shape of the source."""
        ndim = len(shape_of(self.source))
        for place in (*[0] * self.dim, *[-1] * (ndim - 1 - self.dim)):
            index = self.emit.call(aten.unsqueeze.default, index, place)
        return self.emit.call(aten.expand_as.default, index, self.source)

    def _add(self, values: fx.Node) -> fx.Node:
        zeros = self.emit.call(aten.zeros_like.default, self.base)
        return self.emit.call(aten.scatter_add.default, zeros, self.dim, self.index, values)

    def _read(self, table: fx.Node) -> fx.Node:
        return self.emit.call(aten.gather.default, table, self.dim, self.index)

    def _count(self) -> fx.Node:
        """How often each entry is written to."""
        if self._counted is None:
            self._counted = self._add(self.emit.call(aten.ones_like.default, self.source))
        return self._counted

    def _positive(self, count: fx.Node) -> fx.Node:
        return self.emit.call(aten.gt.Scalar, count, 0)

    def _where_written(self, value: fx.Node, otherwise: fx.Node) -> fx.Node:
        return self.emit.call(aten.where.self, self._positive(self._count()), value, otherwise)

    def _divide(self, total: fx.Node, count: fx.Node) -> fx.Node:
        if self.base.meta["val"].is_floating_point():
            return self.emit.call(aten.div.Tensor, total, count)
        return self.emit.call(aten.div.Tensor_mode, total, count, rounding_mode="floor")

    def _as_float(self, hits: fx.Node) -> fx.Node:
        return self.emit.call(aten._to_copy.default, hits, dtype=self.base.meta["val"].dtype)
