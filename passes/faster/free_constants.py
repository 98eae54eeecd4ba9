"""free_constants: what takes only a dtype, a device or a size from a value no longer waits for it.

Before::  count = new_zeros(message, [n]); size = message.size(0)
After::   count = full([n], 0, dtype); size = edge_ids.size(0)

``message`` may then be freed, and what depends on nothing else is a constant of the graph (degrees, the zeros of
a scatter).
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from graphshard.infer.constants import constant_size, constant_values, constants_first
from graphshard.infer.emitter import Emitter
from graphshard.ir.calls import calls
from graphshard.ir.placement import Placed, Size
from graphshard.ir.program import Program
from graphshard.ir.value_numbers import merge_duplicates

aten = torch.ops.aten


@dataclass(frozen=True)
class FreeConstants:
    """Rewrite fills that look at a value, and sizes of values of the step; counts both."""

    name: ClassVar[str] = "free_constants"

    def run(self, program: Program) -> int:
        edits = 0
        while freed := _free_all(program):  # what one walk freed may make constants of what read it
            edits += freed
        merge_duplicates(program)
        return edits


def _free_all(program: Program) -> int:
    """One walk: everything that depends on what is a constant now, or was freed in this walk; counts it."""
    anchor, edits = constants_first(program), 0
    constants = set(constant_values(program))
    for node in list(program.graph.nodes):
        free = _FREED.get(node.target)
        template = node.args[0] if free is not None and node.args else None
        # Also a constant that looks at a constant: what it looks at may be large.
        if free is None or not isinstance(template, fx.Node) or template.op == "placeholder":
            continue
        if free is _counted and node in constants:
            continue
        emit = Emitter(program, node)
        with emit.before(anchor):
            made = free(emit, node, constants)
        if made is not None:
            constants.add(made)
            node.replace_all_uses_with(made)
            if anchor is node:
                anchor = node.next
            program.graph.erase_node(node)
            edits += 1
    return edits


def _filled(value: float | None) -> Callable[[Emitter, fx.Node, Set[fx.Node]], fx.Node | None]:
    """A fill by a constant, or by the op's own ``fill_value``."""

    def free(emit: Emitter, node: fx.Node, constants: Set[fx.Node]) -> fx.Node | None:
        like = calls(node, aten.zeros_like, aten.ones_like, aten.full_like)
        fill = value if value is not None else node.args[1 if like else 2]
        if not isinstance(fill, (bool, int, float)):
            return None
        size = _shape(emit, node) if like else list(node.args[1])  # type: ignore[arg-type]
        if size is None or not all(s in constants for s in size if isinstance(s, fx.Node)):
            return None
        example = node.meta["val"]
        options = {"dtype": example.dtype, "device": example.device}
        return emit.call(aten.full.default, size, fill, name=f"{node.name}_full", example=example, **options)

    return free


def _shape(emit: Emitter, node: fx.Node) -> list[Any] | None:
    """The sizes of a value, those of rows as constants of the graph."""
    sizes: list[Any] = []
    placed = node.meta["placement"]
    assert isinstance(placed, Placed)
    for rows, size in zip(placed.dims, node.meta["val"].shape, strict=True):
        found = size if rows is None else constant_size(emit, rows, size)
        if found is None or isinstance(found, torch.SymInt):
            return None
        sizes.append(found)
    return sizes


def _counted(emit: Emitter, node: fx.Node, _: Set[fx.Node]) -> fx.Node | None:
    """``x.size(dim)``, where the rows of that dim have a constant that counts them."""
    placement = node.meta["placement"]
    if not isinstance(placement, Size) or len(placement.rows) != 1:
        return None
    return constant_size(emit, placement.rows[0], node.meta["val"])


_FREED = {
    aten.sym_size.int: _counted,
    aten.new_zeros.default: _filled(0),
    aten.new_ones.default: _filled(1),
    aten.new_full.default: _filled(None),
    aten.zeros_like.default: _filled(0),
    aten.ones_like.default: _filled(1),
    aten.full_like.default: _filled(None),
}
