"""sort_edges: edges are numbered in the order of the rows that they are summed into.

Before::  A = edge_structure(dst, src, n, n + h); out = weighted_sum(x, w, A)
After::   order = edge_order(dst)                                     # once for each graph
          A = edge_structure(dst[order], src[order], n, n + h)
          out = weighted_sum(x, w[order], A)

Then a kernel reads the numbers of a row's edges one after the other. Where every value over the edges is computed
in the program from node rows (attention scores), only the ends are sorted; what comes from outside is sorted once
where it is a constant of the graph. Edges whose values the program returns, or picks from by a mask, keep their
order. The order is stable, so sums add their terms as before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from graphshard.errors import UnsupportedOperation
from graphshard.infer.constants import constant_values, last_of
from graphshard.infer.emitter import Emitter
from graphshard.infer.placement import infer, place_all
from graphshard.infer.row_by_row import works_row_by_row
from graphshard.ir.placement import Placed, Rows, Sorted
from graphshard.ir.program import Program
from graphshard.ir.value_numbers import restore_order
from graphshard.ops import aggregation

_MAKERS = (aggregation.gather, aggregation.dots, aggregation.edge_softmax)
"""Values over edges that follow the structure's numbering by themselves."""
_READERS = (
    aggregation.weighted_sum,
    aggregation.segment_sum,
    aggregation.edge_softmax,
    aggregation.edge_extreme,
)


@dataclass(frozen=True)
class SortEdges:
    """Renumber each set of edges where that changes nothing else; counts the sets."""

    name: ClassVar[str] = "sort_edges"

    def run(self, program: Program) -> int:
        edits = 0
        for edges in _sets(program):
            trial = program.copy()
            if not _sort(trial, edges):
                continue
            try:
                infer(trial)
            except UnsupportedOperation:  # some value meets others in the old order after all
                continue
            program.module, program.inputs = trial.module, trial.inputs
            place_all(program)
            edits += 1
        return edits


def _sets(program: Program) -> list[Rows]:
    """The sets of edges that there are structures of."""
    structures = (n for n in program.graph.nodes if n.target is aggregation.edge_structure)
    return list(dict.fromkeys(node.meta["placement"].edges for node in structures))


def _sort(program: Program, edges: Rows) -> bool:
    """Sort one set of edges by the rows of the first structure that sums into rows, if that may be."""
    structures = [
        n
        for n in program.graph.nodes
        if n.target is aggregation.edge_structure and n.meta["placement"].edges == edges
    ]
    constants = constant_values(program)
    readers = [user for s in structures for user in s.users]
    stepwise = [n for n in program.graph.nodes if n not in constants and _runs_over(n, edges)]
    main = next((s for s in structures if any(_sums(user) for user in s.users)), None)
    if (
        main is None
        or isinstance(edges, Sorted)
        or not all(_may_be_sorted(n, edges, readers) for n in stepwise)
    ):
        return False
    row: Any = main.args[0]
    emit = Emitter(program, row)
    with emit.after(row):
        order = emit.call(aggregation.edge_order, row, example=row.meta["val"])
    sorter = _Sorter(program, order)
    for node in (*structures, *readers, *stepwise):
        for value in node.all_input_nodes:
            if value in constants and _runs_over(value, edges):
                node.replace_input_with(value, sorter.sorted(value))
    restore_order(program)
    return True


class _Sorter:
    """Constants over the edges in their new order, each once."""

    def __init__(self, program: Program, order: fx.Node) -> None:
        self.program, self.order = program, order
        self.made: dict[fx.Node, fx.Node] = {}

    def sorted(self, value: fx.Node) -> fx.Node:
        if value not in self.made:
            emit, name = Emitter(self.program, value), f"{value.name}_sorted"
            numbers = value.target is aggregation.edge_numbers
            source = self.sorted(value.all_input_nodes[0]) if numbers else value
            with emit.after(last_of(self.program, source, self.order)):
                # Numbers of edges are 0, 1, 2, ... in the new order too.
                args = (
                    (aggregation.edge_numbers, source)
                    if numbers
                    else (aggregation.sort_edges, value, self.order)
                )
                self.made[value] = emit.call(*args, name=name, example=value.meta["val"])
        return self.made[value]


def _runs_over(node: fx.Node, edges: Rows) -> bool:
    placed = node.meta.get("placement")
    return isinstance(placed, Placed) and edges in placed.dims


def _sums(user: fx.Node) -> bool:
    """Whether it reduces over the rows of its structure."""
    return user.target in _READERS


def _may_be_sorted(node: fx.Node, edges: Rows, readers: list[fx.Node]) -> bool:
    """Whether a value over the edges is made, and read, without regard to their order."""
    if node.meta["placement"].dims[0] != edges:
        return False
    made = node.target in _MAKERS or works_row_by_row(node, edges)
    return made and all(
        (user in readers and user.target in _READERS)
        or (_runs_over(user, edges) and works_row_by_row(user, edges))
        for user in node.users
    )
