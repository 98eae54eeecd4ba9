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
from graphshard.infer.halo import synced
from graphshard.infer.match import call, either, match, matches
from graphshard.ir.placement import Halo, Owned, Placed
from graphshard.ir.program import Program
from graphshard.ops import aggregation
from graphshard.ops import local as local_ops
from graphshard.passes.faster.halo_rows import SYNC
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


_PRODUCT = (aten.linear, aten.matmul, aten.mm)
_SUM = call(aggregation.weighted_sum, "table", "weight", "structure", name="sum")
_OUTSIDE = call(_PRODUCT, _SUM, "matrix", optional=("bias",))
_INNER = call(_PRODUCT, "x", "matrix", optional=("bias",), name="product")
_INSIDE = call(
    aggregation.weighted_sum,
    either(call(SYNC, _INNER, "index", "send", "recv", "group", name="table"), _INNER),
    "weight",
    "structure",
)
_HEADS = call(aten.linear, "x", "matrix", name="product")
_PROJECTION = call(
    aten.sum,
    call(
        aten.mul,
        either(call((aten.view, aten.reshape), _HEADS, "shape", name="heads"), _HEADS),
        "a",
        commutes=True,
    ),
    "dims",
)


def _after(program: Program, node: fx.Node) -> fx.Node | None:
    """``linear(weighted_sum(h, w, A), W, b)`` where the product makes rows shorter and h changes every step."""
    found = match(_OUTSIDE, node)
    if found is None or len(shape_of(node)) != 2 or not _is_plain_sum(found["sum"]):
        return None
    total, table = found["sum"], found["table"]
    if len(total.users) != 1 or total in constant_values(program) or total.meta["placement"].mirror:
        return None
    if not _is_longer(shape_of(total)[1], shape_of(node)[1]):
        return None
    emit, out = Emitter(program, node), shape_of(node)[1]
    with emit.before(node):
        short = emit.call(node.target, table, found["matrix"], example=_with_width(table, out))
        rest = (found["weight"], found["structure"])
        made = emit.call(aggregation.weighted_sum, short, *rest, example=node.meta["val"])
        if found["bias"] is not None:
            made = emit.call(aten.add.Tensor, made, found["bias"], example=node.meta["val"])
    return made


def _before(program: Program, node: fx.Node) -> fx.Node | None:
    """``weighted_sum(linear(x, W), w, A)`` of a constant x, or where the product makes rows longer."""
    found = match(_INSIDE, node)
    if found is None or not _is_plain_sum(node) or node.meta["placement"].mirror:
        return None
    product, x, matrix, weight = (found[name] for name in ("product", "x", "matrix", "weight"))
    sync = found.get("table")
    if len(shape_of(product)) != 2 or found["bias"] is not None:
        return None
    if rows_of(x) != rows_of(product) or rows_of(matrix) is not None:
        return None
    constant, once = x in constant_values(program), len(product.users) == len(node.args[0].users) == 1  # type: ignore[union-attr]
    longer = once and _is_longer(shape_of(product)[1], shape_of(x)[1])
    if not (constant or longer) or (weight is not None and rows_of(weight) is None):
        return None
    emit = Emitter(program, node)
    with emit.before(node):
        rows = x
        if sync is not None:
            halo = rows_of(sync)
            assert isinstance(halo, Halo)
            rows = synced(emit, x, halo)
        short = _with_width(node, shape_of(x)[1])
        total = emit.call(aggregation.weighted_sum, rows, weight, found["structure"], example=short)
        return emit.call(product.target, total, matrix, example=node.meta["val"])


def _is_longer(a: Any, b: Any) -> bool:
    """Whether one width is larger than another, both being known."""
    return isinstance(a, int) and isinstance(b, int) and a > b


def _projected(program: Program, node: fx.Node) -> fx.Node | None:
    """``(linear(x, W).view(-1, H, C) * a).sum(-1)`` with the same ``a [1, H, C]`` for every row."""
    for found in matches(_PROJECTION, node):
        x, matrix, a = (found[name] for name in ("x", "matrix", "a"))
        sizes = shape_of(found.get("heads", found["product"]))
        if list(found["dims"]) not in ([-1], [2]) or not isinstance(a, fx.Node):
            continue
        known = rows_of(x) is not None and rows_of(matrix) is None is rows_of(a)
        if not known or len(sizes) != 3 or shape_of(a) != (1, *sizes[1:]) or len(shape_of(x)) != 2:
            continue
        emit = Emitter(program, node)
        with emit.before(node):
            short = emit.call(local_ops.project_weight, matrix, a, example=_projection(matrix, sizes[1]))
            return emit.call(found["product"].target, x, short, example=node.meta["val"])
    return None


def _projection(weight: fx.Node, heads: int) -> Any:
    example = weight.meta["val"]
    with fake_mode_of(example):
        return example.new_empty((heads, example.shape[1]))


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
