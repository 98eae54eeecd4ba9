"""Pointwise ops: every output element depends on the input elements at its own (broadcast) position."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from graphshard.catalogue.call import Call, same_rows
from graphshard.catalogue.record import Op, Ops, Rule, Trait, over
from graphshard.ir.calls import calls
from graphshard.ir.placement import Placed, Placement, Rows, joined, reach
from graphshard.private.torch_ops import OpOverload, schema_of

aten = torch.ops.aten


def broadcast_rows(
    call: Call, operands: list[tuple[Placed, tuple[Any, ...]]], ndim: int
) -> tuple[Rows | None, ...]:
    """The rows of each output dim of a broadcast over ``(placement, shape)`` operands."""
    dims: list[Rows | None] = []
    for back in range(ndim, 0, -1):
        sharing = [(p, len(shape) - back) for p, shape in operands if len(shape) >= back]
        rows = same_rows(call, [p for p, _ in sharing], [d for _, d in sharing])
        if rows is not None:
            for (placed, shape), dim in (((p, s), len(s) - back) for p, s in operands if len(s) >= back):
                if placed.dims[dim] is None and not is_one(shape[dim]):
                    call.refuse(
                        f"combines the rows {rows} with a tensor that every rank holds whole",
                        "give it one row, or make it a tensor of the nodes or edges",
                    )
        dims.append(rows)
    if sum(d is not None for d in dims) > 1:
        call.refuse("spreads two different row sets over two dims (an all-pairs tensor)")
    return tuple(dims)


def pointwise(call: Call) -> Placement:
    """Any op that PyTorch tags as pointwise, and a few that it forgot to tag."""
    tensors = [v for v in _flat(call.args.values()) if isinstance(v, fx.Node)]
    operands = [(call.values(v), call.shape(v)) for v in tensors]
    ndim = max((len(shape) for _, shape in operands), default=0)
    dims = broadcast_rows(call, operands, ndim)
    uniform = all(p.uniform for p, _ in operands if p.sharded) and any(p.sharded for p, _ in operands)
    return Placed(dims, uniform=uniform)


def identity(call: Call) -> Placement:
    """Ops that copy, alias or cast: node numbers stay node numbers unless they become floats."""
    placed = call.tensor("self")
    value = call.node.meta.get("val")
    if placed.points is not None and isinstance(value, torch.Tensor) and value.dtype not in _INDEX_DTYPES:
        return call.values("self")
    for other in call.node.all_input_nodes:
        call.raw(other)
    return placed


def compare(call: Call) -> Placement:
    """``eq`` / ``ne``: two local node numbers are equal exactly where their global ids are."""
    left, right = call["self"], call["other"]
    if not (isinstance(left, fx.Node) and isinstance(right, fx.Node)):
        return pointwise(call)
    a, b = call.raw(left), call.raw(right)
    if not (isinstance(a, Placed) and isinstance(b, Placed)):
        return pointwise(call)
    pa, pb = reach(a.points), reach(b.points)
    if pa is None or pb is None or isinstance(a.points, tuple) or isinstance(b.points, tuple):
        return pointwise(call)
    if joined(pa, pb) is None:  # of two node sets or two halos: one number means two nodes
        return pointwise(call)
    ndim = max(len(a.dims), len(b.dims))
    dims = broadcast_rows(call, [(a, call.shape(left)), (b, call.shape(right))], ndim)
    loops: frozenset[tuple[str, int | None]] = frozenset()
    if None in (pa.plan, pb.plan) and ndim == 1 and a.dims == b.dims:
        loops = frozenset({call.key(left), call.key(right)})
    equal = calls(call.node, aten.eq)
    return Placed(dims, loops=loops if equal else frozenset(), complement=frozenset() if equal else loops)


def negate(call: Call) -> Placement:
    """``~mask``: what the mask dropped is now kept."""
    placed = call.values("self")
    return Placed(placed.dims, uniform=placed.uniform, loops=placed.complement, complement=placed.loops)


def broadcast_tensors(call: Call) -> Placement:
    """Each tensor expanded to the common shape."""
    tensors = list(call["tensors"])
    operands = [(call.values(t), call.shape(t)) for t in tensors]
    ndim = max(len(shape) for _, shape in operands)
    dims = broadcast_rows(call, operands, ndim)
    return tuple(Placed(dims) for _ in tensors)


def prelu(call: Call) -> Placement:
    """``prelu(x, weight)``: the weight has one entry, or one for each index of dim 1."""
    placed, weight = call.values("self"), call.tensor("weight")
    if weight.sharded:
        call.refuse("takes a weight that is not the same on every rank")
    if placed.dims[1:2] != (None,) and len(placed.dims) > 1 and not is_one(call.shape("weight")[0]):
        call.refuse("has one weight for each of the rows that are spread over the ranks")
    return placed.plain()


def find(target: Any) -> Rule | None:
    """The rule of a pointwise op, by PyTorch's own ``pointwise`` tag; random ops are never pointwise."""
    if not isinstance(target, OpOverload) or target.namespace not in ("aten", "prims"):
        return None
    if torch.Tag.nondeterministic_seeded in target.tags or schema_of(target).is_mutable:
        return None
    returns = schema_of(target).returns
    if len(returns) != 1 or not isinstance(returns[0].type, torch.TensorType):
        return None
    return pointwise if torch.Tag.pointwise in target.tags else None


def is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


def _flat(values: Any) -> list[Any]:
    flat: list[Any] = []
    for value in values:
        flat.extend(_flat(value) if isinstance(value, (list, tuple)) else [value])
    return flat


_INDEX_DTYPES = (torch.int64, torch.int32)

OPS: Ops = {
    **over((aten.detach.default, aten.detach_.default), Op(identity, Trait.STOPS_GRADIENT)),
    **over(
        (
            *(aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar),
            *(aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar),
        ),
        Op(pointwise, Trait.FRESH),
    ),
    aten.eq.Tensor: compare,
    aten.ne.Tensor: compare,
    aten.logical_not.default: negate,
    aten.bitwise_not.default: negate,
    aten.broadcast_tensors.default: broadcast_tensors,
    aten.prelu.default: prelu,
    aten._prelu_kernel.default: pointwise,
    **over(
        (
            aten.alias.default,
            aten.clone.default,
            aten.contiguous.default,
            aten._to_copy.default,
            aten.to.dtype,
            aten.to.dtype_layout,
            aten.to.device,
            aten.lift_fresh_copy.default,
            aten.lift_fresh.default,
            aten.type_as.default,
            aten.conj.default,
            aten.resolve_conj.default,
            aten.resolve_neg.default,
        ),
        identity,
    ),
    **over(
        (
            aten.masked_fill.Tensor,
            aten.__and__.Tensor,
            aten.__and__.Scalar,
            aten.__or__.Tensor,
            aten.__or__.Scalar,
            aten.__xor__.Tensor,
            aten.__xor__.Scalar,
            aten.multiply.Tensor,
            aten.subtract.Tensor,
            aten.divide.Tensor,
            aten.negative.default,
            aten.absolute.default,
            aten.greater.Tensor,
            aten.greater.Scalar,
            aten.greater_equal.Tensor,
            aten.greater_equal.Scalar,
            aten.less.Tensor,
            aten.less.Scalar,
            aten.less_equal.Tensor,
            aten.less_equal.Scalar,
            aten.isclose.default,
            aten.isreal.default,
            aten.selu.default,
            aten.log_sigmoid.default,
            aten.hardswish.default,
            aten.leaky_relu.default,  # tagged since torch 2.12
            aten.where.ScalarSelf,
            aten.where.ScalarOther,
            aten.where.Scalar,
            aten.relu6.default,
            aten.logaddexp.default,
            aten.complex.default,
            aten.polar.default,
            aten.float_power.Tensor_Scalar,
            aten.true_divide.Tensor,
            aten.nan_to_num.default,
            aten.special_xlogy.default,
            aten.xlogy.Tensor,
            aten.special_i0.default,
            aten.special_i1.default,
            aten.isfinite.default,
            aten.nextafter.default,
            aten.where.self,
        ),
        pointwise,
    ),
}
