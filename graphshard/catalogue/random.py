"""Random values over rows: the same on any number of ranks once ``distribute_random`` has rewritten them."""

from __future__ import annotations

import torch

from graphshard.catalogue.call import Call
from graphshard.catalogue.create import filled
from graphshard.catalogue.edits import RandomOverRows
from graphshard.catalogue.record import Op, Ops, Trait, over
from graphshard.ir.placement import Placed, Placement

aten = torch.ops.aten


def like(call: Call) -> Placement:
    """``rand_like``, ``bernoulli``, ``exponential_``: a value for each element of another tensor."""
    placed = call.tensor("self" if "self" in call.args else "input")
    for node in call.node.all_input_nodes:
        if call.tensor(node).sharded and call.shape(node) != call.shape(call.node.all_input_nodes[0]):
            call.refuse("takes parameters over other rows")
    if call.get("train", call.get("training", True)) is False:
        return call.values("self" if "self" in call.args else "input").plain()
    call.edits.append(RandomOverRows(call.node))
    return Placed(placed.dims)


def sized(call: Call) -> Placement:
    """``rand(n, 4)``: rows from the size."""
    placed = filled(call)
    assert isinstance(placed, Placed)
    call.edits.append(RandomOverRows(call.node))
    return Placed(placed.dims)


def permutation(call: Call) -> Placement:
    """A random order of all rows moves them between ranks."""
    call.refuse(
        "shuffles rows over all ranks, so every row would move to another rank",
        "draw new features with torch.randn_like, or shuffle before partitioning and pass the result as a node tensor",
    )


OPS: Ops = {
    **over(
        (
            aten.rand_like.default,
            aten.randn_like.default,
            aten.randint_like.default,
            aten.randint_like.low_dtype,
            aten.bernoulli.default,
            aten.bernoulli.p,
        ),
        Op(like, Trait.STOPS_GRADIENT),
    ),
    **over(
        (
            aten.exponential.default,
            aten.uniform.default,
            aten.normal_functional.default,
            aten.rrelu.default,
            aten.alpha_dropout.default,
            aten.feature_dropout.default,
        ),
        like,
    ),
    **over((aten.rand.default, aten.randn.default), sized),
    aten.randperm.default: permutation,
}
