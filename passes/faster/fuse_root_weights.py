"""fuse_root_weights: a sum over neighbours and the own row, each times a matrix, are one op that keeps its input alone.

Before::  a = linear(streamed_sum(h, w, A), N, b); out = add(a, linear(h, R))    # backward keeps the sum
After::   out = rooted_sum(h, w, A, N, R, b)                                     # and adds gradients of h in place

Where the matrix keeps the width, or comes before the sum: then gradients that travel are as wide as the rows did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from graphshard.catalogue.call import shape_of
from graphshard.infer.constants import constant_values
from graphshard.infer.emitter import Emitter
from graphshard.infer.match import Found, call, either, matches
from graphshard.ir.program import Program
from graphshard.ir.reason import because
from graphshard.ops import rooted, streamed
from graphshard.passes.faster.patterns import rows_of

aten = torch.ops.aten


@dataclass(frozen=True)
class FuseRootWeights:
    """Fuse each pair of linear layers over neighbours and over the own row; counts them."""

    name: ClassVar[str] = "fuse_root_weights"

    def run(self, program: Program) -> int:
        edits = 0
        constants = constant_values(program)
        for node in list(program.graph.nodes):
            found = None if node in constants else _layer(node)
            if found is not None:
                _fuse(program, node, found)
                edits += 1
        program.graph.eliminate_dead_code()
        return edits


def _linear(x: Any, matrix: str, bias: str, name: str) -> Any:
    return call(aten.linear.default, x, matrix, optional=(bias,), name=name)


_OF_SUM = (
    *("weight", "scale", "structure"),
    *("send_index", "send_splits", "recv_splits", "group", "num_nodes"),
)


def _sum(x: Any) -> Any:
    return call(streamed.streamed_sum, x, *_OF_SUM, name="sum")


_ROOT = _linear("own", "root", "root_bias", "of_root")
_SUM_FIRST = _linear(_sum("x"), "neighbour", "bias", "of_neighbours")
_SUM_LAST = _sum(_linear("x", "neighbour", "no_bias", "of_neighbours"))
_BIASED = call(aten.add.Tensor, _SUM_LAST, "added_bias", name="biased")
_LAYER = call(aten.add.Tensor, either(_SUM_FIRST, _BIASED, _SUM_LAST), _ROOT, commutes=True)


def _layer(node: fx.Node) -> Found | None:
    """The parts of a layer whose result ``node`` is, if nothing else reads what lies between."""
    return next((found for found in matches(_LAYER, node) if _fits(found)), None)


def _fits(found: Found) -> bool:
    between = [found[name] for name in ("of_root", "of_neighbours", "sum", "biased") if name in found]
    if found["own"] is not found["x"] or any(len(n.users) != 1 for n in between):
        return False
    if len(_biases(found)) > 1 or found.get("no_bias") is not None or len(shape_of(found["x"])) != 2:
        return False
    outputs, inputs = shape_of(found["neighbour"])
    if any(not isinstance(bias, fx.Node) or shape_of(bias) != (outputs,) for bias in _biases(found)):
        return False
    return _is_whole(found) and ("no_bias" in found or outputs == inputs)


def _is_whole(found: Found) -> bool:
    """Whether the matrices are the same on every rank."""
    return all(rows_of(found[name]) is None for name in ("neighbour", "root"))


def _biases(found: Found) -> list[Any]:
    return [b for name in ("bias", "root_bias", "added_bias") if (b := found.get(name)) is not None]


def _fuse(program: Program, node: fx.Node, found: Found) -> None:
    emit = Emitter(program, node)
    bias = next(iter(_biases(found)), None)
    with emit.before(node):
        made = emit.call(
            rooted.rooted_sum,
            *(found[name] for name in ("x", *_OF_SUM)),
            *(found["neighbour"], found["root"], bias, "no_bias" not in found),
            example=node.meta["val"],
        )
        because(made, "the sum over neighbours is not kept: backward makes what it needs on its way home")
    node.replace_all_uses_with(made)
    program.graph.erase_node(node)
