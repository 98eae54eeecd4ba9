"""work_in_place: what writes a whole tensor writes over one that nobody reads again.

Before::  h = relu(linear(a, V, b) + linear(x, W))                 # four tensors of all rows
After::   t = linear(a, V, b); add_product_(t, x, W); relu_(t)      # one

Fresh pages cost more than the arithmetic on them. A tensor is written over only where it was made by an op that
does not keep its result for backward, is no view and no constant, and is read by this op alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from graphshard.ir.constants import constant_values
from graphshard.ir.program import Emitter, Program
from graphshard.ops import dropout
from graphshard.ops import local as local_ops
from graphshard.passes.faster.patterns import name_of, rows_of
from graphshard.passes.infer.rules.call import shape_of

_FRESH = ("linear", "mm", "addmm", "add", "sub", "mul", "div")
"""Ops that make a new tensor and keep none of its values for backward."""


@dataclass(frozen=True)
class WorkInPlace:
    """Let sums and rectifiers of rows reuse the memory of an operand; counts them."""

    name: str = "work_in_place"

    def run(self, program: Program) -> int:
        edits = 0
        constants = constant_values(program)
        for node in list(program.graph.nodes):
            made = (
                None if node in constants or rows_of(node) is None else _rewritten(program, node, constants)
            )
            if made is not None:
                made.meta["placement"] = node.meta["placement"]
                node.replace_all_uses_with(made)
                program.graph.erase_node(node)
                edits += 1
        program.graph.eliminate_dead_code()
        return edits


def _rewritten(program: Program, node: fx.Node, constants: frozenset[fx.Node]) -> fx.Node | None:
    emit = Emitter(program, node)
    with emit.before(node):
        if name_of(node) == "relu" and _may_write(node.args[0], node, constants):
            return emit.call(local_ops.relu_in_place, node.args[0], example=node.meta["val"])
        if node.target is dropout.relu_dropout and _may_write(node.args[0], node, constants):
            return emit.call(dropout.relu_dropout_in_place, *node.args, example=node.meta["val"])
        if name_of(node) != "add" or len(node.args) != 2 or node.kwargs:
            return None
        for total, other in (node.args, node.args[::-1]):
            if not _may_write(total, node, constants) or not isinstance(other, fx.Node) or other is total:
                continue
            if _is_product(other, constants):
                return emit.call(local_ops.add_product, total, *other.args[:2], example=node.meta["val"])
            return emit.call(local_ops.add_in_place, total, other, example=node.meta["val"])
    return None


def _may_write(value: Any, node: fx.Node, constants: frozenset[fx.Node]) -> bool:
    """Whether ``node`` may write its result over ``value``."""
    if not isinstance(value, fx.Node) or value in constants or len(value.users) != 1:
        return False
    fresh = name_of(value) in _FRESH or value.target in (local_ops.add_product, local_ops.add_in_place)
    mine, its = node.meta["val"], value.meta["val"]
    return (
        fresh and mine.dtype == its.dtype and rows_of(value) == rows_of(node) and _tail(node) == _tail(value)
    )


def _tail(node: fx.Node) -> tuple[Any, ...]:
    """The sizes after the rows."""
    return shape_of(node)[1:]


def _is_product(node: fx.Node, constants: frozenset[fx.Node]) -> bool:
    """A 2-D linear layer without bias that nothing else reads."""
    has_bias = len(node.args) > 2 and node.args[2] is not None
    once = len(node.users) == 1 and node not in constants
    return name_of(node) == "linear" and once and not has_bias and len(shape_of(node)) == 2
