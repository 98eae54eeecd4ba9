"""move_halo_syncs: a sync stands where it is cheapest along the ops that work row by row.

Before::  h = linear(x, W); h_halo = halo_sync(h); out = weighted_sum(h_halo, w, A)
After::   x_halo = halo_sync(x)                        # x is a constant of the graph: paid once
          h_halo = linear(x_halo, W); out = weighted_sum(h_halo, w, A)

or the other way round, where ``linear`` makes rows shorter. Which values are sent and which are computed on halo
rows as well is a minimum cut: bytes of both directions at the speed of the link against the work on one more row.
Both are proportional to the number of halo rows, so the choice does not depend on the graph. A sync of what is
constant costs nothing, so it wins wherever it can.

::

    source -> needed(v) --cost of a sync--> computed(v) --cost of the work--> sink
              needed(u) <--------infinite-------- computed(v)                         for every input u of v

Source of the algorithm: Ford and Fulkerson; ``networkx.minimum_cut``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, ClassVar

import networkx as nx
from torch import fx

from graphshard.infer.constants import constant_values, constants_first
from graphshard.infer.emitter import Emitter
from graphshard.infer.gradient_flow import gradient_flow
from graphshard.infer.halo import synced
from graphshard.infer.placement import place_all
from graphshard.infer.row_by_row import works_row_by_row
from graphshard.ir.placement import Halo, Owned
from graphshard.ir.program import Program, part_of
from graphshard.ir.reason import because
from graphshard.ir.value_numbers import Table, merge_duplicates, same_programs, structure_of
from graphshard.ops import local as local_ops
from graphshard.passes.faster.cost_model import Costs, Speeds
from graphshard.passes.faster.halo_rows import SYNC, is_over, may_move, own_rows, twin


@dataclass(frozen=True)
class MoveHaloSyncs:
    """Move the syncs of each plan; counts those that are gone and those that are new."""

    speeds: Speeds = field(default_factory=Speeds)
    name: ClassVar[str] = "move_halo_syncs"

    def run(self, program: Program) -> int:
        edits = 0
        for halo in _plans(program):
            trial = program.copy()
            _sink(trial, halo)
            _raise(trial, halo, self.speeds)
            trial.graph.eliminate_dead_code()
            if same_programs(program, trial):
                continue
            table: Table = {}
            edits += len(_syncs(program, table) ^ _syncs(trial, table))
            program.module, program.inputs = trial.module, trial.inputs
            place_all(program)
        return edits


def _plans(program: Program) -> list[Halo]:
    placed = (n.meta["placement"].dims[0] for n in program.graph.nodes if n.target is SYNC)
    return list(dict.fromkeys(rows for rows in placed if isinstance(rows, Halo)))


def _syncs(program: Program, table: Table) -> set[int]:
    """What is synced, whatever its nodes are called."""
    known = structure_of(program, table)
    return {known[n] for n in program.graph.nodes if n.target is SYNC}


def _sink(program: Program, halo: Halo) -> None:
    """Let every op that works row by row on halo rows work on owned rows, and sync what it makes."""
    owned = Owned(halo.nodes)
    made: dict[fx.Node, fx.Node] = _ids(program, "node_ids", halo, "owned_ids", owned)
    numbers = set(made)
    for node in list(program.graph.nodes):
        emit, inputs = Emitter(program, node), node.all_input_nodes
        if node.target is SYNC and is_over(node, halo):
            made[node] = node.args[0]
        elif node.target is local_ops.own_rows and node.args[0] in made:
            node.replace_all_uses_with(made[node.args[0]])
        elif _moves(node, halo):
            over = {n for n in inputs if is_over(n, halo)}
            if not over <= made.keys() or over <= numbers:
                continue
            with emit.before(node):
                own = twin(emit, node, made, halo, owned)
                sync = synced(emit, own, halo)
            node.replace_all_uses_with(sync)
            made[sync] = own
    program.graph.eliminate_dead_code()
    merge_duplicates(program)


def _moves(node: fx.Node, rows: Halo | Owned) -> bool:
    return (
        node.op == "call_function"
        and node.target not in (SYNC, local_ops.own_rows, local_ops.pad_halo)
        and is_over(node, rows)
        and may_move(node, rows)
        and works_row_by_row(node, rows)
    )


def _ids(
    program: Program, name: str, rows: Halo | Owned, other: str, others: Halo | Owned
) -> dict[fx.Node, fx.Node]:
    """The ids of these rows, if the program reads them, and in their place those of the others."""
    for spec in list(program.inputs):
        if (spec.kind, spec.target, spec.of) == ("graph", name, part_of(*_names(rows))):
            nodes = program.graph.find_nodes(op="placeholder")
            found = next(n for n in nodes if n.name == spec.name)
            return {found: program.placeholder(other, *_names(others))}
    return {}


def _names(rows: Halo | Owned) -> tuple[str, ...]:
    return (rows.nodes, rows.plan) if isinstance(rows, Halo) else (rows.nodes,)


def _raise(program: Program, halo: Halo, speeds: Speeds) -> None:
    """Put the syncs where they are cheapest, from where they were sunk to."""
    owned = Owned(halo.nodes)
    constants_first(program)
    ids = _ids(program, "owned_ids", owned, "node_ids", halo)
    syncs = [n for n in program.graph.nodes if n.target is SYNC and is_over(n, halo)]
    region = _region(syncs, owned, ids.keys())
    sent, computed = _cut(syncs, region, _costs(program, speeds))
    wide = dict(ids)
    for node in list(program.graph.nodes):
        if node not in sent and node not in computed:
            continue
        emit = Emitter(program, node)
        with emit.after(node):
            wide[node] = synced(emit, node, halo) if node in sent else twin(emit, node, wide, owned, halo)
        if node in sent:
            because(
                wide[node], "rows of ", node, " are the cheapest to send, of all that lead to the halo rows"
            )
        if node in computed:
            with emit.after(wide[node]):
                own = own_rows(emit, wide[node], owned, node.meta["val"])
            node.replace_all_uses_with(own, lambda user, kept=own: user is not kept)
            wide[own] = wide[node]
    for sync in syncs:
        source = sync.args[0]
        assert isinstance(source, fx.Node)
        sync.replace_all_uses_with(wide[source])
    program.graph.eliminate_dead_code()


def _costs(program: Program, speeds: Speeds) -> Costs:
    return Costs(constant_values(program), gradient_flow(program, inputs_need_grad=True), speeds)


def _region(syncs: list[fx.Node], owned: Owned, ids: Collection[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """Every value that a sync could stand behind, and what it is computed from; leaves from nothing."""
    found: dict[fx.Node, list[fx.Node]] = {}
    left: list[Any] = [sync.args[0] for sync in syncs]
    while left:
        node = left.pop()
        if node in found:
            continue
        found[node] = []
        if _moves(node, owned):
            found[node] = [n for n in node.all_input_nodes if is_over(n, owned) and n not in ids]
            left += found[node]
    return found


def _cut(
    syncs: list[fx.Node], region: dict[fx.Node, list[fx.Node]], costs: Costs
) -> tuple[set[fx.Node], set[fx.Node]]:
    """The values that are sent, and those that are computed on halo rows."""
    graph: Any = nx.DiGraph()
    for sync in syncs:
        graph.add_edge("source", (sync.args[0], "needed"))
    for node, inputs in region.items():
        graph.add_edge((node, "needed"), (node, "computed"), capacity=costs.sync(node))
        if inputs:
            graph.add_edge((node, "computed"), "sink", capacity=costs.work(node))
        else:
            graph.add_edge((node, "computed"), "sink")
        for value in inputs:
            graph.add_edge((node, "computed"), (value, "needed"))
    _, (ours, _) = nx.minimum_cut(graph, "source", "sink")
    needed = {node for node in region if (node, "needed") in ours}
    computed = {node for node in region if (node, "computed") in ours}
    return needed - computed, computed
