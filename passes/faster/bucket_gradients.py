"""bucket_gradients: the gradients of several parameters are summed over the ranks in one all-reduce.

Before::  a_in = replicated_input(a); b_in = replicated_input(b)          # an all-reduce each, in backward
After::   a_in, b_in = bucketed_inputs([a, b])                            # one, when both are there

Buckets hold parameters that are used one after the other, so that a full one is sent while backward goes on.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from graphshard.infer.emitter import Emitter
from graphshard.ir.program import Program
from graphshard.ir.value_numbers import restore_order
from graphshard.ops import exchange as ops
from graphshard.ops import merged as combined


@dataclass(frozen=True)
class BucketGradients:
    """Put marks of parameters into buckets of ``size`` bytes or a little more; counts the marks.

    Attributes:
        size: 4 MiB by default: an all-reduce of less is mostly latency.
    """

    size: int = 4 << 20
    name: ClassVar[str] = "bucket_gradients"

    def run(self, program: Program) -> int:
        order = {node: i for i, node in enumerate(program.graph.nodes)}
        marks = [n for n in program.graph.nodes if n.target is ops.replicated_input]
        marks.sort(key=lambda mark: min((order[user] for user in mark.users), default=0))
        edits = 0
        for bucket in self._buckets(marks):
            if len(bucket) > 1:
                _merge(program, bucket)
                edits += len(bucket)
        restore_order(program)
        return edits

    def _buckets(self, marks: list[fx.Node]) -> list[list[fx.Node]]:
        buckets: list[list[fx.Node]] = [[]]
        filled = 0
        for mark in marks:
            buckets[-1].append(mark)
            filled += _bytes(mark)
            if filled >= self.size:
                buckets.append([])
                filled = 0
        return buckets


def _bytes(mark: fx.Node) -> int:
    value = mark.meta["val"]
    sizes = [s if isinstance(s, int) else 1 for s in value.shape]
    return int(math.prod(sizes) * value.dtype.itemsize)


def _merge(program: Program, marks: list[fx.Node]) -> None:
    emit = Emitter(program, marks[0])
    values: list[Any] = [mark.args[0] for mark in marks]
    with emit.before(marks[0]):
        together = emit.call(
            combined.bucketed_inputs,
            values,
            program.placeholder("group"),
            example=tuple(mark.meta["val"] for mark in marks),
        )
        for key in ("nn_module_stack", "stack_trace"):
            together.meta.pop(key, None)
        for i, mark in enumerate(marks):
            item = emit.call(operator.getitem, together, i, example=mark.meta["val"])
            item.meta = {key: mark.meta[key] for key in ("val", "placement")}
            mark.replace_all_uses_with(item)
    for mark in marks:
        program.graph.erase_node(mark)
