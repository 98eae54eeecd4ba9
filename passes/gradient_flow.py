"""Through which values of a program a gradient flows: what decides whether a sync sends anything back."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from graphshard.passes.base import Program

_STOPS = ("detach", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")


def gradient_nodes(program: Program, inputs_need_grad: bool = False) -> set[fx.Node]:
    """The nodes whose value requires a gradient when the program's parameters do.

    Args:
        program: any program.
        inputs_need_grad: whether the user's floating-point inputs require gradients too.
    """
    kinds = {spec.name: spec.kind for spec in program.inputs}
    sources = {"parameter", "user"} if inputs_need_grad else {"parameter"}
    found: set[fx.Node] = set()
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if kinds.get(node.name) in sources and _is_float(node):
                found.add(node)
        elif node.op == "call_function" and not stops_gradient(node):
            carries = any(n in found for n in node.all_input_nodes)
            if carries and (_is_float(node) or isinstance(node.meta.get("val"), (tuple, list))):
                found.add(node)
    return found


def stops_gradient(node: fx.Node) -> bool:
    """Whether the op takes no more than shape and dtype from its inputs, or cuts the gradient."""
    return str(node.target).removeprefix("aten.").split(".")[0] in _STOPS


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and (value.is_floating_point() or value.dtype == torch.complex64)
