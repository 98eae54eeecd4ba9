"""Ops between values that every rank holds whole: each rank computes the same, so the result is whole too.

This is the one rule that asks nothing of an op: equal inputs give equal results on every rank, and as a backward
is linear in its cotangent, the gradient's terms add up over the ranks as for any replicated value. It holds for
what is deterministic and writes into none of its inputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from graphshard.catalogue.call import Call
from graphshard.catalogue.record import Rule
from graphshard.ir.placement import Placed, Placement, Size
from graphshard.private.torch_ops import OpOverload, schema_of


def find(node: fx.Node, placements: Any) -> Rule | None:
    """The rule for an op without a rule of its own, all of whose inputs are the same on every rank."""
    target = node.target
    if not isinstance(target, OpOverload) or target.namespace not in ("aten", "prims"):
        return None
    if torch.Tag.nondeterministic_seeded in target.tags or schema_of(target).is_mutable:
        return None
    inputs = [placements[n] for n in node.all_input_nodes]
    return same_everywhere if inputs and all(map(_is_whole, inputs)) else None


def same_everywhere(call: Call) -> Placement:
    """The same inputs on every rank, hence the same result."""
    for node in call.node.all_input_nodes:
        call.tensor(node)
    value = call.node.meta["val"]
    if isinstance(value, torch.Tensor):
        return _whole(value)
    if isinstance(value, (list, tuple)):
        return tuple(_whole(v) for v in value)
    return Size()


def _whole(value: Any) -> Placement:
    return Placed((None,) * value.dim()) if isinstance(value, torch.Tensor) else Size()


def _is_whole(placement: Any) -> bool:
    if isinstance(placement, Size):
        return not placement.rows and not placement.number
    return isinstance(placement, Placed) and not placement.sharded and placement.points is None
