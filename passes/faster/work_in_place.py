"""work_in_place: what writes a whole tensor writes over one that nobody reads again.

Before::  h = relu(linear(a, V, b) + linear(x, W))                 # four tensors of all rows
After::   t = linear(a, V, b); addmm_(t, x, W'); relu_(t)      # one

Fresh pages cost more than the arithmetic on them. A tensor is written over only where it was made by an op that
does not keep its result for backward, is no view and no constant, and is read by this op alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from graphshard.catalogue.call import shape_of
from graphshard.catalogue.record import Trait
from graphshard.catalogue.table import has_trait
from graphshard.infer.constants import constant_values
from graphshard.infer.emitter import Emitter
from graphshard.infer.match import Found, call, match, matches
from graphshard.ir.program import Program
from graphshard.ops import dropout
from graphshard.passes.faster.patterns import rows_of

aten = torch.ops.aten


@dataclass(frozen=True)
class WorkInPlace:
    """Let sums and rectifiers of rows reuse the memory of an operand; counts them."""

    name: ClassVar[str] = "work_in_place"

    def run(self, program: Program) -> int:
        edits = 0
        constants = constant_values(program)
        for node in list(program.graph.nodes):
            made = (
                None if node in constants or rows_of(node) is None else _rewritten(program, node, constants)
            )
            if made is not None:
                node.replace_all_uses_with(made)
                program.graph.erase_node(node)
                edits += 1
        program.graph.eliminate_dead_code()
        return edits


_TOTAL = call(aten.add.Tensor, "total", "other", commutes=True)
_PRODUCT = call(aten.linear.default, "x", "matrix", optional=("bias",))


def _rewritten(program: Program, node: fx.Node, constants: frozenset[fx.Node]) -> fx.Node | None:
    emit = Emitter(program, node)
    with emit.before(node):
        if (over := _OVER.get(node.target)) is not None and _may_write(node.args[0], node, constants):
            return emit.call(over, *node.args, example=node.meta["val"])
        for found in matches(_TOTAL, node):
            total, other = found["total"], found["other"]
            if not _may_write(total, node, constants) or not isinstance(other, fx.Node) or other is total:
                continue
            if (product := _product(other, constants)) is not None:
                matrix = emit.call(aten.t.default, product["matrix"])
                return emit.call(aten.addmm_.default, total, product["x"], matrix, example=node.meta["val"])
            return emit.call(aten.add_.Tensor, total, other, example=node.meta["val"])
    return None


_OVER: dict[Any, Any] = {aten.relu.default: aten.relu_.default, dropout.relu_dropout: dropout.relu_dropout_}
"""What writes its result over its first argument, in the place of what makes a new one."""


def _may_write(value: Any, node: fx.Node, constants: frozenset[fx.Node]) -> bool:
    """Whether ``node`` may write its result over ``value``."""
    if not isinstance(value, fx.Node) or value in constants or len(value.users) != 1:
        return False
    if not has_trait(value, Trait.FRESH) or value.meta["val"].dtype != node.meta["val"].dtype:
        return False
    return rows_of(value) == rows_of(node) and _tail(node) == _tail(value)


def _tail(node: fx.Node) -> tuple[Any, ...]:
    """The sizes after the rows."""
    return shape_of(node)[1:]


def _product(node: fx.Node, constants: frozenset[fx.Node]) -> Found | None:
    """A 2-D linear layer without bias that nothing else reads."""
    found = match(_PRODUCT, node)
    once = len(node.users) == 1 and node not in constants
    return (
        found if found is not None and found["bias"] is None and once and len(shape_of(node)) == 2 else None
    )
