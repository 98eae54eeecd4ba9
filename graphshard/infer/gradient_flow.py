"""Through which values of a program a gradient flows: what decides whether a sync sends anything back."""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor, fx

from graphshard.catalogue.record import Trait
from graphshard.catalogue.table import has_trait, record_of
from graphshard.ir.program import Program


def gradient_flow(
    program: Program, trainable: Collection[str] | None = None, *, inputs_need_grad: bool = False
) -> frozenset[fx.Node]:
    """The values whose gradient a backward from all of forward's floating-point outputs computes.

    Args:
        program: any program.
        trainable: the parameters that require a gradient, by state_dict key; None for all.
        inputs_need_grad: whether forward's floating-point arguments require gradients too.
    """
    sources = {spec.name for spec in program.inputs if _is_source(spec, trainable, inputs_need_grad)}
    needs: set[fx.Node] = set()
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if node.name in sources and _is_float(node.meta.get("val")):
                needs.add(node)
        elif has_trait(node, Trait.STOPS_GRADIENT) or not _is_float(node.meta.get("val")):
            continue
        elif not needs.isdisjoint(_made_of(node)):
            needs.add(node)
    outputs: Any = program.output_node().args[0]
    pairs = zip(program.outputs, outputs, strict=True)
    reached = {value for spec, value in pairs if spec.kind == "user" and value in needs}
    for node in reversed(program.graph.nodes):
        if node in reached and not _has_items(node):
            reached.update(needs.intersection((*node.all_input_nodes, *_made_of(node))))
    return frozenset(reached)


def _made_of(node: fx.Node) -> Sequence[fx.Node]:
    """The values that a gradient reaches through a value; of a list, each item's is its own."""
    if node.target is operator.getitem:
        whole, number = node.args
        if isinstance(whole, fx.Node) and _has_items(whole):
            values: Any = whole.args[0]
            return [values[number]]
    return node.all_input_nodes


def _has_items(node: fx.Node) -> bool:
    """Whether it makes a list with a value for each of its first argument's."""
    record = record_of(node)
    return record is not None and record.items


def _is_source(spec: Any, trainable: Collection[str] | None, inputs_need_grad: bool) -> bool:
    if spec.kind == "user":
        return inputs_need_grad
    return spec.kind == "parameter" and (trainable is None or spec.target in trainable)


def _is_float(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_is_float, value))
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
