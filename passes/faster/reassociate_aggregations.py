"""reassociate_aggregations: a dense product stands where it makes an aggregation cheapest.

Before::  out = linear(weighted_sum(h, w, A), W, b)       # W: 128 -> 32
After::   out = weighted_sum(linear(h, W), w, A) + b      # a quarter of the rows' bytes, along edges and links

and the other way round for what is a constant of the graph, which is then aggregated once::

    weighted_sum(halo_sync(linear(x, W)), w, A)     ->    linear(weighted_sum(halo_sync(x), w, A), W)

A projection of what a product makes (the attention of GATConv) is one product as well::

    sum(linear(x, W).view(-1, heads, width) * a, -1)    ->    linear(x, project_weight(W, a))

``A (X W)`` and ``(A X) W`` are the same number, rounded in another way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from graphshard.catalogue.call import shape_of
from graphshard.infer.constants import constant_values
from graphshard.infer.emitter import Emitter
from graphshard.ir.calls import calls
from graphshard.ir.placement import Halo, Owned, Placed
from graphshard.ir.program import Program
from graphshard.ops import aggregation
from graphshard.ops import local as local_ops
from graphshard.passes.faster.halo_rows import SYNC, synced
from graphshard.passes.faster.patterns import rows_of
from graphshard.private.fake_tensors import fake_mode_of

aten = torch.ops.aten


@dataclass(frozen=True)
class ReassociateAggregations:
    """Move each dense product to the cheaper side of its aggregation; counts them."""

    name: ClassVar[str] = "reassociate_aggregations"

    def run(self, program: Program) -> int:
        edits = 0
        for node in list(program.graph.nodes):
            made = _after(program, node) or _before(program, node) or _projected(program, node)
            if made is not None:
                node.replace_all_uses_with(made)
                program.graph.eliminate_dead_code()
                edits += 1
        return edits


def _after(program: Program, node: fx.Node) -> fx.Node | None:
    """``linear(weighted_sum(h, w, A), W, b)`` where the product makes rows shorter and h changes every step."""
    if not calls(node, *_PRODUCTS) or len(shape_of(node)) != 2 or not node.args:
        return None
    total: Any = node.args[0]
    if not _is_plain_sum(total) or len(total.users) != 1 or total in constant_values(program):
        return None
    inside, out = shape_of(total)[1], shape_of(node)[1]
    if (
        not (isinstance(inside, int) and isinstance(out, int) and out < inside)
        or total.meta["placement"].mirror
    ):
        return None
    table, weight, structure = total.args
    bias = node.args[2] if calls(node, aten.linear) and len(node.args) > 2 else None
    emit = Emitter(program, node)
    with emit.before(node):
        short = emit.call(node.target, table, node.args[1], example=_with_width(table, out))
        made = emit.call(aggregation.weighted_sum, short, weight, structure, example=node.meta["val"])
        if bias is not None:
            made = emit.call(aten.add.Tensor, made, bias, example=node.meta["val"])
    return made


def _before(program: Program, node: fx.Node) -> fx.Node | None:
    """``weighted_sum(linear(x, W), w, A)`` of a constant x, or where the product makes rows longer."""
    if not _is_plain_sum(node) or node.meta["placement"].mirror:
        return None
    arguments: Any = node.args
    table, weight, structure = arguments
    sync = table if getattr(table, "target", None) is SYNC else None
    product: Any = sync.args[0] if sync is not None else table
    has_bias = calls(product, aten.linear) and len(product.args) > 2 and product.args[2] is not None
    if not calls(product, *_PRODUCTS) or len(shape_of(product)) != 2 or has_bias:
        return None
    x, w = product.args[:2]
    if rows_of(x) != rows_of(product) or rows_of(w) is not None:
        return None
    constant, once = x in constant_values(program), len(product.users) == len(table.users) == 1
    inside, out = shape_of(x)[1], shape_of(product)[1]
    longer = isinstance(inside, int) and isinstance(out, int) and inside < out
    if not (constant or (longer and once)) or (weight is not None and rows_of(weight) is None):
        return None
    emit = Emitter(program, node)
    with emit.before(node):
        rows = x
        if sync is not None:
            halo = rows_of(sync)
            assert isinstance(halo, Halo)
            rows = synced(emit, x, halo)
        total = emit.call(
            aggregation.weighted_sum, rows, weight, structure, example=_with_width(node, shape_of(x)[1])
        )
        return emit.call(product.target, total, w, example=node.meta["val"])


def _projected(program: Program, node: fx.Node) -> fx.Node | None:
    """``(linear(x, W).view(-1, H, C) * a).sum(-1)`` with the same ``a [1, H, C]`` for every row."""
    scaled: Any = node.args[0] if node.args else None
    if not calls(node, aten.sum) or list(node.args[1:]) not in ([[-1]], [[2]]) or not calls(scaled, aten.mul):
        return None
    for heads, a in (scaled.args, scaled.args[::-1]):
        product: Any = heads.args[0] if calls(heads, aten.view, aten.reshape) else heads
        if not calls(product, aten.linear) or len(product.args) != 2 or not isinstance(a, fx.Node):
            continue
        x, weight = product.args
        sizes, known = shape_of(heads), rows_of(x) is not None and rows_of(weight) is None is rows_of(a)
        if not known or len(sizes) != 3 or shape_of(a) != (1, *sizes[1:]) or len(shape_of(x)) != 2:
            continue
        emit = Emitter(program, node)
        with emit.before(node):
            short = emit.call(local_ops.project_weight, weight, a, example=_projection(weight, sizes[1]))
            return emit.call(product.target, x, short, example=node.meta["val"])
    return None


def _projection(weight: fx.Node, heads: int) -> Any:
    example = weight.meta["val"]
    with fake_mode_of(example):
        return example.new_empty((heads, example.shape[1]))


_PRODUCTS = (aten.linear, aten.matmul, aten.mm)


def _is_plain_sum(node: Any) -> bool:
    """A weighted sum of ``[rows, width]`` tables with one weight for each edge, or none."""
    if getattr(node, "target", None) is not aggregation.weighted_sum or len(shape_of(node)) != 2:
        return False
    weight = node.args[1]
    placed = node.meta["placement"]
    one = weight is None or len(shape_of(weight)) == 1
    return one and isinstance(placed, Placed) and isinstance(placed.dims[0], Owned)


def _with_width(node: fx.Node, width: Any) -> Any:
    example = node.meta["val"]
    with fake_mode_of(example):
        return example.new_empty((example.shape[0], width))
