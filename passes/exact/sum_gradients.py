"""sum_gradients: the gradient convention at the edges of the program.

Before::  y = linear(x, weight); return y.sum()
After::   weight_in = replicated_input(weight)          # backward: sum the gradient over the ranks
          y = linear(x, weight_in); return replicated_output(y.sum())   # backward: scale by 1 / world size

The cotangent of a replicated value is a term on each rank, its truth the sum. Every rank seeds the backward of
a replicated output with 1, hence the scale; parameters are replicated inputs, hence the sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from graphshard.infer.emitter import Emitter
from graphshard.ir.placement import Placed
from graphshard.ir.program import Program
from graphshard.ops import exchange as ops


@dataclass(frozen=True)
class SumGradients:
    """Mark every replicated floating-point input and user output; counts the marks."""

    name: ClassVar[str] = "sum_gradients"

    def run(self, program: Program) -> int:
        return _mark_inputs(program) + _mark_outputs(program)


def _mark_inputs(program: Program) -> int:
    marked = 0
    for spec in list(program.inputs):
        node = next(n for n in program.graph.find_nodes(op="placeholder") if n.name == spec.name)
        if spec.kind not in ("parameter", "user") or not _is_replicated_float(node):
            continue
        users = [u for u in node.users if u.target is not ops.replicated_input]
        if not users:
            continue
        emit = Emitter(program, users[0])
        group = program.placeholder("group")
        with emit.after(node):
            summed = emit.call(
                ops.replicated_input, node, group, name=f"{node.name}_in", example=node.meta["val"]
            )
        summed.meta.pop("stack_trace", None)
        summed.meta.pop("nn_module_stack", None)
        for user in users:
            user.replace_input_with(node, summed)
        marked += 1
    return marked


def _mark_outputs(program: Program) -> int:
    output = program.output_node()
    values = list(output.args[0])  # type: ignore[arg-type]
    marked = 0
    for i, (value, spec) in enumerate(zip(values, program.outputs, strict=True)):
        if spec.kind != "user" or not isinstance(value, fx.Node) or not _is_replicated_float(value):
            continue
        if value.target is ops.replicated_output:
            continue
        emit = Emitter(program, value)
        with emit.before(output):
            scaled = emit.call(
                ops.replicated_output,
                *(value, program.placeholder("group")),
                name=f"{value.name}_out",
                example=value.meta["val"],
            )
        values[i] = scaled
        marked += 1
    output.args = (tuple(values),)
    return marked


def _is_replicated_float(node: fx.Node) -> bool:
    placement, value = node.meta.get("placement"), node.meta.get("val")
    return (
        isinstance(placement, Placed)
        and placement.replicated
        and isinstance(value, torch.Tensor)
        and (value.is_floating_point() or value.is_complex())
    )
