"""Extra outputs of a program that a check reads: the values of each exchange, and the ids of each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from graphshard.catalogue.table import made_by
from graphshard.execute.run import Compiled
from graphshard.infer.emitter import Emitter
from graphshard.infer.row_ids import row_ids
from graphshard.ir.placement import Placed
from graphshard.ir.program import Output

SECOND = ", second step"
"""Ends the kinds of values of a second step."""


def exchange_kind(node: fx.Node) -> str | None:
    """What a node brings from other ranks, in words; None for any other."""
    made = made_by(node)
    return made[0].traffic.words if made is not None and made[0].traffic is not None else None


@dataclass(frozen=True)
class Value:
    """One tensor that a check compares.

    Attributes:
        kind: "output", "gradient", "input gradient", "buffer", or of an exchange its ``Traffic.words``; the first
            two also of a second step.
        name: an output's number, a node's name, a state_dict key or an argument's name.
        value: the tensor, detached.
        ids: int64 global ids along dim ``dim``; None where every rank holds the whole tensor.
        dim: the dim of the rows.
    """

    kind: str
    name: str
    value: Tensor
    ids: Tensor | None = None
    dim: int = 0


@dataclass(frozen=True)
class _Slot:
    kind: str
    name: str
    dim: int
    has_ids: bool
    user: bool


@dataclass(frozen=True)
class Probed:
    """A compiled program with probes: its results come with the values to compare."""

    compiled: Compiled
    slots: tuple[_Slot, ...]

    def split(self, results: Sequence[Any]) -> tuple[list[Any], list[Value]]:
        """The results of the program itself, and the values to compare: outputs and exchanges."""
        own = len(results) - sum((not s.user) + s.has_ids for s in self.slots)
        extra = iter(results[own:])
        users = iter(self.compiled.program.user_values(results))
        values = []
        for slot in self.slots:
            tensor = next(users) if slot.user else next(extra)
            ids = next(extra) if slot.has_ids else None
            values.append(Value(slot.kind, slot.name, tensor, ids, slot.dim))
        return list(results[:own]), values


def probe(compiled: Compiled) -> Probed:
    """Add probes for every output and exchange to a copy of the program."""
    stage = compiled.stages[-1]
    program = stage.program.copy()
    output = program.output_node()
    values = list(output.args[0])  # type: ignore[arg-type]
    outputs, slots = list(program.outputs), []

    def add(node: fx.Node | None) -> None:
        values.append(node)
        outputs.append(Output("probe", ""))

    emit = Emitter(program, output)
    users = [v for v, spec in zip(values, outputs, strict=True) if spec.kind == "user"]
    exchanges = [(n, kind) for n in program.graph.nodes if (kind := exchange_kind(n)) is not None]
    with emit.before(output):
        for i, node in enumerate(users):
            slots.append(_slot(emit, add, "output", str(i), node, user=True))
        for node, kind in exchanges:
            add(emit.call(torch.ops.aten.detach.default, node))
            slots.append(_slot(emit, add, kind, node.name, node, user=False))
    output.args = (tuple(values),)
    program.outputs = outputs
    program.graph.lint()
    program.module.recompile()
    last = replace(stage, program=program)
    return Probed(Compiled(compiled.captured, [*compiled.stages[:-1], last]), tuple(slots))


def _slot(emit: Emitter, add: Any, kind: str, name: str, node: fx.Node, *, user: bool) -> _Slot:
    placed = node.meta["placement"]
    assert isinstance(placed, Placed)
    if not placed.sharded:
        return _Slot(kind, name, 0, has_ids=False, user=user)
    dim = placed.sharded[0]
    rows = placed.dims[dim]
    assert rows is not None
    add(row_ids(emit, rows))
    return _Slot(kind, name, dim, has_ids=True, user=user)
