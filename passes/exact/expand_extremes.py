"""expand_extremes: maxima and minima over all nodes or edges, with a gradient that ties share over the ranks.

Before::  y = amax(x, [0])
After::   m = extreme(detach(x), [0], "max")     # this rank's own; reduced over the ranks further on
          hits = eq(x, m)
          share = div(hits, sum(hits))
          y = m + sum(zero_of(x) * share)        # the second term is 0 and carries the gradient

A maximum over the ranks has no gradient of its own: how it is shared depends on the ties on all ranks. Without
gradient, m is all there is. ``max(dim)`` and ``argmax`` choose the first of the ties, in the order that the rows
have on a single machine.

Sources: ``torch.amax``, ``torch.max`` and ``torch.aminmax`` share a gradient evenly among all ties, ``torch.max``
with a dim gives it to the row whose index it returns, "the first maximal value" (documentation of
``torch.max``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from graphshard.catalogue.call import Call, shape_of
from graphshard.catalogue.edits import ExtremeOverRows
from graphshard.catalogue.reduce import reduced_dims
from graphshard.infer.emitter import Emitter
from graphshard.infer.gradient_flow import gradient_flow
from graphshard.infer.rewrite import rewrite_each
from graphshard.infer.row_ids import row_ids
from graphshard.ir.calls import calls
from graphshard.ir.placement import Edges, Owned, Placed, Rows
from graphshard.ir.program import Program
from graphshard.ops import local as local_ops
from graphshard.private.fake_tensors import fake_mode_of

aten = torch.ops.aten


@dataclass(frozen=True)
class ExpandExtremes:
    """Rewrite each maximum and minimum over sharded rows; counts them."""

    name: ClassVar[str] = "expand_extremes"

    def run(self, program: Program) -> int:
        return rewrite_each(program, ExtremeOverRows, _expand)


def _expand(emit: Emitter, call: Call) -> fx.Node | tuple[fx.Node, ...]:
    flowing = gradient_flow(emit.program, inputs_need_grad=True)
    return _Expansion(emit, call, carries=call.node in flowing).results()


def top(emit: Emitter, values: fx.Node, dims: list[int], reduce: str) -> fx.Node:
    """This rank's own extreme over ``dims``, which stay with size 1, of a value without gradient."""
    example = values.meta["val"]
    shape = [1 if dim in dims else size for dim, size in enumerate(example.shape)]
    with fake_mode_of(example):
        return emit.call(local_ops.extreme, values, dims, reduce, example=example.new_empty(shape))


class _Expansion:
    """One maximum or minimum, or both."""

    def __init__(self, emit: Emitter, call: Call, *, carries: bool) -> None:
        self.emit, self.call, self.carries = emit, call, carries
        self.x: fx.Node = call["self"]
        self.dims = list(reduced_dims(call, len(shape_of(self.x))))
        self.keepdim = bool(call.get("keepdim", False))
        self.detached = emit.call(aten.detach.default, self.x)

    def results(self) -> fx.Node | tuple[fx.Node, ...]:
        node = self.call.node
        if calls(node, aten.aminmax):
            return self._shared("min"), self._shared("max")
        reduce = "max" if calls(node, aten.max, aten.amax, aten.argmax) else "min"
        if calls(node, aten.argmax, aten.argmin):
            return self._first(reduce)[1]
        if calls(node, aten.max, aten.min) and self.call.get("dim") is not None:
            return self._first(reduce)
        return self._shared(reduce)

    def _shared(self, reduce: str) -> fx.Node:
        """The extreme, its gradient shared evenly among all ties."""
        m = self._top(self.detached, reduce)
        if not self.carries:
            return self._finish(m)
        hits = self.emit.call(aten.eq.Tensor, self.detached, m)
        if self.call.get("dim") is None and calls(self.call.node, aten.max, aten.min):
            # Over everything, NaNs share the gradient of a NaN; in the other forms they make it NaN.
            hits = self._or_nan(hits)
        hits = self._as_float(hits)
        return self._carry(m, self.emit.call(aten.div.Tensor, hits, self._sum(hits)))

    def _first(self, reduce: str) -> tuple[fx.Node, fx.Node]:
        """The extreme with the gradient of the first row that has it, and that row's number."""
        m = self._top(self.detached, reduce)
        hits = self._or_nan(self.emit.call(aten.eq.Tensor, self.detached, m))
        ids = self._ids()
        last = torch.iinfo(torch.int64).max
        first = self._top(self.emit.call(aten.where.ScalarOther, hits, ids, last), "min")
        number = first
        if not isinstance(self._rows(), (Owned, Edges)):
            # Ids of kept or joined rows ascend but have gaps: the position is how many are smaller.
            number = self._sum(self.emit.call(aten.lt.Tensor, ids, first))
        number = self._finish(number)
        if not self.carries:
            return self._finish(m), number
        chosen = self._as_float(self.emit.call(aten.eq.Tensor, ids, first))
        return self._carry(m, chosen), number

    def _top(self, values: fx.Node, reduce: str) -> fx.Node:
        return top(self.emit, values, self.dims, reduce)

    def _carry(self, m: fx.Node, share: fx.Node) -> fx.Node:
        zeros = self.emit.call(local_ops.zero_of, self.x)
        carried = self._sum(self.emit.call(aten.mul.Tensor, zeros, share))
        return self._finish(self.emit.call(aten.add.Tensor, m, carried))

    def _or_nan(self, hits: fx.Node) -> fx.Node:
        if not self.x.meta["val"].is_floating_point():
            return hits
        nan = self.emit.call(aten.ne.Tensor, self.detached, self.detached)
        return self.emit.call(aten.logical_or.default, hits, nan)

    def _as_float(self, hits: fx.Node) -> fx.Node:
        return self.emit.call(aten._to_copy.default, hits, dtype=self.x.meta["val"].dtype)

    def _sum(self, values: fx.Node) -> fx.Node:
        return self.emit.call(aten.sum.dim_IntList, values, self.dims, True)

    def _finish(self, value: fx.Node) -> fx.Node:
        return value if self.keepdim else self.emit.call(aten.squeeze.dims, value, self.dims)

    def _sharded_dim(self) -> int:
        placed = self.call.values("self")
        assert isinstance(placed, Placed)
        return placed.sharded[0]

    def _rows(self) -> Rows:
        rows = self.call.values("self").dims[self._sharded_dim()]
        assert rows is not None
        return rows

    def _ids(self) -> fx.Node:
        """A number for each row, or for each element where all dims are reduced; shaped to compare with x."""
        ids, shape = row_ids(self.emit, self._rows()), shape_of(self.x)
        if len(self.dims) == len(shape) > 1:
            return self.emit.call(local_ops.element_ids, ids, [int(size) for size in shape[1:]])
        for _ in range(self._sharded_dim()):
            ids = self.emit.call(aten.unsqueeze.default, ids, 0)
        for _ in range(len(shape) - 1 - self._sharded_dim()):
            ids = self.emit.call(aten.unsqueeze.default, ids, -1)
        return ids
