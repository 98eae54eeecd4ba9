"""Run a distributed program on one rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from graphshard.capture.export import Captured
from graphshard.execute.constants import Constants, Split, apart, split
from graphshard.ir.placement import Placement
from graphshard.ir.program import Program, Stage, part_of
from graphshard.kernels.random_bits import random_key
from graphshard.ops.zero_gradient import with_zero_gradients
from graphshard.options import Options
from graphshard.passes.pipeline import Pipeline
from graphshard.shard.placed import plain
from graphshard.shard.shard import Shard

Leaf = tuple[str, str]
"""``("parameter", state_dict key)`` or ``("user", number of the flat input)``, as an ``Input``'s kind and target."""


@dataclass(frozen=True)
class Compiled:
    """A captured module with every stage of its compilation; the last stage runs.

    Attributes:
        lost: for each tensor that forward returns, what its backward has to give zeros to: the program does not read
            it for this output, and the module does.
    """

    captured: Captured
    stages: list[Stage]
    lost: tuple[tuple[Leaf, ...], ...] = ()

    @cached_property
    def split(self) -> Split | None:
        """The program in the part that is run once for each graph, and that of every step."""
        return split(self.program)

    @property
    def program(self) -> Program:
        return self.stages[-1].program

    @cached_property
    def output_placements(self) -> list[Placement]:
        """What each of forward's own outputs is, in order."""
        return [node.meta["placement"] for node in self.program.user_outputs()]

    @property
    def has_dropout(self) -> bool:
        """Whether its results depend on the dropout key."""
        return any(spec.target == "dropout_key" for spec in self.program.inputs)


def compile_captured(captured: Captured, options: Options | None = None) -> Compiled:
    """Run the passes that ``options`` ask for (by default all) over a captured module.

    Raises:
        UnsupportedOperation: it cannot be distributed exactly.
    """
    return Compiled(captured, Pipeline((options or Options()).all_passes()).run(captured.program))


@dataclass(frozen=True)
class State:
    """The tensors of a module by their state_dict keys, non-persistent buffers included; node parameters as rows."""

    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module) -> State:
        return cls(
            {name: plain(p) for name, p in model.named_parameters(remove_duplicate=False)},
            {name: plain(b) for name, b in model.named_buffers(remove_duplicate=False)},
        )


@dataclass(frozen=True)
class Outputs:
    """What one forward returned.

    Attributes:
        compiled: the program.
        values: this rank's tensors, in order.
        ids: of rows that are not all of a set, by what they are called: their places in the whole, int64 ``[rows]``.
    """

    compiled: Compiled
    values: list[Tensor]
    ids: dict[str, Tensor]

    @property
    def placements(self) -> list[Placement]:
        """What each value is."""
        return self.compiled.output_placements

    def restore(self) -> Any:
        """Forward's return value, and a list of what it leaves on its modules."""
        return self.compiled.captured.restore_outputs(self.values)


GraphParts = dict[tuple[str, tuple[str, ...]], Any]
"""The parts of a shard by ``Input.target`` and ``Input.of``."""


def graph_inputs(shard: Shard, group: str, dropout_key: tuple[int, int]) -> GraphParts:
    """The parts of a shard that a program can ask for (``graphshard.ir.program.GRAPH_INPUTS``)."""
    parts: GraphParts = {("group", ()): group, ("dropout_key", ()): random_key(*dropout_key)}
    for name, nodes in shard.node_sets.items():
        parts["num_nodes", part_of(name)] = nodes.num_nodes
        parts["owned_ids", part_of(name)] = nodes.owned_ids
        for plan, halo in nodes.plans.items():
            of = part_of(name, plan)
            parts["send_index", of] = halo.send_index
            parts["send_splits", of] = list(halo.send_splits)
            parts["recv_splits", of] = list(halo.recv_splits)
            parts["node_ids", of] = nodes.node_ids[plan]
    for name, edges in shard.edge_sets.items():
        parts["num_edges", part_of(name)] = edges.num_edges
        parts["edge_ids", part_of(name)] = edges.edge_ids
    return parts


def program_inputs(program: Program, state: State, flat: Sequence[Tensor], graph: GraphParts) -> list[Any]:
    """The values of a program's placeholders, in order.

    Buffers that the program replaces are handed in as copies: their values before the step may be needed by
    its backward.
    """
    replaced = {spec.target for spec in program.outputs if spec.kind == "buffer"}
    values: list[Any] = []
    for spec in program.inputs:
        if spec.kind == "parameter":
            values.append(state.parameters[spec.target])
        elif spec.kind == "buffer":
            buffer = state.buffers[spec.target]
            values.append(buffer.clone() if spec.target in replaced else buffer)
        elif spec.kind == "constant":
            values.append(program.constants[spec.target].to(_device(flat)))
        elif spec.kind == "user":
            values.append(flat[int(spec.target)])
        else:
            values.append(graph[spec.target, spec.of])
    return values


def run(
    compiled: Compiled, state: State, flat: Sequence[Tensor], graph: GraphParts, constants: Constants
) -> Outputs:
    """One forward; buffers that it changes are changed in ``state``.

    Args:
        constants: the model's, of the steps before.
    """
    inputs = program_inputs(compiled.program, state, flat, graph)
    if (part := compiled.split) is None:
        results = compiled.program.module(*inputs)
    else:
        kept = constants.of(part, inputs, graph["group", ()])
        results = apart(part.step(*inputs, *kept), kept)
    return _finish(compiled, state, flat, results)


def _finish(compiled: Compiled, state: State, flat: Sequence[Tensor], results: Sequence[Any]) -> Outputs:
    """Write the buffers that the program replaced, and sort out the rest."""
    users, ids = [], {}
    with torch.no_grad():
        for spec, value in zip(compiled.program.outputs, results, strict=True):
            if spec.kind == "buffer":
                state.buffers[spec.target].copy_(value)
            elif spec.kind == "ids":
                ids[spec.target] = value
            else:
                users.append(value)
    for number, leaves in enumerate(compiled.lost):
        values = [state.parameters[t] if kind == "parameter" else flat[int(t)] for kind, t in leaves]
        users[number] = with_zero_gradients(users[number], values)
    return Outputs(compiled, users, ids)


def _device(flat: Sequence[Tensor]) -> torch.device:
    return flat[0].device if flat else torch.device("cpu")
