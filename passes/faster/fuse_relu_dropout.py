"""fuse_relu_dropout: a rectifier and the dropout of its result are one op, which keeps two bits for each element.

Before::  r = relu(h); y = dropout_rows(r, owned_ids, dim=0, p=0.5, key, site=0)     # backward keeps r
After::   y = relu_dropout(h, owned_ids, dim=0, p=0.5, key, site=0)                  # one pass; ``r`` is never made

Values and gradients keep their bits, where they are infinite or NaN too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from graphshard.infer.constants import constant_values
from graphshard.infer.emitter import Emitter
from graphshard.ir.calls import calls
from graphshard.ir.program import Program
from graphshard.ops import dropout


@dataclass(frozen=True)
class FuseReluDropout:
    """Fuse each dropout with the rectifier before it, if nothing else reads that; counts them."""

    name: ClassVar[str] = "fuse_relu_dropout"

    def run(self, program: Program) -> int:
        edits = 0
        constants = constant_values(program)
        for node in list(program.graph.nodes):
            relu = _rectifier(node, constants)
            if relu is None:
                continue
            emit = Emitter(program, node)
            with emit.before(node):
                value, arguments = relu.args[0], node.args[1:]
                made = emit.call(dropout.relu_dropout, value, *arguments, example=node.meta["val"])
            node.replace_all_uses_with(made)
            for old in (node, relu):
                program.graph.erase_node(old)
            edits += 1
        return edits


def _rectifier(node: fx.Node, constants: frozenset[fx.Node]) -> fx.Node | None:
    """The relu that a dropout, and nothing else, reads. One that is a constant of the graph is computed once."""
    if node.target is not dropout.dropout_rows:
        return None
    relu: Any = node.args[0]
    drops_all = node.args[3] >= 1  # type: ignore[operator]
    alone = len(relu.users) == 1 and relu not in constants
    return relu if calls(relu, torch.ops.aten.relu) and alone and not drops_all else None
